"""How long a ban lasts: the family of fail2ban's `bantime.increment`, and the earlier bans it counts.

Theory of operation. The n-th ban of a network by a jail lasts bantime * factor * 2^(n-1) (the doubling ends at the
21st), or bantime * factor * the n-th of `bantime_multipliers`, whose last one repeats; the first ban always lasts
bantime. `bantime_maxtime` caps that, and up to `bantime_rndtime` is added by chance, so that nobody can tell when to
come back. A ban is earlier only when it has ended: lines about somebody shut out are one attack, told late, and prolong
a ban but do not make it another one. A ban is remembered for a week after its end, and of at most `NETWORKS_MOST`
networks; those banned longest ago are forgotten first. What a person lifts is forgotten at once.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from appguard.ban import PERMANENT, Ban
from appguard.jail import Jail

NETWORKS_MOST = 100_000
REMEMBERED = 7 * 86_400.0  # seconds after the end of a ban
SAME = 1.0  # seconds by which two clocks tell the end of one ban differently
DOUBLINGS_MOST = 20
SWEPT_AT_ONCE = 200  # networks


@dataclass(frozen=True, slots=True)
class Past:
    """The bans of one network by one jail: how many, when the last began and ends (None: never)."""

    jail: str
    network: str
    bans: int
    start: float
    end: float | None

    def in_force(self, now: float) -> bool:
        """Say whether the last of them has not ended."""
        return self.end is None or self.end > now

    def is_remembered(self, now: float) -> bool:
        """Say whether it still counts."""
        return (self.start if self.end is None else self.end) + REMEMBERED > now


class History:
    """The past of every network. `changed` are the networks whose past was changed since it was last emptied."""

    def __init__(self, networks_most: int = NETWORKS_MOST) -> None:
        self._most = networks_most
        self._pasts: dict[str, tuple[Past, ...]] = {}  # by network, the one banned longest ago first; one a jail
        self.changed: set[str] = set()
        self._round: Iterator[str] = iter(())

    def earlier(self, jail: Jail, network: str, now: float) -> int:
        """Give how many bans of a network had ended before now, by this jail or, if it says so, by all."""
        pasts = self._pasts.get(network, ())
        counted = pasts if jail.bantime_overalljails else filter(None, [_of(jail.name, pasts)])
        return sum(past.bans - past.in_force(now) for past in counted if past.is_remembered(now))

    def in_force(self, jail: str, network: str, now: float) -> bool:
        """Say whether a jail has banned a network and that has not ended."""
        past = _of(jail, self._pasts.get(network, ()))
        return past is not None and past.in_force(now)

    def end(self, jail: str, network: str, now: float) -> None:
        """Take it that a ban is not in force any more: it was lifted elsewhere, or its time is over by our clock."""
        past = _of(jail, self._pasts.get(network, ()))
        if past is not None and past.in_force(now):
            self._pasts[network] = _with(replace(past, end=now), self._pasts[network])
            self.changed.add(network)

    def knows(self, ban: Ban) -> bool:
        """Say whether to note a ban would change nothing that matters."""
        past = _of(ban.jail, self._pasts.get(ban.where, ()))
        if past is None or not past.in_force(ban.start):
            return False
        return past.end is None or (ban.end is not None and ban.end < past.end + SAME)

    def note(self, ban: Ban) -> bool:
        """Note a ban that is in force; say whether it is another one, not one prolonged."""
        pasts = self._pasts.pop(ban.where, ())
        past = _of(ban.jail, pasts)
        is_new = past is None or not past.in_force(ban.start)
        newest = _another(past, ban) if past is None or is_new else _prolonged(past, ban)
        self._pasts[ban.where] = _with(newest, pasts)
        self.changed.add(ban.where)
        if len(self._pasts) > self._most:
            self.forget(next(iter(self._pasts)))
        return is_new

    def forget(self, network: str) -> None:
        """Forget a network."""
        if self._pasts.pop(network, None) is not None:
            self.changed.add(network)

    def sweep(self, now: float) -> None:
        """Forget the networks none of whose bans counts any more, looking at some of all at a time, in rounds."""
        networks = tuple(islice(self._round, SWEPT_AT_ONCE))
        if not networks:
            self._round = iter(tuple(self._pasts))
            networks = tuple(islice(self._round, SWEPT_AT_ONCE))
        for network in networks:
            if not any(past.is_remembered(now) for past in self._pasts.get(network, ())):
                self.forget(network)

    def restore(self, saved: Iterable[Past]) -> None:
        """Take back what was saved, in any order."""
        for past in sorted(saved, key=lambda past: past.start):
            self._pasts[past.network] = _with(past, self._pasts.pop(past.network, ()))
        while len(self._pasts) > self._most:
            self.forget(next(iter(self._pasts)))

    def of(self, network: str) -> tuple[Past, ...]:
        """Give the past of a network."""
        return self._pasts.get(network, ())


def _of(jail: str, pasts: Sequence[Past]) -> Past | None:
    return next((past for past in pasts if past.jail == jail), None)


def _with(newest: Past, pasts: Sequence[Past]) -> tuple[Past, ...]:
    """Give pasts with another one in place of that of its jail."""
    return (*(past for past in pasts if past.jail != newest.jail), newest)


def _another(past: Past | None, ban: Ban) -> Past:
    bans = past.bans if past is not None and past.is_remembered(ban.start) else 0
    return Past(ban.jail, ban.where, bans + 1, ban.start, ban.end)


def _prolonged(past: Past, ban: Ban) -> Past:
    end = None if past.end is None or ban.end is None else max(past.end, ban.end)
    return replace(past, end=end)


def bantime_of(jail: Jail, earlier: int, chance: Callable[[], float] = random.random) -> float:
    """Give the seconds that a ban by this jail lasts after so many earlier ones; -1 is for ever."""
    bantime = float(jail.bantime)
    if bantime == PERMANENT or not jail.bantime_increment:
        return bantime
    if earlier:
        bantime *= jail.bantime_factor * _multiplier(jail, earlier)
    if jail.bantime_maxtime != PERMANENT:
        bantime = min(bantime, float(jail.bantime_maxtime))
    rndtime = float(jail.bantime_rndtime)
    return bantime + (math.floor(chance() * (rndtime + 1)) if rndtime else 0)


def _multiplier(jail: Jail, earlier: int) -> float:
    if jail.bantime_multipliers:
        return jail.bantime_multipliers[min(earlier, len(jail.bantime_multipliers) - 1)]
    return 2.0 ** min(earlier, DOUBLINGS_MOST)
