"""Has Redis count the failures of all hosts together, and ban in the same call (`fail.lua`).

Theory of operation. Failures wait here by jail; one thread takes up to `TOLD_AT_ONCE` of one jail and tells them in one
call, under a number that it uses once. If the connection is cut before the answer came, the same batch goes again under
the same number, and Redis answers as before without counting. What waits longer than its jail's findtime is dropped,
and of more than `MOST` the oldest: this host has counted it as well, so an outage makes hosts count alone, no more.
A Redis that takes no writes now (it is full, or not the master) is told later. A batch that it refuses for what is in
it, or for what a stranger has put where the ban set is, is set aside, and the next one goes. A daemon that is killed
tells the lines again that it reads again, some milliseconds of a log at most.
"""

import json
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from hashlib import blake2b
from threading import Condition

import msgspec
from redis.exceptions import ResponseError

from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST, HOST_MOST, Ban
from appguard.event import Event
from appguard.jail import Jail
from appguard.jail_key import PAIR, USER
from appguard.ports import parse_key
from appguard.stores.redis_advice import said_by
from appguard.stores.redis_bans import STREAM_MOST, RedisBanSet
from appguard.stores.redis_commands import Commands, Script
from appguard.stores.redis_records import CHANGES, DAEMONS, FACTS, VIA_MOST, parse_record
from appguard.stores.redis_thread import RedisThread
from appguard.stores.redis_uri import parse_redis_uri

TOLD_AT_ONCE = 100
MOST = 100_000
WAIT = 1.0  # seconds
SAY_AGAIN = 60.0  # seconds
STATES = "NOREPLICAS", "MISCONF", "BUSY", "UNKILLABLE"  # that errors begin with of which redis-py knows no class
EVERYWHERE = " on all hosts"
TOTAL = "\0"  # stands for what Redis has counted

log = logging.getLogger("appguard.stores")


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure for the fleet to count: under which key, and the ban it leads to if that is enough.

    `value` is what a distinct jail counts. `why` is the reason of that ban, with `TOTAL` for the number. `is_enough` if
    this host has counted enough by itself. Without an offer all that is counted for the key is forgotten.
    """

    jail: Jail
    key: str
    event: Event
    offer: Ban | None = None
    value: str = ""
    why: str = ""
    is_enough: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """A ban that Redis has put in force because of a failure told by this host; `is_new` unless it prolongs one."""

    ban: Ban
    is_new: bool


class FleetFailures:
    """Tells failures to the Redis of a ban set. `on_decided` is called from its thread, with every answer.

    `put` may be called from any thread and never waits.
    """

    def __init__(
        self,
        uri: str,
        bans: RedisBanSet,
        on_decided: Callable[[Sequence[Failed], Sequence[Decided]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bans = bans
        self._on_decided = on_decided
        self._clock = clock
        self._batch = f"{DAEMONS}:batch:{secrets.token_hex(8)}"  # what this daemon has sent last
        self._number = 0
        self._sending: list[Failed] = []
        self._waiting: OrderedDict[str, deque[Failed]] = OrderedDict()
        self._changed = Condition()
        self.script = Script("fail")
        self._thread = RedisThread(parse_redis_uri(uri), FACTS, "count failures together", self._counting)
        self.waiting = 0
        self.dropped = 0
        self.set_aside = 0  # failures that Redis refused to count
        self._say_at = 0.0

    @property
    def complaint(self) -> str:
        """Say why Redis does not count; nothing if it does."""
        return self._thread.complaint

    def start(self) -> None:
        """Start telling."""
        self._thread.start()

    def close(self, patience: float = 1.0) -> None:
        """Tell what waits, if Redis answers, and stop."""
        until = time.monotonic() + patience
        with self._changed:
            while (self.waiting or self._sending) and not self.complaint and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
        self._thread.stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.close()

    def put(self, failed: Failed) -> None:
        """Have a failure counted."""
        with self._changed:
            self._waiting.setdefault(failed.jail.name, deque()).append(failed)
            self.waiting += 1
            if self.waiting > MOST:
                self._drop()
            self._changed.notify_all()

    def _drop(self) -> None:
        name, oldest = next(iter(self._waiting.items()))
        oldest.popleft()
        self.waiting -= 1
        if not self.dropped:
            log.warning("more than %d failures wait for Redis: the oldest are counted on this host alone", MOST)
        self.dropped += 1
        if not oldest:
            del self._waiting[name]

    def forget(self, keys: Set[str]) -> None:
        """Tell nothing that waits and leads to bans with these keys: a person has lifted them."""
        with self._changed:
            for name, waiting in list(self._waiting.items()):
                kept = deque(each for each in waiting if each.offer is None or each.offer.key not in keys)
                self.waiting -= len(waiting) - len(kept)
                self._waiting[name] = kept
                if not kept:
                    del self._waiting[name]

    def _take(self) -> list[Failed]:
        """Give the next failures of one jail, after waiting for one."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(WAIT)
            if not self._waiting:
                return []
            name, waiting = self._waiting.popitem(last=False)
            taken = [waiting.popleft() for _ in range(min(TOLD_AT_ONCE, len(waiting)))]
            if waiting:
                self._waiting[name] = waiting
            self.waiting -= len(taken)
        return self._in_time(taken)

    def _in_time(self, batch: list[Failed]) -> list[Failed]:
        """Give those failures of one jail that have not left its window meanwhile."""
        now = self._clock()
        return [each for each in batch if each.event.time > now - float(each.jail.findtime)]

    def _counting(self, client: Commands) -> None:
        client.execute_command("TIME")
        if not self._in_time(self._sending):  # as a whole: under its number goes what went before, or nothing
            self._sending = []
        if not self._sending:  # else it is the answer to these that shows whether Redis counts
            self._thread.works()
        while not self._thread.stop.is_set():
            if not self._sending:
                self._sending = self._take()
                self._number += 1
            if self._sending:
                self._tell(client, self._sending)
                self._sending = []
                with self._changed:
                    self._changed.notify_all()

    def _tell(self, client: Commands, batch: Sequence[Failed]) -> None:
        try:
            answer = self._send(client, batch)
        except ResponseError as error:
            if type(error) is not ResponseError or str(error).startswith(STATES):
                raise  # it is about the state that Redis is in
            self._set_aside(batch, error)
            return
        self._thread.works()
        self._on_decided(batch, self._read(batch, answer))

    def _set_aside(self, batch: Sequence[Failed], error: ResponseError) -> None:
        """Leave a batch to this host, which counts alone until Redis takes another one."""
        self._thread.complaint = said_by(error)
        self.set_aside += len(batch)
        if time.monotonic() >= self._say_at:
            self._say_at = time.monotonic() + SAY_AGAIN
            log.error(
                "%s refuses to count %d failures of jail %s, which are set aside (%d so far), so this host alone has"
                " counted them: %s: look at what it has under appguard:*",
                *(self._bans.name, len(batch), batch[0].jail.name, self.set_aside, said_by(error)),
            )

    def _send(self, client: Commands, batch: Sequence[Failed]) -> bytes:
        jail = batch[0].jail
        counters = {each.key: counter_of(jail, each.key) for each in batch}
        indexes = {key: number for number, key in enumerate(counters, 1)}
        packed = msgspec.msgpack.encode(
            [fields_of(each, indexes[each.key], self._bans.offset, self._bans.host) for each in batch]
        )
        keys = [FACTS, CHANGES, self._batch, *counters.values()]
        how = "dry" if jail.dry_run else "ban"
        arguments = [STREAM_MOST, self._number, jail.maxretry, int(float(jail.findtime) * 1000), how, packed]
        answer: bytes = self.script.call(client, keys, arguments)
        return answer

    def _read(self, batch: Sequence[Failed], answer: bytes) -> list[Decided]:
        found = msgspec.msgpack.decode(answer, type=list[tuple[int, int, str, str]])
        decided: list[Decided] = []
        for number, how, network, record in found:
            fact = parse_record(network.encode(), record.encode(), self._bans.offset) if record else None
            if fact is not None and fact.ban is not None:
                self._bans.adopt(fact)
                decided.append(Decided(fact.ban, how == 1))
            elif batch[number - 1].jail.dry_run:
                decided.append(Decided(_as_if(batch[number - 1], network), is_new=True))
        return decided


