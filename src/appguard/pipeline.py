"""From a chunk of lines to bans: filter, then every jail that listens to this source. No I/O; time is an argument.

An event counts in a jail only if its own time is within `findtime` (at least a minute) before now, or at most a minute
ahead (clocks differ), so a log read from its beginning bans nobody for last week. Events of safelisted addresses and
lines of a user who may not feed a jail never count. What is given back is all a caller must save for a restart to lose
nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

from appguard.address import Address, NetworkSet
from appguard.ban import Ban
from appguard.counted import Failure
from appguard.event import REQUEST, Event
from appguard.filters.base import Filter, Named
from appguard.jail_window import JailWindow
from appguard.sources.base import Chunk

AHEAD_MOST = 60.0  # seconds an event's time may lie in the future

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Route:
    """One source's way into one jail: the filter that reads it, and the user ids that may feed it (None: any).

    `behind` are machines that all clients of this source came through, where its lines do not say so.
    """

    filter: Filter
    window: JailWindow
    users: frozenset[int] | None = None
    behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An event of a client known by name, which waits for its addresses to be counted in a jail."""

    named: Named
    route: Route
    line: bytes


@dataclass(slots=True)
class Outcome:
    """What a chunk led to: the keys whose counted events changed, by jail, the bans, and what waits for addresses."""

    touched: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    bans: list[Ban] = field(default_factory=list[Ban])
    unresolved: list[Unresolved] = field(default_factory=list[Unresolved])


class Pipeline:
    """The filters and jails of all sources."""

    def __init__(self, routes: Mapping[str, Sequence[Route]], safelist: NetworkSet) -> None:
        self._routes = routes
        self._safelist = safelist
        self._strangers: set[int] = set()
        self.lines = 0
        self.matched = 0
        self.refused = 0

    def feed(self, source: str, chunk: Chunk, now: float) -> Outcome:
        """Count the lines of a chunk at `now` (Unix seconds)."""
        outcome = Outcome()
        routes = self._permitted(self._routes.get(source, ()), chunk.uid)
        self.lines += len(chunk.lines)
        if not routes:
            self.refused += len(chunk.lines)
            return outcome
        filters = {route.filter.name: route.filter for route in routes}
        for line, time in zip(chunk.lines, chunk.times or repeat(now), strict=False):
            for name, each in filters.items():
                event = each.match(line, time)
                if event is None:
                    continue
                self.matched += 1
                for route in routes:
                    if route.filter.name != name:
                        continue
                    if isinstance(event, Named):
                        outcome.unresolved.append(Unresolved(event, route, line))
                    else:
                        self._count(route, event, line, now, outcome)
        return outcome

    def resolve(self, unresolved: Unresolved, addresses: Sequence[Address], now: float) -> Outcome:
        """Count an event at `now` for each address that its client's name turned out to have."""
        outcome = Outcome()
        for address in addresses:
            self._count(unresolved.route, unresolved.named.event_of(address), unresolved.line, now, outcome)
        return outcome

    def _permitted(self, routes: Sequence[Route], uid: int | None) -> Sequence[Route]:
        if uid is None:
            return routes
        permitted = [route for route in routes if route.users is None or uid in route.users]
        if not permitted and uid not in self._strangers:
            self._strangers.add(uid)
            log.warning("user %s reports events, but is in the users of no jail: its events do not count", uid)
        return permitted

    def _count(self, route: Route, event: Event, line: bytes, now: float, outcome: Outcome) -> None:
        window = route.window
        is_counted = window.counts(event)
        if not is_counted and not window.clears(event):
            return
        if event.address in self._safelist or not now - window.oldest < event.time <= now + AHEAD_MOST:
            return
        if is_counted:
            bans = count(window, event, line.decode(errors="replace"), outcome)
            outcome.bans += (replace(ban, via=(*ban.via, *route.behind)) for ban in bans)
        else:
            window.forget(window.key(event))
            outcome.touched.setdefault(window.jail.name, set()).add(window.key(event))


def count(window: JailWindow, event: Event, evidence: str, outcome: Outcome) -> tuple[Ban, ...]:
    """Count an event in a jail that counts it, and note what it touches; give the bans it leads to."""
    log.log(logging.DEBUG if event.kind == REQUEST else logging.INFO, "[%s] Found %s", window.jail.name, event.address)
    bans = window.record(event, evidence)
    outcome.touched.setdefault(window.jail.name, set()).update((window.key(event), *window.dropped))
    return bans


def failures_of(window: JailWindow, keys: set[str]) -> dict[tuple[str, str], tuple[Failure, ...]]:
    """Give what a jail now counts for some keys, as the daemon's state keeps it."""
    return {(window.jail.name, key): window.failures(key) for key in keys}
