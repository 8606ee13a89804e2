"""The filter for AppGuard's own event line, which `appguard.event.Event.to_line` writes.

Theory of operation. `event.parse_line` says what a line means. It takes 10 us, so a line is first read by a decoder
that knows the types of its fields, and only what that refuses, or would have to cut, goes through `parse_line`. The
times of one second share all but their fraction, so what the second is gets remembered. A jail that counts by address
needs little of an event, and is told it in brief.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from appguard.address import parse_address
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
from appguard.filters.base import Told, hosts_in_brief
from appguard.filters.literals import Literals

BEGIN = b'{"time":"'
ESCAPE = r"\u00"  # how JSON may write a letter of a kind
STATUS_MOST = 999
KINDS_MOST = 1024  # pairs of kind and status remembered: an app may write any
MICRO = 1_000_000
FRACTION = len("2026-11-20T09:11:02.")
ZONE = len("2026-11-20T09:11:02.123456")
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


class Whats(dict[What, What | tuple[()] | None]):
    """What records tell of, by kind and status: nothing if it is none of the kinds wanted, None if it is odd."""

    def __init__(self, wanted: Collection[str]) -> None:
        super().__init__()
        self._wanted = wanted

    def __missing__(self, what: What) -> What | tuple[()] | None:
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

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Sequence[Told]:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        found: list[Told] = []
        records, whats = self._records(lines), self._whats
        hosts, told = hosts_in_brief([each.source_ip for each in records]), _times([each.time for each in records])
        for line, record, host, at in zip(lines, records, hosts, told, strict=True):
            what, via = whats[record.event, record.status], record.via
            through = _through(via) if via else via
            is_odd = record.count != 1 or record.jail or (len(line) > FITTING and not _fits(record))
            if is_odd or what is None or host is None or at is None or through is None or not line.startswith(BEGIN):
                found.append(None)
            else:
                found.append((what, host, at, record.path, through, line) if what else ())
        return found

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


def _fits(found: Record) -> bool:
    """Say whether no field would have to be cut."""
    if max(map(len, (found.event, found.source_ip, found.jail, *found.via))) > SHORT_TEXT or len(found.via) > VIA_MOST:
        return False
    texts = found.app, found.user, found.method, found.request_id, found.user_agent
    return max(map(len, texts)) <= TEXT_MOST and len(found.path) <= PATH_MOST


def _time(text: str) -> float | None:
    return _times([text])[0]


def _times(texts: Iterable[str]) -> list[float | None]:
    """Read times as our own writer writes them; None of each that is another."""
    found: list[float | None] = []
    second, micros = "", None
    for text in texts:
        if text[:FRACTION] != second:
            second = text[:FRACTION]
            micros = _micros(second)
        fraction = text[FRACTION:ZONE]
        if micros is None or text[ZONE:] != "Z" or not (fraction.isdigit() and fraction.isascii()):
            found.append(None)
        else:
            found.append((micros + int(fraction)) / MICRO)
    return found


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
