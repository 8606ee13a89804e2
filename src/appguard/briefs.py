"""Briefs: what many lines tell, a column for each thing told of a line.

Nothing is made for one line alone: who reads or counts lines takes whole columns, with a few calls for all of them. A
line may tell nothing (what is `()`), or what only a filter's `match` can read (what is None); of such a line the other
columns hold anything.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from appguard.address import Host
from appguard.event import What

Told = What | tuple[()] | None  # what a line tells of, nothing at all, or what only `match` can read
Row = tuple[Told, Host | None, float, str, tuple[str, ...]]  # of one line: what, address, time, path, via

V = TypeVar("V")

UNREAD: Row = (None, "", 0.0, "", ())
NOTHING: Row = ((), "", 0.0, "", ())


class Briefs(NamedTuple):
    """The columns, each with as many rows as there are lines. A row is known by its place in them.

    `paths` may be written in another way: `path_of` gives the path that one means, for who asks for it.
    """

    whats: Sequence[Told]
    hosts: Sequence[Host]
    times: Sequence[float]
    paths: Sequence[str]
    vias: Sequence[tuple[str, ...]]
    lines: Sequence[bytes]
    path_of: Callable[[str], str] = str

    @classmethod
    def of(
        cls,
        whats: Sequence[Told],
        hosts: Sequence[Host | None],
        times: Sequence[float | None],
        paths: Sequence[str],
        vias: Sequence[tuple[str, ...] | None],
        lines: Sequence[bytes],
        path_of: Callable[[str], str] = str,
    ) -> "Briefs":
        """Make columns of which some may hold None: `match` is to read those lines."""
        are_told = all(hosts) and all(times) and vias.count(()) == len(vias)  # quicker asked than for None
        if not are_told and (None in hosts or None in times or None in vias):
            rows = zip(whats, hosts, times, vias, strict=True)
            whats = [None if host is None or time is None or via is None else what for what, host, time, via in rows]
        told_hosts, told_times = cast("Sequence[Host]", hosts), cast("Sequence[float]", times)
        return cls(whats, told_hosts, told_times, paths, cast("Sequence[tuple[str, ...]]", vias), lines, path_of)

    @classmethod
    def of_rows(cls, rows: Iterable[Row], lines: Sequence[bytes]) -> "Briefs":
        """Make columns of rows, one for each line."""
        if not lines:
            return cls.unread(lines)
        whats, hosts, times, paths, vias = zip(*rows, strict=True)
        return cls.of(whats, hosts, times, paths, vias, lines)

    @classmethod
    def unread(cls, lines: Sequence[bytes]) -> "Briefs":
        """Give what says that all lines are left to `match`."""
        return cls([None] * len(lines), (), (), (), (), lines)

    def places(self, begin: int, end: int) -> Mapping[Told, Sequence[int]]:
        """Give where rows are that tell of the same, in order, of those from one to before another."""
        found = defaultdict[Told, list[int]](list)
        for place, what in enumerate(self.whats[begin:end], begin):
            found[what].append(place)
        return found


def taken(column: Sequence[V], places: Sequence[int]) -> Sequence[V]:
    """Give what a column holds at some places, which are in order."""
    return column if len(places) == len(column) else [column[place] for place in places]
