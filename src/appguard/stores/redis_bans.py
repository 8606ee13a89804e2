"""The fleet's ban set in Redis, and this process's replica of it.

Theory of operation. Every ban and every lift is a fact with a version; of two facts about a network the higher
version wins, here (`Replica.merge`) as in Redis (`merge.lua`). A change is made in the replica first, under a
version from this process's estimate of Redis TIME, and is in force here at once; one thread then tells Redis, again
and again until it is told and heard back (`Untold`), with the version it had, so that a fact kept back by an outage
never undoes what was decided later elsewhere. What Redis keeps instead, the replica takes.

Another thread follows. It reads the newest entry of the stream, then all facts, then what the stream adds. At every
connection and once a second it proves that nothing was lost: the epoch is the one it has read, and the last entry it
saw is there unchanged. If not (failover with loss, FLUSHALL, eviction, trimming) it reads everything anew. What it
knows and Redis has lost is told again with the version it had: at once by the process that decided it, and by every
other daemon a little later if nobody has, because its maker may be gone. An app, which may only read, forgets it when
the daemons had time enough.

Ends are kept by this process's clock, and its offset to Redis TIME is measured all the time: when either clock is set,
the ends are moved. Both threads start at the first use and belong to this process; `close` ends them.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from threading import Event, Thread
from typing import Any

from appguard.address import Address, Network
from appguard.ban import Ban, Fact
from appguard.fork import in_every_child
from appguard.ports import parse_key
from appguard.stores.base import Changes, Snapshot
from appguard.stores.recorded_replica import RecordedReplica
from appguard.stores.redis_advice import explained
from appguard.stores.redis_commands import Commands, PooledCommands, Script, scan_ahead
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import CHANGES, FACTS, fields_of, parse_record, record_of
from appguard.stores.redis_uri import parse_redis_uri
from appguard.stores.replica import END_TOLERANCE
from appguard.stores.sure_time import SureTime
from appguard.stores.untold import Untold

BLOCK = 1.0  # seconds a follower waits for news before it checks its continuity
ANSWER = 2.0  # seconds Redis may take to answer the threads
RETRY = 0.5  # seconds between attempts while Redis is down
WITNESS_AFTER = 1.0, 2.5  # seconds in which its maker tells again what Redis has lost, before others do
FORGET_AFTER = 10.0  # seconds after which an app forgets what nobody has told again
SWEPT = 1_000
STREAM_MOST = 20_000
TOLD_AT_ONCE = 200
PAGE = 5_000
NOTHING_SEEN = b"0-0"

Entry = tuple[bytes, list[bytes]]  # of a stream: id, and fields and values in turn

log = logging.getLogger("appguard.stores")


class RedisBanSet(RecordedReplica):
    """The replica of a fleet's ban set. `on_change` is called from its threads after the replica changed."""

    def __init__(
        self,
        uri: str,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] | None = None,
        sure: SureTime | None = None,
    ) -> None:
        super().__init__(clock, sure)
        self._uri = parse_redis_uri(uri)
        self.name = str(self._uri)
        self._merge_script = Script("merge")
        self._sweep_script = Script("sweep")
        self._on_change = on_change or (lambda: None)
        self._is_followed = on_change is not None
        self._own: set[str] = set()  # networks this process decided about
        self._epoch: bytes | None = None
        self._last = (b"", b"")  # id and fact of the last entry seen
        self._lost: dict[str, Fact] = {}  # what Redis has lost and others decided
        self._lost_until = 0.0
        self._restored: deque[str] = deque()  # keys of bans that are back since all was read, or a part of it
        self._untold = Untold()
        self._renew_threads()
        in_every_child(self, RedisBanSet._renew_threads)

    def _renew_threads(self) -> None:
        self._threads: list[Thread] = []
        self._has_started = False
        self._stop = Event()
        self._synced = Event()
        self._complaints: dict[str, str] = {}
        self.complaint = ""
        self._untold = self._untold.renewed()

    # What the BanSet protocol asks; see `base.BanSet`.

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force here at once, and in the fleet as soon as Redis answers."""
        self.start()
        return super().ban(ban)

    def unban(self, network: Network, ports: str = "") -> Ban | None:
        """Lift the ban of exactly this network and these ports here at once, in the fleet as soon as Redis answers."""
        self.start()
        return super().unban(network, ports)

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that holds the address, as far as the replica knows."""
        if not self._has_started:
            self.start()
        table = self._table
        return table.find(address, self._clock()) if table.may_hold(address) else None

    def snapshot(self) -> Snapshot:
        """Give all bans in force, as far as the replica knows."""
        self.start()
        return super().snapshot()

    def follow(self, cursor: int) -> Changes | None:
        """Give what changed in the replica since the cursor."""
        self.start()
        return super().follow(cursor)

    def expire(self) -> list[Ban]:
        """Drop the bans that have ended; give them."""
        ended = super().expire()
        self._own.difference_update(ban.key for ban in ended)
        return ended

    @property
    def offset(self) -> float:
        """Give Redis TIME minus this clock, in seconds."""
        return self._offset

    def adopt(self, fact: Fact) -> bool:
        """Take what Redis has decided for this process as its own; say whether that was news."""
        self._own.add(fact.key)
        self._untold.expect(fact)
        if self.merge(fact):
            return True
        self._untold.heard((fact,))
        return False

    # Life of the threads.

    def start(self) -> None:
        """Start following, if this process does not yet; where it has no thread to spare, the next look tries again."""
        if self._has_started:
            return
        with self._bans_lock:
            self._stop.clear()
            try:
                for work in (self._following, self._telling)[len(self._threads) :]:
                    thread = Thread(target=self._run, args=(work,), name=f"appguard-{work.__name__}", daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError as error:
                if not self.complaint:
                    log.error("%s: %s: the bans of others are not in force here", self.name, error)
                self._complaints["start"] = self.complaint = str(error)
                return
            self._has_started = True
            self._complaints.pop("start", None)
            self.complaint = next(iter(self._complaints.values()), "")

    def wait_synced(self, seconds: float) -> bool:
        """Wait until the replica has read the fleet's bans once; say whether it has."""
        self.start()
        return self._synced.wait(seconds)

    def close(self) -> None:
        """Stop following and telling. What Redis has not been told yet is told after the next start."""
        self._stop.set()
        self._untold.wake()
        for thread in self._threads:
            thread.join(BLOCK + ANSWER)
        self._threads, self._has_started = [], False
        self._synced.clear()

    def _run(self, work: Callable[[PooledCommands], None]) -> None:
        while not self._stop.is_set():
            try:
                client = connect_to(self._uri, BLOCK + ANSWER, FACTS)
                try:
                    work(client)
                finally:
                    client.close()
            except Exception as error:  # noqa: BLE001 - a thread that ended would hear of nothing any more
                why = explained(error, self._uri)
                if not self.complaint:
                    log.error("%s: %s: the last known bans stay in force", self.name, why)
                self._complaints[work.__name__] = self.complaint = why
                self._stop.wait(RETRY)

    def _works(self, work: Callable[[PooledCommands], None]) -> None:
        if not self._complaints.pop(work.__name__, None):
            return
        self.complaint = next(iter(self._complaints.values()), "")
        if not self.complaint:
            log.warning("%s answers again", self.name)

    # Telling.

    def _make(self, fact: Fact) -> None:
        super()._make(fact)
        self._own.add(fact.key)
        self._untold.put(fact, "new")

    def _take_back(self, fact: Fact) -> None:
        super()._take_back(fact)
        self._restored.append(fact.key)

    def _telling(self, client: Commands) -> None:
        while not self._stop.is_set():
            batch = self._untold.take(TOLD_AT_ONCE, BLOCK)
            if not batch:
                continue
            told = [fields_of(fact, self._offset, how) for fact, how in batch]
            arguments = [STREAM_MOST, *chain.from_iterable(told)]
            reply = self._merge_script.call(client, (FACTS, CHANGES), arguments)
            self._works(self._telling)
            for (fact, _), fields, is_changed, record in zip(batch, told, reply[::2], reply[1::2], strict=True):
                if record == record_of(fields):
                    self._untold.told(fact, fact)
                else:
                    self._take_other(fact, bool(is_changed), record)

    def _take_other(self, fact: Fact, is_changed: bool, record: bytes) -> None:
        """Take what Redis keeps instead of what it was told."""
        kept = parse_record(fact.key.encode(), record, self._offset)
        is_ours = kept is not None and (is_changed or kept.version == fact.version)
        self._untold.told(fact, kept if is_ours else None)
        if kept is not None and self.correct(fact, kept):
            self._on_change()

    # Following.

    def _following(self, client: PooledCommands) -> None:
        check_at = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= check_at:
                self._check(client)
                check_at = time.monotonic() + BLOCK
            self._works(self._following)
            self._synced.set()
            reply = client.execute_command(
                "XREAD", "COUNT", PAGE, "BLOCK", int(BLOCK * 1000), "STREAMS", CHANGES, self._last[0]
            )
            if reply:
                self._read_entries(reply[0][1])

    def _check(self, client: PooledCommands) -> None:
        self._measure_offset(client)
        if not self._continues(client):
            self._read_all(client)
        if self._restored:  # Redis has not told them
            self._tell_again(self._lost | self._true(self._taken_back()))
        if self._lost and time.monotonic() >= self._lost_until:
            lost, self._lost = self._lost, {}
            self._settle(lost)
        self._maintain(client)

    def _maintain(self, client: Commands) -> None:
        """Let Redis forget what has ended: the daemons do, apps may only read the ban set."""
        self._sweep_script.call(client, (FACTS,), [SWEPT])

    def _measure_offset(self, client: Commands) -> None:
        before = self._clock()
        seconds, micros = client.execute_command("TIME")
        after = self._clock()
        offset = int(seconds) + int(micros) / 1_000_000 - (before + after) / 2
        if abs(offset - self._offset) < END_TOLERANCE or not 0 <= after - before < END_TOLERANCE:
            return
        change, self._offset = self._offset - offset, offset
        if self._synced.is_set():
            log.warning("%s: a clock was set: the ends of bans move by %.1f s", self.name, change)
            self.shift(change)
            self._last = (b"", b"")  # all is read anew: what ended by a wrong clock is gone here
            self._on_change()

    def _continues(self, client: Commands) -> bool:
        """Say whether this server's history holds all that was seen."""
        epoch: Any = client.execute_command("HGET", FACTS, "epoch")
        if not self._last[0] or epoch != self._epoch:
            return False
        if epoch is None and self._true(self.networks()):  # lost anew, soon after it had been lost and was told again
            return False
        if self._last[0] == NOTHING_SEEN:
            return not client.execute_command("XLEN", CHANGES)
        found = client.execute_command("XRANGE", CHANGES, self._last[0], self._last[0])
        return bool(found) and _fact_of(found[0]) == self._last[1]

    def _read_entries(self, entries: Sequence[Entry]) -> None:
        facts: list[Fact] = []
        for entry in entries:
            fields = dict(zip(entry[1][::2], entry[1][1::2], strict=False))
            fact = parse_record(fields.get(b"network", b""), fields.get(b"fact", b""), self._offset)
            if fact is not None:
                facts.append(fact)
        self._last = (entries[-1][0], _fact_of(entries[-1]))
        self._take(facts)

    def _take(self, facts: Sequence[Fact]) -> None:
        self._untold.heard(facts)
        for fact in facts:
            lost = self._lost.get(fact.key)
            if lost is not None and lost.version <= fact.version:
                del self._lost[fact.key]
        changed = [fact for fact in facts if self.merge(fact)]
        if changed:
            self._on_change()

    def _read_all(self, client: PooledCommands) -> None:
        try:
            self._read_pages(client)
        finally:  # also of half a ban set
            if self._is_followed:
                self._make_all()
            self.tell_records()
        self._on_change()

    def _read_pages(self, client: PooledCommands) -> None:
        self._restored.clear()
        missing = self.networks()
        epoch: Any = client.execute_command("HGET", FACTS, "epoch")
        newest = client.execute_command("XREVRANGE", CHANGES, "+", "-", "COUNT", 1)
        for found in scan_ahead(client, FACTS, PAGE):
            missing |= self._taken_back()
            missing.difference_update(self.merge_records(found))
        self._epoch = epoch
        self._last = (newest[0][0], _fact_of(newest[0])) if newest else (NOTHING_SEEN, b"")
        self._tell_again(self._true(missing))

    def _taken_back(self) -> set[str]:
        return {self._restored.popleft() for _ in range(len(self._restored))}

    def _true(self, keys: Iterable[str]) -> dict[str, Fact]:
        """Give what is known under some keys and still matters: bans in force, and lifts."""
        known = [self.known(Fact(network, 0, None, ports)) for network, ports in map(parse_key, keys)]
        now = self._clock()
        return {fact.key: fact for fact in known if fact is not None and (fact.ban is None or fact.ban.in_force(now))}

    def _tell_again(self, missing: dict[str, Fact]) -> None:
        """Tell at once what this process decided and Redis has lost, and note what others did."""
        for key in [key for key in missing if key in self._own]:
            self._untold.put(missing.pop(key), "history")
        if missing and not self._lost:
            self._lost_until = time.monotonic() + self._patience()
        self._lost = missing

    def _patience(self) -> float:
        """Give the seconds until `_settle`: not all daemons shall begin at once."""
        return random.uniform(*WITNESS_AFTER)  # noqa: S311  # nothing secret

    def _settle(self, lost: dict[str, Fact]) -> None:
        """Tell what Redis has lost and its maker has not told again."""
        for fact in lost.values():
            self._untold.put(fact, "history")

    def _next_version(self, now: float) -> int:
        return super()._next_version(now + self._offset)


def _fact_of(entry: Entry) -> bytes:
    return b" ".join(entry[1])
