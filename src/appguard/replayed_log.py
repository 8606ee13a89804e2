"""Reads finished logs for replay: what filters find in them, in the order in which it happened.

Theory of operation. Every file is read in its own order, and all files are merged by the time their own log was at, so
the generations of a rotated log follow each other and logs of one time interleave. That time never steps back. A line
told late is one that stays behind it. A jump ahead of more than a minute is either a quiet stretch or a line with a
wrong clock: it is believed if most of the next lines tell no earlier time, a minute more or less. A date without a
year, and a line without a date, take the time the file was last written as a help.

Each file has filters of its own: what a filter remembers of connections and last lines does not mix between files.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from appguard.address import parse_address
from appguard.errors import SourceError
from appguard.event import Event
from appguard.filters.base import Filter, Named
from appguard.sources.packed import read_lines

STEP_MOST = 60.0  # seconds; a greater jump needs other lines to be believed
UNKNOWN = float("-inf")
WITNESSES = 8  # lines that are asked
ANYBODY = parse_address("192.0.2.1")

Found = Event | Named


@dataclass(slots=True)
class Match:
    """A line in which filters found something: by their names, what; and the time its log was at when it was written.

    Until that is known, `time` is what the line tells.
    """

    file: Path
    line: bytes
    found: Mapping[str, Found]
    time: float


@dataclass(slots=True)
class Reading:
    """How far a file has been read: lines, their bytes, lines with an event, those without a time of their own.

    `complaint` says where it is damaged.
    """

    path: Path
    lines: int = 0
    size: int = 0
    matched: int = 0
    undated: int = 0
    complaint: str = ""


class ReplayedLog:
    """One file and the filters that read it, by name. `latest` is the time beyond which no line can be (now)."""

    def __init__(self, path: Path, filters: Mapping[str, Filter], latest: float) -> None:
        self.reading = Reading(path)
        self._filters = filters
        self._latest = latest

    def __iter__(self) -> Iterator[Match]:
        """Give what is found, in the order of the lines, each with the time its log was at."""
        found = self._matches()
        ahead = deque(islice(found, WITNESSES))
        now = UNKNOWN
        while ahead or (ahead := deque(islice(found, 1))):
            match = ahead.popleft()
            ahead.extend(islice(found, WITNESSES - len(ahead)))
            now = min(_moved(now, match.time, ahead), self._latest)
            if now > UNKNOWN:
                match.time = now
                yield match

    def _matches(self) -> Iterator[Match]:
        reading = self.reading
        try:
            written = min(reading.path.stat().st_mtime, self._latest)
            for line in read_lines(reading.path):
                reading.lines += 1
                reading.size += len(line) + 1
                found = self._found(line, written)
                if found:
                    yield Match(reading.path, line, found, max(map(_time_of, found.values())))
        except OSError as error:
            reading.complaint = f"{reading.path} cannot be read: {error.strerror}"
        except SourceError as error:
            reading.complaint = str(error)

    def _found(self, line: bytes, written: float) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for name, each in self._filters.items():
            event = each.match(line, written)
            if event is not None:
                found[name] = event
        if found:
            self.reading.matched += 1
            self.reading.undated += any(_time_of(event) == written for event in found.values())
        return found


def merged(logs: Iterable[ReplayedLog]) -> Iterator[Match]:
    """Give what is found in all logs, in the order of time."""
    return heapq.merge(*logs, key=lambda match: match.time)


def _time_of(found: Found) -> float:
    return found.time if isinstance(found, Event) else found.event_of(ANYBODY).time


def _moved(now: float, time: float, ahead: Collection[Match]) -> float:
    """Give the time a log is at behind a line of `time`."""
    if time <= now + STEP_MOST:
        return max(now, time)
    agreeing = sum(each.time >= time - STEP_MOST for each in ahead)
    return time if 2 * agreeing >= len(ahead) else now
