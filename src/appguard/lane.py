"""One filter of one source: which lines it is given, and which jails hear of what it finds.

Theory of operation. Stage 1 (`sieve.py`) picks the lines that may match. Of these, lines of an address that is banned
are counted (as failures of the jail that banned it), not read, as long as no jail behind the filter could make the ban
last longer: who is shut out writes little into a log, but a log is read late in a flood. A ban that goes on being
earned must still be prolonged, so its lines are passed over only for the first `PASS_OVER_MOST` seconds (an eighth of
the longest bantime if that is less) after a ban by a jail of the longest bantime, or by somebody else for as long; then
they are read again, and lead to the next. So such a ban ends earlier than if every line had been read by at most that
much and the time that the next `maxretry` events take. Every line is read where it may matter to somebody else: a jail
that counts by user or network or different addresses, a dry run, or a ban whose length depends on earlier ones; and, of
some blocks of a log that follow one of many lines, where hardly any line was passed over, because to look at who wrote
each costs more than that saved.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from appguard.address import Grouping
from appguard.ban import PERMANENT, Ban
from appguard.briefs import Briefs
from appguard.event import LOGIN_SUCCESS, What
from appguard.filters.base import Filter, TellsBriefly, TellsHost, host_of
from appguard.jail_key import ADDRESS
from appguard.jail_window import JailWindow
from appguard.sieve import Sieve
from appguard.sources.base import LINE_MOST, Block, Chunk

PASS_OVER_MOST = 600.0  # seconds
HOSTS_MOST = 65_536  # banned addresses whose lines are passed over; then the first go
HOST_LENGTHS = {4: (32,), 6: (64, 128)}  # of networks that an address may be counted as
COLON = ord(":")  # a byte is found in bytes much faster by its number
WRITTEN_MOST = 16_384  # IPv6 addresses whose keys are remembered, each as it is written
ADDRESS_MOST = 45  # letters of one
MANY, RARE, REST = 256, 100, 6  # so many lines, of which less than one in so many is passed over; blocks then not asked
RESTING_MOST = 256  # logs; then all are asked
KINDS_MOST = 1024  # pairs of kind and status remembered: an app may write any


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One source's way into one jail: the filter that reads it, and the user ids that may feed it (None: any).

    `behind` are machines that all clients of this source came through, where its lines do not say so.
    """

    filter: Filter
    window: JailWindow
    users: frozenset[int] | None = None
    behind: tuple[str, ...] = ()


class Banned(NamedTuple):
    """Until when lines of an address are passed over, and whose failures they are; None: those of no jail here."""

    until: float
    window: JailWindow | None


NOBODY = Banned(0.0, None)
Passed = Mapping[bytes, JailWindow | None]  # hosts, as lines write them, whose lines are passed over; `Banned.window`


class Hearers(dict[What, tuple[Route, ...] | None]):
    """Which jails hear of events told in brief, by what happened; None where a jail must be told more."""

    def __init__(self, takers: Callable[[str, int], Sequence[Route]]) -> None:
        super().__init__()
        self._takers = takers

    def __missing__(self, what: What) -> tuple[Route, ...] | None:
        if len(self) >= KINDS_MOST:
            self.clear()
        takers, hearing = self._takers(*what), None
        if all(route.window.takes_briefs for route in takers):
            hearing = tuple(route for route in takers if route.window.may_count(*what))
        self[what] = hearing
        return hearing


class Keys(dict[bytes, bytes]):
    """The keys under which addresses are counted, by how lines write them; an empty one for what is no address."""

    def __init__(self, grouping: Grouping) -> None:
        super().__init__()
        self._grouping = grouping
        self._shared = grouping.shared

    def refreshed(self) -> "Keys":
        """Give this without what it remembers, if addresses are grouped otherwise since."""
        if self._shared is not self._grouping.shared:
            self._shared = self._grouping.shared
            self.clear()
        return self

    def __missing__(self, host: bytes) -> bytes:
        if len(host) > ADDRESS_MOST:
            return b""
        found = host_of(host.decode("latin-1"))
        key = b"" if found is None else self._grouping.key_of(found).encode()
        if len(self) >= WRITTEN_MOST:
            self.clear()
        self[host] = key
        return key


