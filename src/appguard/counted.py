"""What a jail has counted for one key, and how little of it is kept.

Theory of operation. Events of one time are one entry, entries are in the order of time, and what has left the window
goes from the front: adding costs a comparison with the last entry, or a binary search when an event comes late. Two
ways of counting share this: events are added up, or `Values` count the different values (users, paths) that were seen,
each by its latest time. A jail bans at maxretry, so a key never holds more entries than that; and never more than
`RUNS_MOST`: above it, times are rounded down to that many slots per findtime. So counting is exact up to
maxretry = 256, and above it an event may leave the window 1/256 of findtime early, never late: nobody is banned for
fewer than maxretry events in findtime. Of a value its digest is kept, of evidence the last few lines, as they came:
they are decoded when somebody asks for them. Most addresses are heard of once, so where nothing but events is counted a
key with one event is just its time and line, `First`: the line as it was read, and of such a pair the garbage collector
soon knows nothing any more.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from sys import getsizeof
from typing import cast

from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST

RUNS_MOST = 256
LETTER_MOST = 4  # bytes of a character
ADDRESSES_MOST = 100  # that one user's failures may come from; of more, those heard of last
KEY_COST = 700  # bytes that a key takes in this process beside its text and entries, measured
RUN_COST = 72
VALUE_COST = 240
LINE_COST = 120
PAIR_COST = 300  # that a pair takes to be found by its network, measured
FIRST_COST = 200  # bytes that a key with one event takes beside what is kept of that, measured
LINE_BYTES_MOST = EVIDENCE_TEXT_MOST * LETTER_MOST


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing kept of a key: `count` events of one time, or with count 0 a line kept as evidence.

    `value` is the digest of what a distinct jail counts, `network` where a failure of a user came from.
    """

    time: float
    count: int
    evidence: str = ""
    value: str = ""
    network: str = ""


class Values:
    """Which different values there were, each with its latest time; at most `most`, then the oldest goes."""

    __slots__ = ("_latest", "_most", "_times", "_values")

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: list[float] = []
        self._values: list[str] = []
        self._latest: dict[str, float] = {}

    def add(self, time: float, value: str) -> None:
        """Note one value."""
        known = self._latest.get(value)
        if known is not None:
            if known >= time:
                return
            self._remove(known, value)
        at = bisect_right(self._times, time)
        self._times.insert(at, time)
        self._values.insert(at, value)
        self._latest[value] = time
        if len(self._times) > self._most:
            self._remove(self._times[0], self._values[0])

    def _remove(self, time: float, value: str) -> None:
        at = self._values.index(value, bisect_left(self._times, time))
        del self._times[at], self._values[at], self._latest[value]

    def drop_until(self, time: float) -> None:
        """Drop the values not seen later than a time."""
        while self._times and self._times[0] <= time:
            self._remove(self._times[0], self._values[0])

    @property
    def total(self) -> int:
        """Give how many different values there are."""
        return len(self._values)

    @property
    def cost(self) -> int:
        """Give about how many bytes this takes."""
        return VALUE_COST * len(self._times)

    def __iter__(self) -> Iterator[tuple[float, str]]:
        return zip(self._times, self._values, strict=True)


Line = str | bytes
First = tuple[float, bytes]  # the only event of a key: its time and line


def shortened(lines: Sequence[bytes]) -> Sequence[bytes]:
    """Give as much of each line as is kept."""
    if max(map(len, lines), default=0) <= LINE_BYTES_MOST:
        return lines
    return [line[:LINE_BYTES_MOST] for line in lines]


