"""The store of one process: its counters, and bans in dictionaries, gone when the process ends."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from threading import Lock

from appguard.address import Address, Network
from appguard.ban import Ban, BanTable, Fact, Kind, supersedes
from appguard.fork import in_every_child
from appguard.ports import is_web, parse_key
from appguard.stores.base import Changes, Closing, Snapshot
from appguard.stores.ends import End, Ends
from appguard.stores.memory_counters import KEYS_MOST, MemoryCounters
from appguard.stores.sure_time import SureTime

FACTS_KEPT = 20_000
EXPIRED_AT_ONCE = 500


class MemoryBanSet:
    """Bans of one process; `clock` gives Unix seconds. `complaint` says what is wrong with a set that is shared.

    What is decided here is noted as decided on `host`. What has ended is dropped by `sure`, else by the clock.
    """

    name = "local://"
    complaint = ""
    host = ""

    def __init__(self, clock: Callable[[], float] = time.time, sure: SureTime | None = None) -> None:
        self._clock = clock
        self._sure = sure or SureTime(clock, clock)
        self._table, self._ends = BanTable(), Ends()
        self._facts: deque[Fact] = deque(maxlen=FACTS_KEPT)
        self._lifted: dict[str, Fact] = {}
        self._cursor = self._version = self._lifts = 0
        self._decided: set[str] | None = None  # the networks decided about during a restore
        self._renew_lock()
        in_every_child(self, MemoryBanSet._renew_lock)

    def _renew_lock(self) -> None:
        self._bans_lock = Lock()

    @property
    def lifts(self) -> int:
        """Give a number that changes when a ban was lifted."""
        return self._lifts

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force; give it as kept, or None if one in force already outlasts it."""
        now = self._clock()
        with self._bans_lock:
            ban = ban.starting(now)
            if not ban.in_force(now) or not supersedes(ban, self._table.same(ban), now):
                return None
            kept = replace(ban, version=self._next_version(now), host=ban.host or self.host)
            self._make(Fact.of(kept))
            return kept

    def unban(self, network: Network, ports: str = "") -> Ban | None:
        """Lift the ban of exactly this network and these ports; give the ban lifted."""
        now = self._clock()
        with self._bans_lock:
            ban = self._table.exact(network, ports)
            if ban is None or not ban.in_force(now):
                return None
            self._make(Fact.lifting(ban, self._next_version(now), self.host))
            return ban

    def holds(self, ban: Ban) -> bool:
        """Say whether a ban of the same network and ports is in force."""
        held = self._table.same(ban)
        return held is not None and held.in_force(self._clock())

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that shuts the address out of what the web serves."""
        table = self._table
        return table.find(address, self._clock()) if table.may_hold(address) else None

    def ported(self, address: Address) -> tuple[Ban, ...]:
        """Give the bans in force that shut the address out of some ports alone."""
        return tuple(self._table.ported(address, self._clock()))

    def for_apps(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """Give what facts mean to apps, which know no ports: of each network the longest ban that is about the web."""
        if not self._table.has_ports and not any(fact.ports for fact in facts):
            return facts
        now = self._clock()
        found = ((fact, self._table.of_web(fact.network, now)) for fact in facts if is_web(fact.ports))
        return [
            Fact(fact.network, fact.version, None) if ban is None else Fact.of(replace(ban, ports=""))
            for fact, ban in found
        ]

    def bans_for_apps(self) -> Sequence[Ban]:
        """Give all bans in force as they mean something to apps."""
        bans = self.snapshot().bans
        if not self._table.has_ports:
            return bans
        facts = self.for_apps([Fact.of(ban) for ban in {ban.where: ban for ban in bans if is_web(ban.ports)}.values()])
        return [fact.ban for fact in facts if fact.ban is not None]

    def snapshot(self) -> Snapshot:
        """Give all bans in force."""
        with self._bans_lock:
            return Snapshot(self._cursor, tuple(self._table.in_force(self._clock())))

    @property
    def now(self) -> float:
        """Give the time by which bans end, Unix seconds."""
        return self._clock()

    def keeps(self, ban: Ban) -> bool:
        """Say whether there is a ban of the same network and ports, which may have ended and may count again."""
        return self._table.same(ban) is not None

    def held(self) -> list[Ban]:
        """Give all bans there are, some of which may have ended: for who looks at them in slices."""
        with self._bans_lock:
            return self._table.all()

    def is_current(self, fact: Fact) -> bool:
        """Say whether a fact that was told is still what is known."""
        if fact.ban is not None:
            return self._table.same(fact.ban) is fact.ban
        return self._table.exact(fact.network, fact.ports) is None

    def of_network(self, network: Network) -> list[Ban]:
        """Give all bans in force of exactly this network, whichever ports they are about."""
        now = self._clock()
        return [ban for ban in self._table.of_network(network) if ban.in_force(now)]

    def kinds(self) -> Counter[Kind]:
        """Give how many bans in force there are of each kind, without looking at all."""
        now = self._clock()
        with self._bans_lock:
            found = self._table.kinds.copy()
            ended = {ban.key: ban for end in self._ends.over(now) if (ban := self._ending(end, now))}
        found.subtract(ban.kind for ban in ended.values())
        return +found

    def _ending(self, end: End, now: float) -> Ban | None:
        """Give the ban of an end, if it has not been extended or lifted since."""
        _, version, key = end
        ban = self._table.exact(*parse_key(key))
        return ban if ban is not None and ban.version == version and not ban.in_force(now) else None

    def follow(self, cursor: int) -> Changes | None:
        """Give what changed since the cursor; None if it is older than the kept facts."""
        with self._bans_lock:
            missed = self._cursor - cursor
            if not 0 <= missed <= len(self._facts):
                return None
            return Changes(self._cursor, tuple(islice(reversed(self._facts), missed))[::-1])

    def begin_restore(self) -> None:
        """Say that bans are going to be restored, and others may be decided meanwhile."""
        self._decided = set()

    def restore_lifts(self, lifts: Sequence[Fact]) -> None:
        """Take back what was lifted, with the versions the lifts had; before the bans."""
        with self._bans_lock:
            self._lifted = {lift.key: lift for lift in lifts} | self._lifted
            self._version = max(self._version, *(lift.version for lift in lifts), 0)

    def lifted(self) -> list[Fact]:
        """Give what was lifted lately."""
        with self._bans_lock:
            return list(self._lifted.values())

    def restore(self, bans: Sequence[Ban]) -> None:
        """Take back bans with the versions they had; what is decided meanwhile counts as decided after them."""
        now = self._clock()
        with self._bans_lock:
            for ban in bans:
                self._version = max(self._version, ban.version)
                key = ban.key
                known = self._table.same(ban)
                if self._decided is None or key not in self._decided:
                    if ban.version > max(each.version if each else -1 for each in (known, self._lifted.get(key))):
                        self._take_back(Fact.of(ban))
                elif known is not None and not supersedes(known, ban, now):
                    kept = replace(ban, version=self._next_version(now))
                    self._make(Fact.of(kept))

    def end_restore(self) -> None:
        """Say that all bans are restored."""
        self._decided = None

    def _take_back(self, fact: Fact) -> None:
        """Take a fact that was true before this process."""
        if fact.ban is not None:
            self._put(fact.ban)
            if fact.ban.in_force(self._clock()):
                self._tell(fact)

    def expire(self) -> list[Ban]:
        """Drop bans that have ended, some hundreds at a time; give them, none if all are dropped.

        When the clock was set back, whoever follows needs a new snapshot: bans may count again, or end earlier.
        """
        ended, kept = list[Ban](), list[End]()
        with self._bans_lock:
            if self._sure.was_set_back():
                for held in self._table.all():
                    self._right(held)
                self._ends.renew(self._table)
                self._break_history()
            now, sure = self._clock(), self._sure.now()
            while len(ended) + len(kept) < EXPIRED_AT_ONCE and (end := self._ends.take(now, sure)):
                ban = self._ending(end, now)
                if ban is not None and self._sure.has_ended(ban):
                    self._table.drop(ban.network, ban.ports)
                    ended.append(ban)
                elif ban is not None:
                    kept.append(end)
            self._ends.keep(kept)
        return ended

    def close(self) -> None:
        """Nothing is open."""

    def _make(self, fact: Fact) -> None:
        """Take a fact decided in this process."""
        if self._decided is not None:
            self._decided.add(fact.key)
        self._apply(fact)

    def _apply(self, fact: Fact) -> None:
        if fact.ban is not None:
            self._lifted.pop(fact.key, None)
            self._put(fact.ban)
        else:
            self._table.drop(fact.network, fact.ports)
            self._lifts += 1
            self._lifted[fact.key] = fact
            if len(self._lifted) > FACTS_KEPT:
                del self._lifted[next(iter(self._lifted))]
        self._version = max(self._version, fact.version)
        self._tell(fact)

    def _put(self, ban: Ban) -> None:
        self._table.put(ban)
        self._ends.put(ban)
        if self._ends.is_stale(len(self._table)):
            self._ends.renew(self._table)

    def _right(self, ban: Ban) -> None:
        """Let a ban that was made while the clock was ahead last as long as it should."""
        righted = self._sure.righted(ban)
        if righted is not ban:
            self._table.put(replace(righted, version=self._next_version(self._clock())))

    def _next_version(self, now: float) -> int:
        self._version = max(self._version + 1, int(now * 1_000_000))
        return self._version

    def _break_history(self) -> None:
        """Let whoever follows need a new snapshot."""
        self._facts.clear()
        self._cursor += 1

    def _tell(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._cursor += 1


class MemoryStore(MemoryCounters, MemoryBanSet, Closing):
    """Counters and ban set of one process."""

    name = "memory://"

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        keys_most: int = KEYS_MOST,
    ) -> None:
        MemoryCounters.__init__(self, monotonic, keys_most)
        MemoryBanSet.__init__(self, clock)

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force; give it as kept, or None if one in force already outlasts it."""
        self.expire()
        return super().ban(ban)

    async def close_async(self) -> None:
        """Nothing is open."""
