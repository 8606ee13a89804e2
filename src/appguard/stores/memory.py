"""The store of one process: counters and bans in dictionaries, gone when the process ends.

The counters hold at most `keys_most` keys. When they are full, the key that was quiet longest makes room, but never
one that is over its limit: a flood of other addresses cannot make the counters forget an offender. If every key looked
at is over its limit, the new key is admitted uncounted.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import Self

from appguard.address import Address, Network, parse_network
from appguard.ban import Ban, BanTable, Fact, supersedes
from appguard.fork import in_every_child
from appguard.limit import ADMITTED, Hit, SlidingWindow, Verdict
from appguard.stores.base import Changes, Snapshot

KEYS_MOST = 100_000
EVICTION_TRIES = 16
FACTS_KEPT = 20_000
ENDS_SPARE = 1_000


class MemoryCounters:
    """Counters of one process; `monotonic` gives seconds that never step back."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, keys_most: int = KEYS_MOST) -> None:
        self._monotonic = monotonic
        self._keys_most = keys_most
        self._renew_counters()
        in_every_child(self, MemoryCounters._renew_counters)

    def _renew_counters(self) -> None:
        self._windows: dict[str, SlidingWindow] = {}
        self._counters_lock = Lock()

    def check(self, hits: Sequence[Hit]) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        now = self._monotonic()
        refused: Hit | None = None
        longest = 0.0
        with self._counters_lock:
            windows = [self._window(hit) for hit in hits]
            for hit, window in zip(hits, windows, strict=True):
                wait = window.wait(now)
                if wait > longest:
                    refused, longest = hit, wait
            if refused is not None:
                return Verdict(refused, longest)
            for hit, window in zip(hits, windows, strict=True):
                window.add(now)
                self._keep(hit.key, window, now)
        return ADMITTED

    async def check_async(self, hits: Sequence[Hit]) -> Verdict:
        """Do what `check` does; it never blocks."""
        return self.check(hits)

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key."""
        with self._counters_lock:
            for mine in [mine for mine in self._windows if mine.startswith(f"{key} ")]:
                del self._windows[mine]

    def _window(self, hit: Hit) -> SlidingWindow:
        return self._windows.get(hit.key) or SlidingWindow(hit.limit)

    def _keep(self, key: str, window: SlidingWindow, now: float) -> None:
        known = self._windows.pop(key, None)
        if known is None and len(self._windows) >= self._keys_most and not self._make_room(now):
            return
        self._windows[key] = window  # last: the dictionary is in the order of the latest request

    def _make_room(self, now: float) -> bool:
        for _ in range(EVICTION_TRIES):
            oldest = next(iter(self._windows))
            window = self._windows.pop(oldest)
            if window.wait(now) == 0.0:
                return True
            self._windows[oldest] = window
        return False


class MemoryBanSet:
    """Bans of one process; `clock` gives Unix seconds. `complaint` says what is wrong with a set that is shared."""

    name = "local://"
    complaint = ""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._table = BanTable()
        self._ends: list[tuple[float, int, str]] = []
        self._facts: deque[Fact] = deque(maxlen=FACTS_KEPT)
        self._lifted: dict[str, int] = {}
        self._cursor = 0
        self._version = 0
        self._renew_lock()
        in_every_child(self, MemoryBanSet._renew_lock)

    def _renew_lock(self) -> None:
        self._bans_lock = Lock()

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force; give it as kept, or None if one in force already outlasts it."""
        now = self._clock()
        with self._bans_lock:
            ban = ban.starting(now)
            if not ban.in_force(now) or not supersedes(ban, self._table.exact(ban.network), now):
                return None
            kept = replace(ban, version=self._next_version(now))
            self._make(Fact(kept.network, kept.version, kept))
            return kept

    def unban(self, network: Network) -> Ban | None:
        """Lift the ban of exactly this network; give the ban lifted."""
        now = self._clock()
        with self._bans_lock:
            ban = self._table.exact(network)
            if ban is None or not ban.in_force(now):
                return None
            self._make(Fact(network, self._next_version(now), None))
            return ban

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that holds the address."""
        return self._table.find(address, self._clock())

    def snapshot(self) -> Snapshot:
        """Give all bans in force."""
        now = self._clock()
        with self._bans_lock:
            return Snapshot(self._cursor, tuple(ban for ban in self._table if ban.in_force(now)))

    def follow(self, cursor: int) -> Changes | None:
        """Give what changed since the cursor; None if it is older than the kept facts."""
        with self._bans_lock:
            missed = self._cursor - cursor
            if not 0 <= missed <= len(self._facts):
                return None
            return Changes(self._cursor, tuple(islice(reversed(self._facts), missed))[::-1])

    def restore(self, bans: Sequence[Ban]) -> None:
        """Take back bans with the versions they had."""
        with self._bans_lock:
            for ban in bans:
                self._put(ban)
                self._version = max(self._version, ban.version)

    def expire(self) -> list[Ban]:
        """Drop the bans that have ended; give them."""
        now = self._clock()
        ended: list[Ban] = []
        with self._bans_lock:
            while self._ends and self._ends[0][0] <= now:
                _, version, key = heapq.heappop(self._ends)
                ban = self._table.exact(parse_network(key))
                if ban is not None and ban.version == version and not ban.in_force(now):
                    self._table.drop(ban.network)
                    ended.append(ban)
        return ended

    def close(self) -> None:
        """Nothing is open."""

    def _make(self, fact: Fact) -> None:
        """Take a fact decided in this process."""
        self._apply(fact)

    def _apply(self, fact: Fact) -> None:
        if fact.ban is not None:
            self._lifted.pop(fact.key, None)
            self._put(fact.ban)
        else:
            self._table.drop(fact.network)
            self._lifted[fact.key] = fact.version
            if len(self._lifted) > FACTS_KEPT:
                del self._lifted[next(iter(self._lifted))]
        self._version = max(self._version, fact.version)
        self._tell(fact)

    def _put(self, ban: Ban) -> None:
        self._table.put(ban)
        if ban.end is not None:
            heapq.heappush(self._ends, (ban.end, ban.version, ban.key))
        if len(self._ends) > 2 * len(self._table) + ENDS_SPARE:  # mostly of bans since extended or lifted
            self._ends = [(mine.end, mine.version, mine.key) for mine in self._table if mine.end is not None]
            heapq.heapify(self._ends)

    def _next_version(self, now: float) -> int:
        self._version = max(self._version + 1, int(now * 1_000_000))
        return self._version

    def _tell(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._cursor += 1


class MemoryStore(MemoryCounters, MemoryBanSet):
    """Counters and ban set of one process."""

    name = "memory://"

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        MemoryCounters.__init__(self, monotonic)
        MemoryBanSet.__init__(self, clock)

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force; give it as kept, or None if one in force already outlasts it."""
        self.expire()
        return super().ban(ban)

    async def close_async(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
