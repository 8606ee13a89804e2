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

from appguard.address import Address, NetworkSet
from appguard.ban import Ban, Fact
from appguard.counted import Failure
from appguard.event import LOGIN_SUCCESS, Brief, Event
from appguard.filters.base import Complains, Named, Told
from appguard.found import Found
from appguard.jail_window import JailWindow
from appguard.lane import Lane, lanes_of
from appguard.lane import Route as Route  # what a pipeline is made of
from appguard.sources.base import Chunk

AHEAD_MOST = 60.0  # seconds an event's time may lie in the future

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
        for lane in lanes:
            counts.matched += self._read(lane, chunk, permitted, _Turn(now, outcome, found))
        counts.untimely += outcome.untimely
        found.end()
        return outcome

    def _read(self, lane: Lane, chunk: Chunk, permitted: Sequence[Route], turn: "_Turn") -> int:
        """Read the lines of a chunk in order, and give how many tell of something.

        Those told in brief are gathered and counted together.
        """
        lines = lane.lines(chunk, turn.now)
        is_all = chunk.uid is None or all(route in permitted for route in lane.routes)
        times = chunk.times or [turn.now] * len(lines)
        briefs = lane.briefs(lines, times) if is_all else [None] * len(lines)
        matched = sum(map(bool, briefs))
        hearers, holds = lane.hearers, self._safelist.holds if self._safelist else None
        for number, brief in enumerate(briefs):
            puts = hearers[brief[0]] if brief else brief
            if puts is None:
                event = lane.match(lines[number], times[number])
                if event is not None:
                    matched += not brief
                    turn.count_gathered(hearers.gathered, briefs)
                    self._count_event(lane, lines[number], event, permitted, turn)
            elif puts and brief and (holds is None or not holds(brief[1])):
                for put in puts:
                    put(brief)
        turn.count_gathered(hearers.gathered, briefs)
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
        turn = _Turn(now, outcome, Found())
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

    def count_gathered(self, gathered: Iterable[tuple[Route, list[Brief]]], told: Sequence[Told]) -> None:
        """Count what was gathered of what lines told in brief, and make the bans in the order of the lines."""
        decided: list[list[tuple[Brief, Ban]]] = []
        untimely: set[int] = set()  # of briefs, each by its id: several jails may leave it out
        for route, briefs in gathered:
            if briefs:
                decided.append(self._count_briefs(route, briefs, untimely))
                briefs.clear()
        self.outcome.untimely += len(untimely)
        decided = [bans for bans in decided if bans]
        if len(decided) > 1:
            places = {id(brief): place for place, brief in enumerate(told)}
            decided = [sorted(chain(*decided), key=lambda each: places[id(each[0])])]
        self.outcome.bans += (ban for _, ban in chain(*decided))

    def _count_briefs(self, route: Route, briefs: Sequence[Brief], untimely: set[int]) -> list[tuple[Brief, Ban]]:
        window, earliest, latest = route.window, self.now - route.window.oldest, self.now + AHEAD_MOST
        times = [brief[2] for brief in briefs]
        if not (earliest < min(times) and max(times) <= latest):
            untimely.update(id(brief) for brief in briefs if not earliest < brief[2] <= latest)
            briefs = [brief for brief in briefs if earliest < brief[2] <= latest]
        briefs = window.counted_briefs(briefs)
        if not briefs:
            return []
        keys, bans = window.add_briefs(briefs)
        self._touched(window).update(keys, window.dropped)
        self.found.note(window, [brief[1] for brief in briefs])
        return [(brief, _behind(ban, route.behind)) for brief, ban in bans]

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
    found.note(window, (event.address.text,))
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
