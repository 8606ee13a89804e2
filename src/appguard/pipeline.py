"""From a chunk of lines to bans: filter, then every jail that listens to this source. No I/O; time is an argument.

An event counts in a jail only if its own time is within `findtime` (at least a minute) before now, or at most a minute
ahead (clocks differ), so a log read from its beginning bans nobody for last week. Events of safelisted addresses and
lines of a user who may not feed a jail never count. What is given back is all a caller must save for a restart to lose
nothing. Which lines a filter is given is in `lane.py`.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter

from appguard.address import Address, Host, NetworkSet
from appguard.ban import Ban, Fact
from appguard.briefs import Briefs, Told, taken
from appguard.counted import Failure
from appguard.event import LOGIN_SUCCESS, Event, What
from appguard.filters.base import Complains, Named
from appguard.found import Found
from appguard.jail_window import AHEAD_MOST, JailWindow
from appguard.lane import Lane, lanes_of
from appguard.lane import Route as Route  # what a pipeline is made of
from appguard.sources.base import Chunk

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An event of a client known by name, which waits for its addresses to be counted in a jail."""

    named: Named
    route: Route
    line: bytes


@dataclass(frozen=True, slots=True)
class Shared:
    """An event of a jail for which the fleet counts: `offer` is the ban it leads to if the fleet has counted enough.

    `bans` are what this host's own count leads to. Without an offer the fleet is to forget what it has counted for the
    key: its user has logged in.
    """

    window: JailWindow
    key: str
    event: Event
    offer: Ban | None = None
    bans: tuple[Ban, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a chunk led to: the keys whose counted events changed, by jail, and the bans.

    `unresolved` waits for addresses, `shared` is for the fleet to count. `untimely` is the number of events that some
    jail did not count because they were too old, or in the future, and `last_untimely` the last of these.
    """

    touched: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    bans: list[Ban] = field(default_factory=list[Ban])
    unresolved: list[Unresolved] = field(default_factory=list[Unresolved])
    shared: list[Shared] = field(default_factory=list[Shared])
    untimely: int = field(default=0, compare=False)
    last_untimely: Event | None = field(default=None, compare=False)


@dataclass(slots=True)
class LineCounts:
    """What became of the lines of one source: why some led to nothing.

    `matched` are the events in them, `untimely` as in `Outcome`, `refused` the lines of users who may feed no jail,
    `passed_over` those of banned addresses that were not read.
    """

    lines: int = 0
    matched: int = 0
    untimely: int = 0
    refused: int = 0
    passed_over: int = 0


class Pipeline:
    """The filters and jails of all sources."""

    def __init__(self, routes: Mapping[str, Sequence[Route]], safelist: NetworkSet) -> None:
        self._lanes = {source: lanes_of(each) for source, each in routes.items()}
        self._safelist = safelist
        self._strangers: set[int] = set()
        self._counts = defaultdict[str, LineCounts](LineCounts)

    @property
    def lines(self) -> int:
        """Give the number of lines of all sources."""
        return sum(each.lines for each in self._counts.values())

    @property
    def matched(self) -> int:
        """Give the number of events in them."""
        return sum(each.matched for each in self._counts.values())

    @property
    def refused(self) -> int:
        """Give the number of lines of users who may feed no jail."""
        return sum(each.refused for each in self._counts.values())

    @property
    def passed_over(self) -> int:
        """Give the number of lines of banned addresses that were not read."""
        return sum(lane.passed_over for lanes in self._lanes.values() for lane in lanes)

    def counts(self, source: str) -> LineCounts:
        """Say what became of the lines of one source."""
        return replace(self._counts[source], passed_over=sum(lane.passed_over for lane in self._lanes[source]))

    def complaints(self, source: str) -> list[str]:
        """Give the trouble that filters have with the lines of a source."""
        filters = (lane.routes[0].filter for lane in self._lanes[source])
        said = ((each.name, each.complaint) for each in filters if isinstance(each, Complains))
        return [f"filter {name}: {complaint}" for name, complaint in said if complaint]

    def may_be_slow(self, source: str) -> bool:
        """Say whether some line of a source may take a filter long, so that it has to be skipped."""
        filters = (lane.routes[0].filter for lane in self._lanes[source])
        return any(isinstance(each, Complains) and each.may_be_slow for each in filters)

    def learn(self, facts: Iterable[Fact]) -> None:
        """Take what became true of networks: what is banned, and what is not any more."""
        for fact in facts:
            for lanes in self._lanes.values():
                for lane in lanes:
                    lane.learn(fact.key, fact.ban)

    def feed(self, source: str, chunk: Chunk, now: float) -> Outcome:
        """Count the lines of a chunk at `now` (Unix seconds)."""
        outcome = Outcome()
        if not chunk.lines:
            return outcome
        lanes = self._lanes.get(source, ())
        permitted = self._permitted([route for lane in lanes for route in lane.routes], chunk.uid)
        counts, lines = self._counts[source], len(chunk.lines)
        counts.lines += lines
        if not permitted:
            counts.refused += lines
            return outcome
        found = Found()
        turn = _Turn(now, outcome, found, self._safelist)
        for lane in lanes:
            counts.matched += self._read(lane, chunk, permitted, turn)
        counts.untimely += outcome.untimely
        found.end()
        return outcome

    def _read(self, lane: Lane, chunk: Chunk, permitted: Sequence[Route], turn: "_Turn") -> int:
        """Read the lines of a chunk in order, and give how many tell of something.

        Those told in brief are counted together, up to one that is not.
        """
        lines = lane.lines(chunk, turn.now)
        is_all = chunk.uid is None or all(route in permitted for route in lane.routes)
        times = chunk.times or [turn.now] * len(lines)
        briefs = lane.briefs(lines, times) if is_all else Briefs.unread(lines)
        told = briefs.places(0, len(lines))
        unread = [places for what, places in told.items() if what is None or (what and lane.hearers[what] is None)]
        matched = sum(len(places) for what, places in told.items() if what)
        begin = 0
        for at in sorted(chain.from_iterable(unread)):
            event = lane.match(lines[at], times[at])
            if event is not None:
                matched += not briefs.whats[at]
                turn.count_briefs(lane, briefs, briefs.places(begin, at))
                self._count_event(lane, lines[at], event, permitted, turn)
                begin = at
        turn.count_briefs(lane, briefs, briefs.places(begin, len(lines)) if begin else told)
        return matched

    def _count_event(
        self, lane: Lane, line: bytes, event: Event | Named, permitted: Sequence[Route], turn: "_Turn"
    ) -> None:
        if isinstance(event, Named):
            waiting = (Unresolved(event, route, line) for route in lane.routes if route in permitted)
            turn.outcome.unresolved += waiting
        elif event.address not in self._safelist:
            for route in lane.takers(event.kind, event.status):
                if route in permitted:
                    turn.count(route, event, line)

    def resolve(self, unresolved: Unresolved, addresses: Sequence[Address], now: float) -> Outcome:
        """Count an event at `now` for each address that its client's name turned out to have."""
        outcome = Outcome()
        turn = _Turn(now, outcome, Found(), self._safelist)
        for address in addresses:
            if address not in self._safelist:
                turn.count(unresolved.route, unresolved.named.event_of(address), unresolved.line)
        return outcome

    def _permitted(self, routes: Sequence[Route], uid: int | None) -> Sequence[Route]:
        if uid is None:
            return routes
        permitted = [route for route in routes if route.users is None or uid in route.users]
        if not permitted and uid not in self._strangers:
            self._strangers.add(uid)
            log.warning("user %s reports events, but is in the users of no jail: its events do not count", uid)
        return permitted


@dataclass(frozen=True, slots=True)
class _Turn:
    """One chunk's turn: when it is, and what comes of it."""

    now: float
    outcome: Outcome
    found: Found
    safelist: NetworkSet

    def count(self, route: Route, event: Event, line: bytes) -> None:
        """Count an event of a kind and status that the jail may count."""
        window = route.window
        if not self.now - window.oldest < event.time <= self.now + AHEAD_MOST:
            self.outcome.untimely += (
                self.outcome.last_untimely is not event
            )  # another jail may have left it out already
            self.outcome.last_untimely = event
            return
        key = window.counted_key(event, may_count=event.kind != LOGIN_SUCCESS)  # the lane has asked
        if key:
            self.outcome.bans += _count(window, key, event, line, self.outcome, self.found, route.behind)
        elif window.clears(event):
            window.forget(window.key(event))
            self._touched(window).add(window.key(event))
            if window.is_shared:
                self.outcome.shared.append(Shared(window, window.key(event), event))

    def count_briefs(self, lane: Lane, briefs: Briefs, told: Mapping[Told, Sequence[int]]) -> None:
        """Count what lines at some places told in brief, and make the bans in the order of the lines."""
        heard = {what: hearing for what in told if what and (hearing := lane.hearers[what])}
        if not heard:
            return
        decided: list[tuple[int, Ban]] = []
        untimely: set[int] = set()  # several jails may leave one out
        of_strangers = self._of_strangers(briefs.hosts, {what: told[what] for what in heard})
        for route in lane.routes:
            places = [of_strangers[what] for what, hearing in heard.items() if route in hearing]
            if places:
                its = places[0] if len(places) == 1 else sorted(chain.from_iterable(places))
                decided += self._count_places(route, briefs, its, untimely)
        self.outcome.untimely += len(untimely)
        self.outcome.bans += (ban for _, ban in sorted(decided, key=itemgetter(0)))

    def _of_strangers(self, hosts: Sequence[Host], told: Mapping[What, Sequence[int]]) -> Mapping[What, Sequence[int]]:
        """Leave out the places of hosts that are safelisted."""
        if not self.safelist:
            return told
        heard = {hosts[place] for places in told.values() for place in places}
        safe = set(filter(self.safelist.holds, heard))
        if not safe:
            return told
        return {what: [place for place in places if hosts[place] not in safe] for what, places in told.items()}

    def _count_places(
        self, route: Route, briefs: Briefs, places: Sequence[int], untimely: set[int]
    ) -> list[tuple[int, Ban]]:
        window, hosts = route.window, briefs.hosts
        times = taken(briefs.times, places)
        earliest, latest = self.now - window.oldest, self.now + AHEAD_MOST
        if times and not (earliest < min(times) and max(times) <= latest):
            timely = [place for place, time in zip(places, times, strict=True) if earliest < time <= latest]
            untimely.update(set(places).difference(timely))
            places = timely
        places = window.counted_places(briefs, places)
        if not places:
            return []
        keys, bans = window.add_briefs(briefs, places)
        self._touched(window).update(keys, window.dropped)
        self.found.note(window, map(hosts.__getitem__, places), len(places))
        return [(place, _behind(ban, route.behind)) for place, ban in bans]

    def _touched(self, window: JailWindow) -> set[str]:
        return self.outcome.touched.setdefault(window.jail.name, set())


def count(window: JailWindow, event: Event, evidence: str, outcome: Outcome) -> tuple[Ban, ...]:
    """Count an event in a jail, if it counts there, and note what it touches; give the bans it leads to."""
    key = window.counted_key(event)
    return _count(window, key, event, evidence, outcome, Found()) if key else ()


def _count(
    window: JailWindow,
    key: str,
    event: Event,
    evidence: str | bytes,
    outcome: Outcome,
    found: Found,
    behind: tuple[str, ...] = (),
) -> tuple[Ban, ...]:
    found.note(window, (event.address.text,), 1)
    bans = window.add(key, event, evidence)
    touched = outcome.touched.setdefault(window.jail.name, set())
    touched.add(key)
    if window.dropped:
        touched.update(window.dropped)
    bans = tuple(_behind(ban, behind) for ban in bans)
    if not window.is_shared:
        return bans
    offer = bans[0] if bans else _behind(window.offer(key, event), behind)
    outcome.shared.append(Shared(window, key, event, offer, bans))
    return ()


def _behind(ban: Ban, behind: tuple[str, ...]) -> Ban:
    return replace(ban, via=(*ban.via, *behind)) if behind else ban


def failures_of(window: JailWindow, keys: set[str]) -> dict[tuple[str, str], tuple[Failure, ...]]:
    """Give what a jail now counts for some keys, as the daemon's state keeps it."""
    return {(window.jail.name, key): window.failures(key) for key in keys}