def counter_of(jail: Jail, key: str) -> str:
    """Give where Redis counts a key of a jail; what users are called is not to be read there."""
    is_secret = jail.key in (USER, PAIR)
    text = blake2b(key.encode(errors="replace"), digest_size=16).hexdigest() if is_secret else key
    return f"{DAEMONS}:failures:{jail.name}:{text}"


def _as_if(failed: Failed, key: str) -> Ban:
    """Give the ban of a network and ports that a dry run would have led to."""
    assert failed.offer is not None
    why = failed.why.replace(TOTAL, str(failed.jail.maxretry)) + EVERYWHERE
    network, ports = parse_key(key)
    return replace(failed.offer, network=network, ports=ports, reason=why, failures=failed.jail.maxretry)


def fields_of(failed: Failed, index: int, offset: float, host: str) -> tuple[object, ...]:
    """Give what `fail.lua` takes of a failure told by a host; `offset` is Redis TIME minus our clock."""
    at, ban = round((failed.event.time + offset) * 1000), failed.offer
    if ban is None:
        return (index, at, 0, "", "", False, 0, False, "", "", "")
    ends = 0 if ban.end is None else round((ban.end + offset) * 1000)
    before, _, after = failed.why.partition(TOTAL)
    details = {
        "start": ban.start,
        "jail": ban.jail,
        "evidence": [text[:EVIDENCE_TEXT_MOST] for text in ban.evidence[-EVIDENCE_MOST:]],
        "via": list(ban.via[:VIA_MOST]),
        "host": host[:HOST_MOST],
    }
    return (
        index,
        at,
        failed.event.count,
        failed.value,
        ban.key,
        failed.jail.is_by_user,
        ends,
        failed.is_enough,
        '{"failures":',
        f',"reason":{json.dumps(before)[:-1]}',
        f"{json.dumps(after + EVERYWHERE)[1:]},{json.dumps(details, separators=(',', ':'))[1:]}",
    )
