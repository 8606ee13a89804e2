"""The fleet's ban set in Redis, and this process's replica of it.

Theory of operation. Every ban and every lift is a fact with a version; of two facts about a network the higher
version wins, here (`MemoryBanSet.merge`) as in Redis (`merge.lua`). A change is made in the replica first, under a
version from this process's estimate of Redis TIME, and is in force here at once; one thread then tells Redis, again
and again until it is told, with the version it had, so that a fact kept back by an outage never undoes what was
decided later elsewhere.

Another thread follows. It reads the newest entry of the stream, then all facts, then what the stream adds. After
every pause it re-reads the last entry it saw: if that entry is there unchanged, this server's history holds all that
was seen and reading goes on; if not (failover with loss, FLUSHALL, trimming) it reads everything anew, tells again
the facts this process made, and forgets what is no longer there only when the processes that made it have had time to
do the same. Ends are kept by this process's clock: the offset to Redis TIME is measured at every connection. Both
threads start at the first use and belong to this process; `close` ends them.
"""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Condition, Event, Thread
from typing import cast

from redis.exceptions import RedisError

from appguard.address import Address, Network, parse_network
from appguard.ban import JAIL_NAME, Ban, Fact
from appguard.errors import AddressError
from appguard.stores.base import Changes, Snapshot
from appguard.stores.memory import MemoryBanSet
from appguard.stores.redis_connection import Commands, Script, connect, uri_for_people

BLOCK = 1.0  # seconds a follower waits for news before it checks its continuity
ANSWER = 2.0  # seconds Redis may take to answer the threads
RETRY = 0.5  # seconds between attempts while Redis is down
RETELL = 10.0  # seconds in which a ban that Redis has lost is told again by the process that made it
MAINTAIN_EVERY = 10.0  # seconds
SWEPT_MOST = 1_000
STREAM_MOST = 20_000
QUEUE_MOST = 100_000
PAGE = 5_000
NOTHING_SEEN = b"0-0"

Entry = tuple[bytes, list[bytes]]  # of a stream: id, and fields and values in turn

log = logging.getLogger("appguard.stores")


