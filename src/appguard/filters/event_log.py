"""The filter for AppGuard's own event line, which `appguard.event.Event.to_line` writes.

Theory of operation. `event.parse_line` says what a line means. It takes 10 us, so a line is first read by a decoder
that knows the types of its fields, and only what that refuses, or would have to cut, goes through `parse_line`. A jail
that counts by address needs little of an event, and is told it in brief: fields of many records are taken together.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from operator import attrgetter

import msgspec

from appguard.address import parse_address
from appguard.briefs import Briefs, Told
from appguard.errors import AddressError, EventError
from appguard.event import (
    COUNT_MOST,
    PATH_MOST,
    REQUEST,
    SHORT_TEXT,
    TEXT_MOST,
    VIA_MOST,
    Event,
    What,
    is_time,
    parse_line,
)
from appguard.filters.base import hosts_in_brief
from appguard.filters.literals import Literals

BEGIN = b'{"time":"'
ESCAPE = r"\u00"  # how JSON may write a letter of a kind
STATUS_MOST = 999
KINDS_MOST = 1024  # pairs of kind and status remembered: an app may write any
FITTING = TEXT_MOST + len('{"time":"2026-11-20T09:11:02.123456Z","event":"x","source_ip":"1.1.1.1","app":""}') - 1

NOT_READ = (msgspec.DecodeError, ValueError, RecursionError)  # the last of a line that is nested too deep


class Record(msgspec.Struct, gc=False):
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


NO_RECORD = Record("", "", "")
_WHAT = attrgetter("event", "status")
_HOST, _TIME, _PATH = attrgetter("source_ip"), attrgetter("time"), attrgetter("path")
_COUNT, _JAIL, _VIA, _ZONE = attrgetter("count"), attrgetter("jail"), attrgetter("via"), attrgetter("tzinfo")


class Whats(dict[What, Told]):
    """What records tell of, by kind and status: nothing if it is none of the kinds wanted, None if it is odd."""

    def __init__(self, wanted: Collection[str]) -> None:
        super().__init__()
        self._wanted = wanted

    def __missing__(self, what: What) -> Told:
        kind, status = what
        if not (0 < len(kind) <= SHORT_TEXT and 0 <= status <= STATUS_MOST):
            return None
        if len(self) >= KINDS_MOST:
            self.clear()
        found = self[what] = () if self._wanted and kind not in self._wanted else what
        return found


class EventLogFilter:
    """Reads event lines: those of some `kinds`, or all."""

    name = "appguard"

    def __init__(self, kinds: Collection[str] = ()) -> None:
        self._kinds = frozenset(() if REQUEST in kinds else kinds)
        self.needs = ((Literals(self._kinds | {ESCAPE}),),) if self._kinds else ()
        self._whats = Whats(self._kinds)
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

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        records = self._records(lines)
        whats: list[Told] = list(map(self._whats.__getitem__, map(_WHAT, records)))
        if not _are_ordinary(records, lines):
            rows = zip(whats, records, lines, strict=True)
            whats = [what if _are_ordinary((record,), (line,)) else None for what, record, line in rows]
        hosts, told = hosts_in_brief(list(map(_HOST, records))), _times(list(map(_TIME, records)))
        vias = list[tuple[str, ...] | None](map(_VIA, records))
        if any(vias):
            vias = [_through(via) if via else via for via in vias]
        return Briefs.of(whats, hosts, told, list(map(_PATH, records)), vias, lines)

    def _records(self, lines: Sequence[bytes]) -> Sequence[Record]:
        """Decode lines; give an empty record for each that is none."""
        try:
            return list(map(self._decode, lines))
        except NOT_READ:
            return list(map(self._record, lines))

    def _record(self, line: bytes) -> Record:
        try:
            return self._decode(line)
        except NOT_READ:
            return NO_RECORD

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


def _are_ordinary(records: Sequence[Record], lines: Sequence[bytes]) -> bool:
    """Say whether all lines are such as our own writer writes them, of events that count once, and nothing is cut."""
    if list(map(_COUNT, records)).count(1) < len(lines) or any(map(_JAIL, records)):
        return False
    if not all(map(bytes.startswith, lines, repeat(BEGIN))):
        return False
    return max(map(len, lines)) <= FITTING or all(map(_fits, records))


def _fits(found: Record) -> bool:
    """Say whether no field would have to be cut."""
    if max(map(len, (found.event, found.source_ip, found.jail, *found.via))) > SHORT_TEXT or len(found.via) > VIA_MOST:
        return False
    texts = found.app, found.user, found.method, found.request_id, found.user_agent
    return max(map(len, texts)) <= TEXT_MOST and len(found.path) <= PATH_MOST


def _times(texts: Sequence[str]) -> Sequence[float | None]:
    """Read times as `parse_line` does; None of each that is none."""
    try:
        dates = list(map(datetime.fromisoformat, texts))
    except ValueError:
        return list(map(_time, texts))
    if set(map(_ZONE, dates)) != {UTC}:  # without a zone it would be this host's own time
        return list(map(_time, texts))
    times = list(map(datetime.timestamp, dates))
    return times if is_time(min(times)) and is_time(max(times)) else list(map(_time, texts))


def _time(text: str) -> float | None:
    try:
        date = datetime.fromisoformat(text)
        time = None if date.tzinfo is None else date.timestamp()
    except (ValueError, OverflowError):
        return None
    return time if time is not None and is_time(time) else None


@lru_cache(maxsize=1024)
def _through(via: tuple[str, ...]) -> tuple[str, ...] | None:
    """Give the addresses of a list; None if one is none, or there are too many."""
    try:
        return tuple(parse_address(text).text for text in via) if len(via) <= VIA_MOST else None
    except AddressError:
        return None
