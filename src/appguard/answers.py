"""The answers to refused requests: status, headers and body, as text, problem+json (RFC 9457) or the app's own.

A refusal by a limit tells its policy and its state in the fields of `rate_fields`. An answer is made once for all
refusals that are answered alike, so that a refused request costs little.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil

from appguard.guard import Refusal
from appguard.rate import Rate
from appguard.rate_fields import RateFields
from appguard.request import Request

_JSON = re.compile(r"application/(?:problem\+)?json")
BAN_TEXT = "This address is banned. To have it lifted, quote the reference {reference}."
MEMO_MOST = 1024

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names in lower case. `line` is its status as WSGI wants it, with the phrase."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(init=False, repr=False)
    line: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Write it as ASGI and WSGI want it, once for all answers that are the same."""
        object.__setattr__(self, "line", f"{self.status} {self.phrase}")
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
        self.fields = RateFields(headers)
        self._ban_status = ban_status
        self._ban_text = ban_text
        self._own = own
        self.has_own = own is not None
        self._has_failed = False
        self._known: dict[tuple[object, ...], Answer] = {}

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
        status, wait, ban, limit, rate = refusal
        if limit is None or rate is None:
            key: tuple[object, ...] = (status, ban.key, ban.version, is_json) if ban else (status, is_json)
            return self._known.get(key) or self._keep(key, self._unlimited(refusal, is_json=is_json))
        seconds = ceil(wait) if wait and wait > 1.0 else 1
        now = int(time.time()) if self.fields.has_legacy else 0
        key = (limit.name, rate.text, seconds, now, is_json)
        return self._known.get(key) or self._keep(key, self._limited(limit.name, rate, seconds, now, is_json=is_json))

    def _keep(self, key: tuple[object, ...], answer: Answer) -> Answer:
        if len(self._known) >= MEMO_MOST:
            self._known.clear()
        self._known[key] = answer
        return answer

    def _limited(self, name: str, rate: Rate, seconds: int, now: int, *, is_json: bool) -> Answer:
        headers = {"retry-after": str(seconds)} | dict(self.fields.refused(name, rate, seconds, now))
        return _answer(429, f"Too many requests. Try again in {seconds} s.", headers, is_json=is_json)

    def _unlimited(self, refusal: Refusal, *, is_json: bool) -> Answer:
        if refusal.ban is None:
            headers = {"retry-after": str(ceil(refusal.wait))} if refusal.wait else {}
            return _answer(refusal.status, HTTPStatus(refusal.status).phrase, headers, is_json=is_json)
        reference = refusal.ban.ref
        detail = self._ban_text.replace("{reference}", reference)
        return _answer(self._ban_status, detail, {}, is_json=is_json, reference=reference)


def _answer(status: int, detail: str, headers: Mapping[str, str], *, is_json: bool, reference: str = "") -> Answer:
    if not is_json:
        return Answer.of(status, f"{detail}\n", headers)
    problem: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if reference:
        problem["reference"] = reference
    return Answer.of(status, problem, {**headers, "content-type": "application/problem+json"})