class RedisBanSet(MemoryBanSet):
    """The replica of a ban set named `name`. `on_change` is called from its threads after the replica changed."""

    def __init__(
        self,
        uri: str,
        name: str = "main",
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(clock)
        self._uri = uri
        self.name = self._what = uri_for_people(uri)
        prefix = f"appguard:b:{{{name}}}"
        self._ban_keys = [f"{prefix}:{part}" for part in ("bans", "facts", "lifted", "changes")]
        self._merge_script = Script("merge")
        self._sweep_script = Script("sweep")
        self._maintain_at = 0.0
        self._on_change = on_change or (lambda: None)
        self._offset = 0.0  # Redis TIME minus this clock, seconds
        self._own: dict[str, Fact] = {}
        self._untold: OrderedDict[str, tuple[Fact, bool]] = OrderedDict()
        self._told = Condition()
        self._last = (b"", b"")  # id and fact of the last entry seen
        self._lost: dict[str, tuple[int, float]] = {}  # bans Redis has lost: version, and when to forget
        self._stop = Event()
        self._threads: list[Thread] = []
        self._synced = Event()
        self.complaint = ""

    # What the BanSet protocol asks; see `base.BanSet`.

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force here at once, and in the fleet as soon as Redis answers."""
        self.start()
        return super().ban(ban)

    def unban(self, network: Network) -> Ban | None:
        """Lift the ban of exactly this network here at once, and in the fleet as soon as Redis answers."""
        self.start()
        return super().unban(network)

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that holds the address, as far as the replica knows."""
        if not self._threads:
            self.start()
        return super().get(address)

    def snapshot(self) -> Snapshot:
        """Give all bans in force, as far as the replica knows."""
        self.start()
        return super().snapshot()

    def follow(self, cursor: int) -> Changes | None:
        """Give what changed in the replica since the cursor."""
        self.start()
        return super().follow(cursor)

    # Life of the threads.

    def start(self) -> None:
        """Start following, if this process does not yet."""
        if self._threads:
            return
        with self._bans_lock:
            if self._threads:
                return
            self._stop.clear()
            self._threads = [
                Thread(target=self._run, args=(work,), name=f"appguard-{work.__name__}", daemon=True)
                for work in (self._following, self._telling)
            ]
        for thread in self._threads:
            thread.start()

    def wait_synced(self, seconds: float) -> bool:
        """Wait until the replica has read the fleet's bans once; say whether it has."""
        self.start()
        return self._synced.wait(seconds)

    def close(self) -> None:
        """Stop following and telling. What Redis has not been told yet is told after the next start."""
        self._stop.set()
        with self._told:
            self._told.notify_all()
        for thread in self._threads:
            thread.join(BLOCK + ANSWER)
        self._threads = []
        self._synced.clear()

    def _run(self, work: Callable[[Commands], None]) -> None:
        while not self._stop.is_set():
            client = connect(self._uri, BLOCK + ANSWER)
            try:
                work(client)
            except (RedisError, OSError) as error:
                if not self.complaint:
                    log.error("%s: %s: the last known bans stay in force", self._what, error)
                self.complaint = str(error) or type(error).__name__
                self._stop.wait(RETRY)
            finally:
                client.close()

    # Telling.

    def _make(self, fact: Fact) -> None:
        super()._make(fact)
        self._to_be_told(fact, is_new=True)

    def _take_back(self, fact: Fact) -> None:
        super()._take_back(fact)
        self._to_be_told(fact, is_new=False)  # Redis may have lost it

    def _to_be_told(self, fact: Fact, *, is_new: bool) -> None:
        with self._told:
            self._own[fact.key] = fact
            self._untold.pop(fact.key, None)
            self._untold[fact.key] = (fact, is_new)
            if len(self._untold) > QUEUE_MOST:
                self._untold.popitem(last=False)
            self._told.notify_all()

    def _telling(self, client: Commands) -> None:
        while not self._stop.is_set():
            with self._told:
                while not self._untold and not self._stop.is_set():
                    self._told.wait(BLOCK)
                if not self._untold:
                    return
                key, (fact, is_new) = next(iter(self._untold.items()))
                self._untold[key] = (fact, False)  # if this attempt fails, the next one only tells again
            self._merge_script.call(client, self._ban_keys, self._arguments(fact, is_new))
            with self._told:
                if self._untold.get(key, (None, False))[0] is fact:
                    del self._untold[key]

    def _arguments(self, fact: Fact, is_new: bool) -> list[object]:
        ban = fact.ban
        ends = -1.0 if ban is None else 0.0 if ban.end is None else (ban.end + self._offset) * 1000
        automatic = int(ban is not None and ban.automatic)
        return [fact.key, fact.version, f"{ends:.0f}", int(is_new), automatic, details_text(ban), STREAM_MOST]

    # Following.

    def _following(self, client: Commands) -> None:
        self._measure_offset(client)
        if not self._last[0] or not self._continues(client):
            self._read_all(client)
        self._synced.set()
        while not self._stop.is_set():
            if time.monotonic() >= self._maintain_at:
                self._maintain_at = time.monotonic() + MAINTAIN_EVERY
                self._maintain(client)
            if self.complaint:
                log.warning("%s answers again", self._what)
                self.complaint = ""
            reply = client.execute_command(
                "XREAD", "COUNT", PAGE, "BLOCK", int(BLOCK * 1000), "STREAMS", self._ban_keys[3], self._last[0]
            )
            if reply:
                self._read_entries(reply[0][1])
            elif not self._continues(client):
                self._read_all(client)
            self._forget_lost()

    def _maintain(self, client: Commands) -> None:
        """Let Redis forget what has ended: the daemons do, apps may only read the ban set."""
        self._sweep_script.call(client, self._ban_keys[:3], [SWEPT_MOST])

    def _measure_offset(self, client: Commands) -> None:
        before = self._clock()
        seconds, micros = client.execute_command("TIME")
        self._offset = int(seconds) + int(micros) / 1_000_000 - (before + self._clock()) / 2

    def _continues(self, client: Commands) -> bool:
        """Say whether this server's history holds the last entry seen, unchanged."""
        if self._last[0] == NOTHING_SEEN:
            return not client.execute_command("XLEN", self._ban_keys[3])
        found = client.execute_command("XRANGE", self._ban_keys[3], self._last[0], self._last[0])
        return bool(found) and _fact_of(found[0]) == self._last[1]

    def _read_entries(self, entries: Sequence[Entry]) -> None:
        changed = False
        for entry in entries:
            self._last = (entry[0], _fact_of(entry))
            fields = dict(zip(entry[1][::2], entry[1][1::2], strict=False))
            fact = parse_record(fields.get(b"network", b""), fields.get(b"fact", b""), self._offset)
            if fact is not None:
                self._lost.pop(fact.key, None)
                changed |= self.merge(fact)
        if changed:
            self._on_change()

    def _read_all(self, client: Commands) -> None:
        newest = client.execute_command("XREVRANGE", self._ban_keys[3], "+", "-", "COUNT", 1)
        self._last = (newest[0][0], _fact_of(newest[0])) if newest else (NOTHING_SEEN, b"")
        there: set[str] = set()
        cursor = b"0"
        while True:
            cursor, found = client.execute_command("HSCAN", self._ban_keys[1], cursor, "COUNT", PAGE)
            for network, record in zip(found[::2], found[1::2], strict=True):
                fact = parse_record(network, record, self._offset)
                if fact is not None:
                    there.add(fact.key)
                    self.merge(fact)
            if cursor == b"0":
                break
        self._own_again(there)
        self._on_change()

    def _own_again(self, there: set[str]) -> None:
        """Tell Redis again what this process made, and note the bans it has lost that others made."""
        now = self._clock()
        with self._told:
            own = {key: fact for key, fact in self._own.items() if fact.ban is None or fact.ban.in_force(now)}
            self._own = own
            for key, fact in own.items():
                self._untold.setdefault(key, (fact, False))
            self._told.notify_all()
        until = time.monotonic() + RETELL
        lost = {ban.key: ban for ban in super().snapshot().bans if ban.key not in there and ban.key not in own}
        self._lost = {key: self._lost.get(key, (ban.version, until)) for key, ban in lost.items()}

    def _forget_lost(self) -> None:
        """Forget the bans that Redis has lost and nobody has told again in time."""
        over = {key: version for key, (version, until) in self._lost.items() if until <= time.monotonic()}
        if not over:
            return
        for ban in super().snapshot().bans:
            if over.get(ban.key) == ban.version:
                self.forget(ban)
        self._lost = {key: lost for key, lost in self._lost.items() if key not in over}
        self._on_change()

    def _next_version(self, now: float) -> int:
        return super()._next_version(now + self._offset)


def details_text(ban: Ban | None) -> str:
    """Write what a record says of a ban beyond version and end."""
    if ban is None:
        return "{}"
    details = {
        "start": ban.start,
        "jail": ban.jail,
        "reason": ban.reason,
        "failures": ban.failures,
        "evidence": list(ban.evidence),
        "via": list(ban.via),
    }
    return json.dumps(details, separators=(",", ":"))


def parse_record(network: bytes, record: bytes, offset: float) -> Fact | None:
    """Read a fact as Redis keeps it; None for anything else, because whoever writes to Redis may write anything."""
    try:
        version, ends, automatic, details = record.decode(errors="replace").split(" ", 3)
        where = parse_network(network.decode(errors="replace"))
        if int(ends) == -1:
            return Fact(where, int(version), None)
        found = cast("dict[str, object]", json.loads(details))
        end = None if int(ends) == 0 else int(ends) / 1000 - offset
        jail = found.get("jail")
        start = found.get("start")
        failures = found.get("failures")
        if not isinstance(jail, str) or not JAIL_NAME.fullmatch(jail) or not isinstance(start, int | float):
            return None
        ban = Ban(
            where,
            jail,
            float(start),
            end,
            str(found.get("reason", ""))[:256],
            failures if isinstance(failures, int) else 0,
            _texts(found.get("evidence")),
            _texts(found.get("via")),
            automatic == "1",
            int(version),
        )
    except (ValueError, AddressError, AttributeError, OverflowError, RecursionError):
        return None
    return Fact(ban.network, ban.version, ban)


def _texts(value: object) -> tuple[str, ...]:
    found = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(item[:8192] for item in found[:32] if isinstance(item, str))


def _fact_of(entry: Entry) -> bytes:
    return b" ".join(entry[1])
