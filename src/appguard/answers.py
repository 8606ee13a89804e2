"""The answers to refused requests: status, headers and body, as text or problem+json (RFC 9457)."""

import json
import math
from dataclasses import dataclass

from appguard.guard import Refusal

PHRASES = {403: "Forbidden", 429: "Too Many Requests"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def phrase(self) -> str:
        """Give the reason phrase of the status."""
        return PHRASES[self.status]


def answer(refusal: Refusal, accept: str) -> Answer:
    """Give the answer to a refused request; `accept` is its Accept header."""
    accept = accept.lower()
    headers = [("cache-control", "no-store")]
    if refusal.ban is not None:
        detail = f"This address is banned. To have it lifted, quote the reference {refusal.ban.ref}."
    else:
        seconds = max(1, math.ceil(refusal.wait or 0))
        headers.append(("retry-after", str(seconds)))
        detail = f"Too many requests. Try again in {seconds} s."
    if "application/json" in accept or "application/problem+json" in accept:
        kind = "application/problem+json"
        problem = {"title": PHRASES[refusal.status], "status": refusal.status, "detail": detail}
        if refusal.ban is not None:
            problem["reference"] = refusal.ban.ref
        body = json.dumps(problem).encode()
    else:
        kind = "text/plain; charset=utf-8"
        body = f"{detail}\n".encode()
    return Answer(refusal.status, (*headers, ("content-type", kind), ("content-length", str(len(body)))), body)
