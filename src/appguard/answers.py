"""The answers to refused requests: status, headers and body, as text or problem+json (RFC 9457)."""

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache

from appguard.guard import Refusal

PHRASES = {403: "Forbidden", 429: "Too Many Requests"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Write the headers as ASGI wants them, once for all answers that are the same."""
        raw = tuple((name.encode(), value.encode()) for name, value in self.headers)
        object.__setattr__(self, "raw_headers", raw)

    @property
    def phrase(self) -> str:
        """Give the reason phrase of the status."""
        return PHRASES[self.status]


def answer(refusal: Refusal, accept: str) -> Answer:
    """Give the answer to a refused request; `accept` is its Accept header."""
    accept = accept.lower()
    is_json = "application/json" in accept or "application/problem+json" in accept
    if refusal.ban is not None:
        return _answer(refusal.status, 0, refusal.ban.ref, is_json)
    return _answer(refusal.status, max(1, math.ceil(refusal.wait or 0)), "", is_json)


@lru_cache(maxsize=1024)
def _answer(status: int, seconds: int, reference: str, is_json: bool) -> Answer:
    headers = [("cache-control", "no-store")]
    if reference:
        detail = f"This address is banned. To have it lifted, quote the reference {reference}."
    else:
        headers.append(("retry-after", str(seconds)))
        detail = f"Too many requests. Try again in {seconds} s."
    if is_json:
        kind = "application/problem+json"
        problem = {"title": PHRASES[status], "status": status, "detail": detail}
        if reference:
            problem["reference"] = reference
        body = json.dumps(problem).encode()
    else:
        kind = "text/plain; charset=utf-8"
        body = f"{detail}\n".encode()
    return Answer(status, (*headers, ("content-type", kind), ("content-length", str(len(body)))), body)
