"""The filter for AppGuard's own event line, which `appguard.event.Event.to_line` writes.

Theory of operation. `event.parse_line` says what a line means. It takes 10 us, so a line is first read by a decoder
that knows the types of its fields, and only what that refuses, or would have to cut, goes through `parse_line`. The
times of one second share all but their fraction, so what the second is gets remembered.
"""

from collections.abc import Collection
from datetime import datetime
from functools import lru_cache

import msgspec

from appguard.address import parse_address
from appguard.errors import AddressError, EventError
from appguard.event import COUNT_MOST, PATH_MOST, REQUEST, SHORT_TEXT, TEXT_MOST, VIA_MOST, Event, parse_line
from appguard.filters.literals import Literals

ESCAPE = r"\u00"  # how JSON may write a letter of a kind
STATUS_MOST = 999
MICRO = 1_000_000
SECOND = len("2026-11-20T09:11:02")
WHOLE = len("2026-11-20T09:11:02.123456Z")


class Record(msgspec.Struct):
    """The fields of a line."""

    time: str
    event: str
    source_ip: str
    count: int = 1
    app: str = ""
    user: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    via: tuple[str, ...] = ()
    request_id: str = ""
    user_agent: str = ""
    jail: str = ""


class EventLogFilter:
    """Reads event lines: those of some `kinds`, or all."""

    name = "appguard"

    def __init__(self, kinds: Collection[str] = ()) -> None:
        self._kinds = frozenset(() if REQUEST in kinds else kinds)
        self.needs = ((Literals(self._kinds | {ESCAPE}),),) if self._kinds else ()
        self._decode = msgspec.json.Decoder(Record).decode

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line."""
        if not line.startswith(b'{"time":"'):
            return None
        try:
            event = _event(self._decode(line))
        except (msgspec.DecodeError, AddressError, ValueError):
            event = None
        if event is None:
            event = _parsed(line)
        return event if event is not None and (not self._kinds or event.kind in self._kinds) else None

    def host_of(self, line: bytes) -> bytes:
        """Give what stands where the client does; an app's words alone stand before it."""
        words = line.split(b'"', 12)
        return words[11] if len(words) == 13 and words[9] == b"source_ip" else b""


def _parsed(line: bytes) -> Event | None:
    try:
        return parse_line(line.decode(errors="replace"))
    except EventError:
        return None


def _event(found: Record) -> Event | None:
    """Give the event of a line whose fields are such as our own writer writes them; None if any is not."""
    time, count, status = found.time, found.count, found.status
    if not found.event or not (0 <= count <= COUNT_MOST and 0 <= status <= STATUS_MOST):
        return None
    if max(map(len, (found.event, found.source_ip, found.jail, *found.via))) > SHORT_TEXT or len(found.via) > VIA_MOST:
        return None
    texts = found.app, found.user, found.method, found.request_id, found.user_agent
    if max(map(len, texts)) > TEXT_MOST or len(found.path) > PATH_MOST:
        return None
    fraction = time[SECOND + 1 : WHOLE - 1]
    if len(time) != WHOLE or time[SECOND] != "." or not (fraction.isascii() and fraction.isdigit()) or time[-1] != "Z":
        return None
    seconds = _seconds(time[:SECOND])
    return Event(
        found.event,
        (seconds * MICRO + int(fraction)) / MICRO,
        parse_address(found.source_ip),
        count,
        found.app,
        found.user,
        found.method,
        found.path,
        status,
        tuple(parse_address(text).text for text in found.via) if found.via else (),
        found.request_id,
        found.user_agent,
        found.jail,
    )


@lru_cache(maxsize=1024)
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp())
