"""The filter for AppGuard's own event line, which `appguard.event.Event.to_line` writes.

Theory of operation. `event.parse_line` says what a line means. It takes 10 us, so a line is first read by a decoder
that knows the types of its fields, and only what that refuses, or would have to cut, goes through `parse_line`. The
times of one second share all but their fraction, so what the second is gets remembered. A jail that counts by address
needs little of an event, and is told it in brief.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from appguard.address import parse_address
from appguard.errors import AddressError, EventError
from appguard.event import COUNT_MOST, PATH_MOST, REQUEST, SHORT_TEXT, TEXT_MOST, VIA_MOST, Event, is_time, parse_line
from appguard.filters.base import Told, host_of
from appguard.filters.literals import Literals

BEGIN = b'{"time":"'
ESCAPE = r"\u00"  # how JSON may write a letter of a kind
STATUS_MOST = 999
MICRO = 1_000_000
FRACTION = len("2026-11-20T09:11:02.")
ZONE = len("2026-11-20T09:11:02.123456")
FITTING = TEXT_MOST + len('{"time":"2026-11-20T09:11:02.123456Z","event":"x","source_ip":"1.1.1.1","app":""}') - 1

NOT_READ = (msgspec.DecodeError, ValueError, RecursionError)  # the last of a line that is nested too deep


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
        if not line.startswith(BEGIN):
            return None
        try:
            event = _event(self._decode(line))
        except (*NOT_READ, AddressError):
            event = None
        if event is None:
            event = _parsed(line)
        return event if event is not None and (not self._kinds or event.kind in self._kinds) else None

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Sequence[Told]:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        return list(map(self._brief, lines))

    def _brief(self, line: bytes) -> Told:
        try:
            found = self._decode(line)
        except NOT_READ:
            return None
        host, time = host_of(found.source_ip), _time(found.time)
        if time is None or host is None or found.count != 1 or found.jail or not line.startswith(BEGIN):
            return None
        through = _through(found.via) if found.via else ()
        if through is None or not 0 <= found.status <= STATUS_MOST or (len(line) > FITTING and not _fits(found)):
            return None
        kind = found.event
        if self._kinds and kind not in self._kinds:
            return ()
        return ((kind, found.status), host, time, found.path, through, line) if 0 < len(kind) <= SHORT_TEXT else None

    def hosts_of(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Give what stands where the client does; an app's words alone stand before it."""
        split = (line.split(b'"', 12) for line in lines)
        return [words[11] if len(words) == 13 and words[9] == b"source_ip" else b"" for words in split]


def _parsed(line: bytes) -> Event | None:
    try:
        return parse_line(line.decode(errors="replace"))
    except EventError:
        return None


def _event(found: Record) -> Event | None:
    """Give the event of a line whose fields are such as our own writer writes them; None if any is not."""
    if not found.event or not (0 <= found.count <= COUNT_MOST and 0 <= found.status <= STATUS_MOST):
        return None
    time = _time(found.time)
    if time is None or not _fits(found):
        return None
    return Event(
        found.event,
        time,
        parse_address(found.source_ip),
        found.count,
        found.app,
        found.user,
        found.method,
        found.path,
        found.status,
        tuple(parse_address(text).text for text in found.via) if found.via else (),
        found.request_id,
        found.user_agent,
        found.jail,
    )


def _fits(found: Record) -> bool:
    """Say whether no field would have to be cut."""
    if max(map(len, (found.event, found.source_ip, found.jail, *found.via))) > SHORT_TEXT or len(found.via) > VIA_MOST:
        return False
    texts = found.app, found.user, found.method, found.request_id, found.user_agent
    return max(map(len, texts)) <= TEXT_MOST and len(found.path) <= PATH_MOST


def _time(text: str) -> float | None:
    """Read a time as our own writer writes it."""
    micros, fraction = _micros(text[:FRACTION]), text[FRACTION:ZONE]
    if micros is None or text[ZONE:] != "Z" or not (fraction.isdigit() and fraction.isascii()):
        return None
    return (micros + int(fraction)) / MICRO


@lru_cache(maxsize=1024)
def _micros(text: str) -> int | None:
    try:
        seconds = int(datetime.fromisoformat(f"{text[:-1]}+00:00").timestamp())
    except ValueError:
        return None
    return seconds * MICRO if text[-1] == "." and is_time(seconds) else None


@lru_cache(maxsize=1024)
def _through(via: tuple[str, ...]) -> tuple[str, ...] | None:
    """Give the addresses of a list; None if one is none, or there are too many."""
    try:
        return tuple(parse_address(text).text for text in via) if len(via) <= VIA_MOST else None
    except AddressError:
        return None
