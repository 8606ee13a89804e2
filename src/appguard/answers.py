"""The answers to refused requests: status, headers and body, as text, problem+json (RFC 9457) or the app's own.

A refusal by a limit tells its policy and its state in the two fields of draft-ietf-httpapi-ratelimit-headers-10, in the
older `X-RateLimit-*`, in both or in none. The draft may still change; its names stand here and nowhere else.
"""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus

from appguard.guard import Refusal
from appguard.request import Request

HEADERS = ("draft", "legacy", "both", "none")
_JSON = re.compile(r"application/(?:problem\+)?json")
BAN_TEXT = "This address is banned. To have it lifted, quote the reference {reference}."
MEMO_MOST = 1024

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Write the headers as ASGI wants them, once for all answers that are the same."""
        raw = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers)
        object.__setattr__(self, "raw_headers", raw)

    @classmethod
    def of(
        cls, status: int, content: str | bytes | Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> "Answer":
        """Make an answer of a text, of bytes, or of what JSON can hold; `content-type` may be among the headers."""
        if isinstance(content, Mapping):
            kind, body = "application/json", json.dumps(dict(content)).encode()
        else:
            kind, body = "text/plain; charset=utf-8", content.encode() if isinstance(content, str) else content
        given = {name.lower(): value for name, value in (headers or {}).items()}
        usual = {"cache-control": "no-store", "content-type": kind}
        return cls(status, tuple((usual | given | {"content-length": str(len(body))}).items()), body)

    @property
    def phrase(self) -> str:
        """Give the reason phrase of the status."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Refused"


OwnAnswer = Callable[[Refusal, Request], Answer | None]


class Answers:
    """How one app answers: `headers` is one of `HEADERS`, `own` may answer instead, None leaves it to this."""

    def __init__(
        self, headers: str = "draft", ban_status: int = 403, ban_text: str = BAN_TEXT, own: OwnAnswer | None = None
    ) -> None:
        self._headers = headers
        self._ban_status = ban_status
        self._ban_text = ban_text
        self._own = own
        self.has_own = own is not None
        self._has_times = headers in ("legacy", "both")
        self._has_failed = False
        self._answer = lru_cache(maxsize=MEMO_MOST)(self._make)

    def own(self, refusal: Refusal, request: Request) -> Answer | None:
        """Give the app's own answer to a refused request, None where it leaves that to `usual`."""
        if self._own is None:
            return None
        try:
            return self._own(refusal, request)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything, and a refusal stays one
            if not self._has_failed:
                self._has_failed = True
                log.error("response failed, refused requests get the usual answer: %s: %s", type(error).__name__, error)
            return None

    def usual(self, refusal: Refusal, accept: str) -> Answer:
        """Give the answer to a refused request whose Accept header this is."""
        is_json = "json" in (accept := accept.lower()) and _JSON.search(accept) is not None
        limit, rate = refusal.limit, refusal.rate
        if limit is None or rate is None:
            return self._answer(refusal.status, 0, refusal.ban.ref if refusal.ban else "", is_json)
        seconds = max(1, math.ceil(refusal.wait or 0))
        now = int(time.time()) if self._has_times else 0
        return self._answer(429, seconds, "", is_json, limit.name, rate.amount, rate.window, now)

    def _make(
        self,
        status: int,
        seconds: int,
        reference: str,
        is_json: bool,
        name: str = "",
        amount: int = 0,
        window: float = 0.0,
        now: int = 0,
    ) -> Answer:
        headers: dict[str, str] = {}
        if reference:
            status, detail = self._ban_status, self._ban_text.replace("{reference}", reference)
        elif name:
            detail = f"Too many requests. Try again in {seconds} s."
            headers = {"retry-after": str(seconds)} | self._fields(name, amount, window, seconds, now)
        else:
            detail = HTTPStatus(status).phrase
        if not is_json:
            return Answer.of(status, f"{detail}\n", headers)
        problem: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        if reference:
            problem["reference"] = reference
        return Answer.of(status, problem, headers | {"content-type": "application/problem+json"})

    def _fields(self, name: str, amount: int, window: float, seconds: int, now: int) -> dict[str, str]:
        fields: dict[str, str] = {}
        if self._headers in ("draft", "both"):
            quoted = _quoted(name)
            fields |= {
                "ratelimit-policy": f"{quoted};q={amount};w={math.ceil(window)}",
                "ratelimit": f"{quoted};r=0;t={seconds}",
            }
        if self._headers in ("legacy", "both"):
            fields |= {"x-ratelimit-limit": str(amount), "x-ratelimit-remaining": "0"}
            fields["x-ratelimit-reset"] = str(now + seconds)
        return fields


def _quoted(text: str) -> str:
    """Write a string of RFC 9651: printable ASCII in double quotes."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
