"""Counters of one process, in a dictionary.

They hold at most `keys_most` keys. When they are full, the key that was quiet longest makes room, but never one that is
over its limit: a flood of other addresses cannot make the counters forget an offender. If every key looked at is over
its limit, the new key is admitted uncounted.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf

from appguard.fork import in_every_child
from appguard.limit import ADMITTED, Hit, Verdict, admitted, least_of
from appguard.rate import Left, SlidingWindow, TokenBucket
from appguard.turn import Turn

KEYS_MOST = 100_000
EVICTION_TRIES = 16


class MemoryCounters:
    """Counters of one process; `monotonic` gives seconds that never step back."""

    is_immediate = True

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, keys_most: int = KEYS_MOST) -> None:
        self._monotonic = monotonic
        self._keys_most = keys_most
        self.resets = 0
        self._renew_counters()
        in_every_child(self, MemoryCounters._renew_counters)

    def _renew_counters(self) -> None:
        self._counters: OrderedDict[str, SlidingWindow | TokenBucket] = OrderedDict()  # the latest request last
        self._counters_turn = Turn()

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        if len(hits) != 1:
            return self._counters_turn.do(self._check_all, hits) if hits else ADMITTED
        hit, turn, clock = hits[0], self._counters_turn, self._monotonic  # `opened` says why
        key, cost = hit.key, hit.cost
        while True:  # what `Turn.do` does, with one call less
            try:
                del turn[1]
            except IndexError:
                turn.wait()
                continue
            try:  # the same as below, for one hit, as most requests have, in half the time
                counters, now = self._counters, clock()  # not before the wait: time would step back
                known = counters.get(key)
                counter = known or hit.rate.counter()
                left = counter.take(now, cost)
                if left is None:
                    return Verdict(hit, counter.wait(now, cost))
                if known is not None:
                    counters.move_to_end(key)
                elif cost:
                    self._keep(key, counter, now)
                return admitted(now, (0, left[0], left[1]) if hit.policy is not None else None)
            finally:
                turn.append(None)

    def _check_all(self, hits: Sequence[Hit]) -> Verdict:
        now = self._monotonic()
        refused: Hit | None = None
        longest = 0.0
        found = [self._counters.get(hit.key) or hit.rate.counter() for hit in hits]
        for hit, counter in zip(hits, found, strict=True):
            wait = counter.wait(now, hit.cost)
            if wait > longest:
                refused, longest = hit, wait
        if refused is not None:
            return Verdict(refused, longest)
        left: list[Left] = []
        for hit, counter in zip(hits, found, strict=True):
            left.append(counter.take(now, hit.cost) or counter.left(now))
            if hit.cost:
                self._keep(hit.key, counter, now)
        return admitted(now, least_of(hits, left))

    async def check_async(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Do what `check` does; it never blocks."""
        return self.check(hits)

    def give_back(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Take reserved hits out again."""
        self._counters_turn.do(self._give_back, hits, time)

    def _give_back(self, hits: Sequence[Hit], time: float) -> None:
        now = self._monotonic()
        for hit in hits:
            counter = self._counters.get(hit.key)
            if counter is not None:
                counter.give_back(time, now, hit.cost)

    async def give_back_async(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do what `give_back` does; it never blocks."""
        self.give_back(hits, time)

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key."""
        self._counters_turn.do(self._forget, key)
        self.resets += 1

    def _forget(self, key: str) -> None:
        for mine in [mine for mine in self._counters if mine.startswith(f"{key} ")]:
            del self._counters[mine]

    def _keep(self, key: str, counter: SlidingWindow | TokenBucket, now: float) -> None:
        counters = self._counters
        if key in counters:
            counters.move_to_end(key)
        elif len(counters) < self._keys_most or self._make_room(now):
            counters[key] = counter

    def _make_room(self, now: float) -> bool:
        for _ in range(EVICTION_TRIES):
            oldest, counter = self._counters.popitem(last=False)
            if counter.wait(now) == 0.0:
                return True
            self._counters[oldest] = counter
        return False