class Counted:
    """All that is kept of one key: with `is_distinct` different values are counted, with `has_addresses` it is a user.

    Counted is within `findtime` seconds before `newest`. `slot` seconds are counted as one time; 0: none are.
    """

    __slots__ = ("_addresses", "_counts", "_findtime", "_fixed_cost", "_lines", "_slot", "_times", "_values", "cost",
                 "newest", "total")  # fmt: skip

    def __init__(  # what a jail counts
        self,
        key: str,
        findtime: float,
        slot: float,
        *,
        is_distinct: bool,
        has_addresses: bool,
        is_pair: bool = False,
    ) -> None:
        self.newest = float("-inf")
        self.total = 0  # what is compared with maxretry
        self.cost = 0  # about how many bytes this takes
        self._findtime = findtime
        self._slot = slot
        self._fixed_cost = KEY_COST + getsizeof(key) + PAIR_COST * is_pair  # of the key and the lines
        self._times: list[float] = []
        self._counts: list[int] = []  # of events, one for each of the times
        self._values = Values(RUNS_MOST) if is_distinct else None
        self._addresses = Values(ADDRESSES_MOST) if has_addresses else None
        self._lines: list[tuple[float, Line]] = []

    def add(self, time: float, count: int, evidence: Line = "", value: str = "", network: str = "") -> None:
        """Count one event, as a `Failure` says it, and drop what has left the window."""
        if time > self.newest:
            self.newest = time
        at = time - time % self._slot if self._slot else time
        if self._values is None:
            if count:
                self._add_up(at, count)
        elif value:
            self._values.add(at, value)
        if self._addresses is not None and network:
            self._addresses.add(time, network)
        if evidence:
            self._keep_line(time, evidence)
        self._drop_until(self.newest - self._findtime)
        self._weigh()

    def _add_up(self, time: float, count: int) -> None:
        times = self._times
        if not times or time > times[-1]:
            times.append(time)
            self._counts.append(count)
        else:
            at = bisect_left(times, time)
            if times[at] == time:
                self._counts[at] += count
            else:
                times.insert(at, time)
                self._counts.insert(at, count)
        self.total += count

    def _keep_line(self, time: float, line: Line) -> None:
        line = line[: EVIDENCE_TEXT_MOST if isinstance(line, str) else LINE_BYTES_MOST]
        self._lines.append((time, line))
        self._fixed_cost += LINE_COST + getsizeof(line)
        if len(self._lines) > 1 and self._lines[-2][0] > time:
            self._lines.sort(key=lambda kept: kept[0])
        if len(self._lines) > EVIDENCE_MOST:
            self._drop_line()

    def _drop_line(self) -> None:
        self._fixed_cost -= LINE_COST + getsizeof(self._lines.pop(0)[1])

    def _drop_until(self, time: float) -> None:
        if self._times and self._times[0] <= time:
            gone = bisect_right(self._times, time)
            self.total -= sum(self._counts[:gone])
            del self._times[:gone], self._counts[:gone]
        while self._lines and self._lines[0][0] <= time:
            self._drop_line()
        if self._values is not None:
            self._values.drop_until(time)
        if self._addresses is not None:
            self._addresses.drop_until(time)

    def _weigh(self) -> None:
        self.cost = self._fixed_cost + RUN_COST * len(self._times)
        if self._values is not None:
            self.total = self._values.total
            self.cost += self._values.cost
        if self._addresses is not None:
            self.cost += self._addresses.cost

    @property
    def evidence(self) -> tuple[str, ...]:
        """Give the lines kept, in the order of time."""
        return tuple(_text(line) for _, line in self._lines)

    def add_first(self, first: First) -> None:
        """Count the only event that was known of the key."""
        self.add(first[0], 1, first[1])

    @property
    def first(self) -> First | None:
        """Give the only event as it is kept where there is no other; None if there are more, or no line of it."""
        if self.total != 1 or len(self._lines) != 1:
            return None
        time, line = self._lines[0]
        return (time, line) if isinstance(line, bytes) else (time, line.encode(errors="replace"))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Give where a user's failures came from."""
        return () if self._addresses is None else tuple(value for _, value in self._addresses)

    def __iter__(self) -> Iterator[Failure]:
        yield from map(Failure, self._times, self._counts)
        yield from (Failure(time, 1, value=value) for time, value in self._values or ())
        yield from (Failure(time, 0, network=value) for time, value in self._addresses or ())
        yield from (Failure(time, 0, _text(line)) for time, line in self._lines)


def by_key() -> "dict[str, Counted | First]":
    """Give an empty dictionary of keys that has the hash of each beside it, as Python makes it for keys of any type.

    In one of nothing but texts the hash is in the text: to look one up among many reads others that are far away.
    """
    counted: dict[str | None, Counted | First] = {None: (0.0, b"")}
    del counted[None]
    return cast("dict[str, Counted | First]", counted)


def cost_of(known: Counted | First) -> int:
    """Give about how many bytes a key takes."""
    return known.cost if isinstance(known, Counted) else FIRST_COST + len(known[1])


def newest_of(known: Counted | First) -> float:
    """Give the time of the latest event of a key."""
    return known.newest if isinstance(known, Counted) else known[0]


def _text(line: Line) -> str:
    return line if isinstance(line, str) else line.decode(errors="replace")[:EVIDENCE_TEXT_MOST]


def digest(value: str) -> str:
    """Give what is kept of a value that strangers choose."""
    return blake2b(value.encode(errors="replace"), digest_size=8).hexdigest()