class Lane:
    """The routes of one source that share a filter. `passed_over` counts the lines of banned addresses not read.

    `hearers` say which jails hear of what the filter tells in brief.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.passed_over = 0
        self._filter = routes[0].filter
        self._sieve = Sieve(self._filter.needs, LINE_MOST)
        self.match = self._filter.match
        self._takers: dict[What, tuple[Route, ...]] = {}
        self.hearers = Hearers(self.takers)
        is_brief = any(route.window.takes_briefs for route in routes)
        self._briefs = self._filter.briefs if is_brief and isinstance(self._filter, TellsBriefly) else None
        jails = [route.window.jail for route in routes]
        self._bantimes = {jail.name: inf if jail.bantime == PERMANENT else float(jail.bantime) for jail in jails}
        self._longest = max(self._bantimes.values())
        may_pass_over = all(
            jail.key == ADDRESS and jail.distinct != "address" and not jail.dry_run and not jail.bantime_increment
            for jail in jails
        )
        self._telling = self._filter if may_pass_over and isinstance(self._filter, TellsHost) else None
        self._windows = {route.window.jail.name: route.window for route in routes}
        self._banned: OrderedDict[bytes, Banned] = OrderedDict()  # by key
        self._keys = Keys(routes[0].window.grouping)
        self._resting: dict[str, int] = {}  # blocks not asked, by origin: others tell nothing of who floods a log

    def lines(self, chunk: Chunk, now: float) -> Sequence[bytes]:
        """Give the lines of a chunk that may tell of something; all where each has its time."""
        return self._candidates(chunk.lines, chunk.origin, now) if chunk.times is None else chunk.lines

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say in brief what lines tell of that were written at some times, as far as jails need no more."""
        return self._briefs(lines, times) if self._briefs is not None and lines else Briefs.unread(lines)

    def _candidates(self, lines: Sequence[bytes], origin: str, now: float) -> Sequence[bytes]:
        block = b""
        if self._filter.needs or isinstance(lines, Block):
            block = (lines if isinstance(lines, Block) else Block.of(lines)).data
            lines = self._sieve.candidates(block)
        if not self._banned or self._telling is None or self._rests(origin):
            return lines
        hosts = self._telling.hosts_of(lines)
        written = Counter(hosts)
        passed = self._passed(written, now)
        if len(lines) >= MANY and RARE * sum(map(written.__getitem__, passed)) < len(lines):
            self._rest(origin)  # asking would cost more than it saves
        if not passed:
            return lines
        if self._sieve.count(lines, block if self._sieve.is_open else b"") == len(lines):  # all tell of something
            self._tally_hosts(passed, written)
        else:
            self._tally_lines(passed, lines, hosts)
        if len(passed) == len(written):
            return []
        return [line for line, host in zip(lines, hosts, strict=True) if host not in passed]

    def _rest(self, origin: str) -> None:
        if len(self._resting) >= RESTING_MOST:
            self._resting.clear()
        self._resting[origin] = REST

    def _rests(self, origin: str) -> bool:
        """Say whether this block is not asked, and count it."""
        left = self._resting.pop(origin, 0)
        if left > 1:
            self._resting[origin] = left - 1
        return left > 0

    def _passed(self, hosts: Iterable[bytes], now: float) -> Passed:
        """Give those whose lines are passed over."""
        keys, by_key = self._keys.refreshed(), self._banned.get
        banned = ((host, by_key(keys[host] if COLON in host else host)) for host in hosts)  # others are their key
        return {host: by.window for host, by in banned if by is not None and by.until > now}

    def _tally_hosts(self, passed: Passed, lines: Mapping[bytes, int]) -> None:
        """Count all lines of the hosts that are passed over; `lines` says how many."""
        numbers = defaultdict[JailWindow | None, int](int)
        for host, window in passed.items():
            numbers[window] += lines[host]
        for window, number in numbers.items():
            self._tally(window, number)

    def _tally_lines(self, passed: Passed, lines: Sequence[bytes], hosts: Sequence[bytes]) -> None:
        """Count those lines of the hosts passed over in which stage 1 finds something."""
        of_banned = defaultdict[JailWindow | None, list[bytes]](list)
        for line, host in zip(lines, hosts, strict=True):
            if host in passed:
                of_banned[passed[host]].append(line)
        for window, its in of_banned.items():
            self._tally(window, self._sieve.count(its))

    def _tally(self, window: JailWindow | None, found: int) -> None:
        """Count lines of addresses that this jail has banned as failures."""
        self.passed_over += found
        if window is not None:
            window.total_failed += found

    def takers(self, kind: str, status: int) -> tuple[Route, ...]:
        """Give the routes to jails that may count an event of this kind and status, or forget for it."""
        key = kind, status
        found = self._takers.get(key)
        if found is None:
            is_success = kind == LOGIN_SUCCESS
            found = tuple(each for each in self.routes if is_success or each.window.may_count(*key))
            if len(self._takers) >= KINDS_MOST:
                self._takers.clear()
            self._takers[key] = found
        return found

    def learn(self, key: str, ban: Ban | None) -> None:
        """Take what became true of a network, by its key: banned, or not any more."""
        host = key.encode()  # of a ban of some ports alone this is no host, and its lines are read on
        before = self._banned.pop(host, NOBODY).until
        if ban is None or self._telling is None or ban.network.prefixlen not in HOST_LENGTHS[ban.network.version]:
            return
        until = max(before, self._passes_until(ban))
        if until <= ban.start:
            return
        if len(self._banned) >= HOSTS_MOST:
            self._banned.popitem(last=False)
        self._banned[host] = Banned(until, self._windows.get(ban.jail))

    def _passes_until(self, ban: Ban) -> float:
        """Say until when no jail here could make a ban last longer. One cut short by a cap counts as what it was."""
        end = inf if ban.end is None else ban.end
        full = max(end, ban.start + self._bantimes.get(ban.jail, 0.0))
        if self._longest == inf:
            return end if full == inf else 0.0
        return min(end, full - self._longest + min(PASS_OVER_MOST, self._longest / 8))


def lanes_of(routes: Iterable[Route]) -> tuple[Lane, ...]:
    """Give the lanes that the routes of one source make."""
    by_name: dict[str, list[Route]] = {}
    for route in routes:
        by_name.setdefault(route.filter.name, []).append(route)
    return tuple(map(Lane, by_name.values()))
