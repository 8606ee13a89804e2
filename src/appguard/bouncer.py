"""The bouncer makes one firewall agree with the ban set.

Theory of operation. `run` works in rounds, one at each `wake` and at least one per interval. A round takes what is new
in the ban set, asks the judge about each ban again, whatever its origin, and gives the firewall all that differs from
the mirror (what the firewall was last given): thousands in slices, the newest first, so that a new ban never waits for
a long list. After a failure nobody knows what the firewall holds, so it is given everything anew with `replace`; so it
is at the start, when somebody took our table away, of which some firewalls tell at once, when the list of those always
let in has changed, and when the clock was set: bans end by the clock, and in a firewall after so many seconds. They end
there by themselves and are only forgotten here. Nothing is lifted because the bouncer ends. After a restart the first
load has what is saved, because to fill the ban set takes several times as long; what is not wanted then goes again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType

from appguard.address import Address, Network
from appguard.ban import Ban, Brief
from appguard.blocking import Blocking, block_of
from appguard.bouncer_status import BouncerStatus
from appguard.errors import AppGuardError, FirewallError, FirewallFullError
from appguard.firewalls.base import Block, Count, Firewall
from appguard.host import HostFacts, administrators, read_host_facts
from appguard.judge import Judge
from appguard.mirror import Mirror
from appguard.stores.base import Followed
from appguard.turns import give_way
from appguard.wanted import Changed, Wanted

INTERVAL = 1.0  # seconds between looks at the host, the firewall and the ban set when nobody wakes
SLICE = 250  # changes given at a time, the newest first: some 3 milliseconds
SET_LEAST = 1.0  # seconds by which a clock that was set is another
RETRY_FIRST, RETRY_MOST = 0.05, 10.0  # seconds until a failed round is tried again, doubled each time

Saved = Callable[[], Iterable[Brief]]  # newest first

log = logging.getLogger("appguard.bouncer")


class Bouncer:
    """Keeps a firewall in step with a ban set.

    Every method is to be called on the event loop `run` runs on; `hold` and `force` also before it runs.
    """

    def __init__(
        self,
        ban_set: Followed,
        firewall: Firewall,
        judge: Judge,
        clock: Callable[[], float] = time.time,
        *,
        read_facts: Callable[[], HostFacts] = read_host_facts,
        read_administrators: Callable[[], Iterable[Address]] = administrators,
        monotonic: Callable[[], float] = time.monotonic,
        interval: float = INTERVAL,
        is_switched_off: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ban_set = ban_set
        self._firewall = firewall
        self._blocking = Blocking(judge, firewall.refusal)
        self._clock = clock
        self._read_facts = read_facts
        self._read_administrators = read_administrators
        self._monotonic = monotonic
        self._ahead = clock() - monotonic()
        self._interval = interval
        self._is_switched_off = is_switched_off
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()
        self._cursor: int | None = None
        self._wanted = Wanted()
        self._changed = Changed()
        self._waiting: dict[str, None] = {}  # changed while a load had been given them already, the newest first
        self._mirror = Mirror()
        self._let_in: tuple[Network, ...] = ()
        self._is_held = self._is_lifted = False
        self._is_unknown = True  # what the firewall holds
        self._is_suspect = False  # somebody may have taken our rules away
        self._saved: Saved = tuple
        self._unclaimed: set[str] = set()  # given because they were saved, and not in the ban set so far
        self.tried = asyncio.Event()  # to give the firewall everything, well or not
        self._look_at = 0.0
        self._error = ""
        self._dropped: int | None = None
        self._counts: Mapping[str, Count] = {}

    @property
    def status(self) -> BouncerStatus:
        """Give how enforcement is."""
        return BouncerStatus(
            kind=self._firewall.name,
            firewall=self._firewall.name,
            is_held=self._is_held,
            error=self._error,
            enforced=len(self._mirror),
            dropped=self._dropped,
            counts=self._counts,
            refused=MappingProxyType(self._blocking.refused),
        )

    def wake(self) -> None:
        """Say that the ban set has changed."""
        self._woken.set()

    def begin_restore(self, saved: Saved) -> None:
        """Say that the ban set will be filled after a restart; loads of the firewall take what is `saved` at once."""
        self._saved = saved

    def end_restore(self) -> None:
        """Say that all bans are back."""
        self._saved = tuple
        self.wake()

    def force(self, key: str) -> None:
        """Let a ban pass that the judge refuses unless forced, until it is lifted or ends."""
        self._blocking.force(key)

    def hold(self) -> None:
        """Lift everything and enforce nothing until `release`. The next round does it; `settle` waits for it."""
        self._is_held = True
        self.wake()

    def release(self) -> None:
        """Enforce again."""
        self._is_held = False
        self.wake()

    async def settle(self) -> None:
        """Go a round now; raise `FirewallError` if the firewall fails. `run` goes on trying then."""
        async with self._turn:
            await self._round()

    async def run(self) -> None:
        """Keep the firewall in step until cancelled; what it holds stays in force then."""
        with self._firewall.watch(self._suspect):
            await self._rounds()

    def _suspect(self) -> None:
        self._is_suspect = True
        self.wake()

    async def _rounds(self) -> None:
        retry = RETRY_FIRST
        while True:
            self._woken.clear()
            try:
                await self.settle()
            except AppGuardError as error:
                self._say(str(error))
                self.tried.set()
                await asyncio.sleep(retry)
                retry = min(2 * retry, RETRY_MOST)
                continue
            self._say("")
            self.tried.set()
            retry = RETRY_FIRST
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._woken.wait()

    def _say(self, error: str) -> None:
        if error and error != self._error:
            log.error("the firewall is not in step with the bans, trying again: %s", error)
        elif self._error and not error:
            log.warning("the firewall is in step with the bans again")
        self._error = error

    async def _round(self) -> None:
        now = self._clock()
        if self._was_set(now):
            log.warning("the clock was set: giving the firewall everything anew")
            self._is_unknown = True
            self._cursor = None  # what ended by a wrong clock is wanted again
        self._follow()
        self._forget_ended(now)
        patience = self._interval if self._changed else 0.0  # a new ban goes first
        if not self._look_at - self._interval <= now < self._look_at + patience:
            await self._look_around(now)
            self._look_at = now + self._interval
        elif self._is_suspect and not self._changed:
            await self._look_at_firewall()
        if self._is_switched_off():
            self._is_held = True
        if self._is_held:
            await self._lift()
            self._changed = Changed()  # everything is judged when it is given again
        elif self._is_unknown:
            await self._give_all(now)
            await give_way()
        self._note_unwanted()
        while self._changed.has_more and not (self._is_held or self._is_switched_off()):
            await self._give_changes(now)
            await give_way()
            self._follow()

    def _note_unwanted(self) -> None:
        """After a restore, have taken out what was saved and is not wanted."""
        if self._unclaimed and self._saved is tuple:
            self._follow()  # the last bans may have come back while a load had no ear for them
            self._changed |= dict.fromkeys(self._unclaimed)
            self._unclaimed.clear()

    def _was_set(self, now: float) -> bool:
        """Say whether the clock was set since the last round, or went on while this host slept."""
        before, self._ahead = self._ahead, now - self._monotonic()
        return abs(self._ahead - before) > SET_LEAST

    def _follow(self) -> None:
        """Take what is new in the ban set."""
        changes = None if self._cursor is None else self._ban_set.follow(self._cursor)
        if changes is not None:
            self._cursor = changes.cursor
            self._take({fact.key: fact.ban for fact in changes.facts})
        else:
            snapshot = self._ban_set.snapshot()
            self._cursor = snapshot.cursor
            self._take({**dict.fromkeys(self._wanted), **{ban.key: ban for ban in snapshot.bans}})

    def _take(self, bans: dict[str, Ban | None]) -> None:
        for key, ban in bans.items():
            self._unclaimed.discard(key)
            if ban is None:
                self._wanted.pop(key, None)
                self._blocking.forget(key)
            else:
                self._wanted.put(ban)
                self._blocking.room.forget(key)  # it may end later than before
            self._changed.note(key)

    def _forget_ended(self, now: float) -> None:
        for key in self._wanted.take_ended(now):
            self._blocking.forget(key)
            if self._mirror.pop(key, None):
                self._blocking.room.free()

    async def _look_around(self, now: float) -> None:
        """Look at the host, at what is to be renewed, and at the firewall."""
        if self._blocking.judge.update(self._read_facts(), tuple(self._read_administrators())):
            self._changed.to_judge = list(self._wanted)
        self._changed.note_older((*self._blocking.room.take_back(), *self._mirror.stale(now)))
        await self._look_at_firewall()

    async def _look_at_firewall(self) -> None:
        self._is_suspect = False
        if self._is_held or self._is_unknown:
            return
        self._miss(await self._firewall.missing())
        if self._let_in != self._blocking.judge.let_in:
            self._is_unknown = True
        elif not await self._firewall.intact():
            log.warning("somebody took away AppGuard's rules in the firewall: putting them back")
            self._is_unknown = True
        else:
            self._dropped = await self._firewall.dropped()
            self._counts = await self._firewall.counts()

    def _miss(self, keys: Iterable[str]) -> None:
        """Have put back what the firewall was given and has not any more, unless it has ended or was lifted."""
        gone = [key for key in keys if self._mirror.pop(key, None) is not None and key in self._wanted]
        if gone:
            log.warning("somebody took %d bans out of the firewall, %s first: putting them back", len(gone), gone[0])
        for key in gone:
            self._changed.note(key)

    async def _lift(self) -> None:
        if self._is_lifted:
            return
        self._is_unknown = True
        await self._firewall.lift()
        self._is_lifted = True
        self._mirror.clear()
        log.warning("everything is lifted; nothing is enforced until enforcement is switched on")

    async def _give_all(self, now: float) -> None:
        if self._is_switched_off():  # meanwhile; the next round lifts what there is
            return
        changed: Mapping[str, object] = self._wanted if self._changed.to_judge else self._changed
        self._changed = Changed()
        let_in = self._blocking.judge.let_in
        self._is_unknown, self._is_lifted = True, False
        try:
            mirror = await self._replace(let_in, changed, now)
        except BaseException:  # also cancelled, the old mirror is not what is to be held
            self._changed.note_older(key for key in changed if key in self._wanted)
            raise
        self._is_unknown = False
        self._let_in = let_in
        self._mirror = mirror

    async def _replace(self, let_in: tuple[Network, ...], changed: Mapping[str, object], now: float) -> Mirror:
        """Give the firewall everything, or all it has room for; give the new mirror."""
        while True:
            mirror = Mirror(now)
            blocks = self._blocks(changed, mirror, now)
            try:
                await self._firewall.replace(let_in, blocks, partial(self._late, mirror, now))
            except FirewallFullError as full:
                deque(blocks, maxlen=0)  # those it was not given yet count too
                if not self._blocking.leave_out(mirror, self._wanted, full):
                    raise
                continue
            finally:
                self._changed.note_older(reversed(self._waiting))
                self._waiting.clear()
            return mirror

    def _blocks(self, changed: Mapping[str, object], mirror: Mirror, now: float) -> Iterator[Block]:
        """Give every block, newest first, and note it in the new mirror. What it held unchanged was judged."""
        for key in tuple(reversed(self._wanted)):
            if key in mirror:  # it came late
                continue
            held = None if key in changed or key in self._changed else self._mirror.get(key)
            block = held if held is not None else self._block(key)
            if block is not None:
                mirror.hold(key, block, now)
                yield block
        for block in filter(None, map(block_of, self._saved())):
            key = block.key
            is_known = key in self._wanted or key in self._changed or key in mirror
            if not is_known and self._blocking.may_hold(block):
                self._unclaimed.add(key)
                mirror.hold(key, block, now)
                yield block

    async def _late(self, mirror: Mirror, now: float) -> list[Block]:
        """Give blocks of bans that came while the firewall was being loaded; the other changes have to wait."""
        self._follow()
        found: list[Block] = []
        while self._changed and len(found) < SLICE:
            key, _ = self._changed.popitem()
            if key in mirror:
                self._waiting[key] = None
                continue
            self._mirror.pop(key, None)  # so that no load takes it from there, this one or its repetition
            if (block := self._block(key)) is not None:
                mirror.hold(key, block, now)
                found.append(block)
        return found

    async def _give_changes(self, now: float) -> None:
        add, remove = self._differing(now)
        if not (add or remove):
            return
        self._is_unknown = True
        try:
            await self._change(add, remove)
        except BaseException as error:  # also cancelled, it is not known what the firewall holds
            self._changed |= dict.fromkeys((*add, *remove))
            if not isinstance(error, FirewallError):
                raise
            log.warning("giving the firewall everything anew: %s", error)
            await self._give_all(now)
            return
        self._is_unknown = False
        for key in remove:
            del self._mirror[key]
            if key not in add and key not in self._blocking.room:
                self._blocking.room.free()
        for key, block in add.items():
            self._mirror.hold(key, block, now)

    def _differing(self, now: float) -> tuple[dict[str, Block], dict[str, Block]]:
        """Give what the newest changes add or renew, and what they remove, as it is held, by key."""
        add: dict[str, Block] = {}
        remove: dict[str, Block] = {}
        for key in self._changed.take(SLICE):
            block = self._block(key)
            held = self._mirror.get(key)
            if block is not None and (block != held or self._mirror.is_stale(key, now)):
                add[key] = block
            elif block is not None:
                self._mirror.pop(key, None)
                self._mirror[key] = block  # of a restored ban: the text of its key is kept once
            if held is not None and (block is None or block.jail != held.jail):
                remove[key] = held
        return add, remove

    async def _change(self, add: dict[str, Block], remove: dict[str, Block]) -> None:
        """Give a change; if the firewall is full, make room first and change the change accordingly."""
        try:
            await self._firewall.change(list(add.values()), list(remove.values()))
        except FirewallFullError as full:
            out = self._blocking.leave_out(self._mirror | add, self._wanted, full)
            for key in out:
                add.pop(key, None)
            going = {key: self._mirror[key] for key in (*out, *add) if key in self._mirror}  # renewed ones too
            remove |= going
            await self._firewall.change([], list(remove.values()))
            await self._firewall.change(list(add.values()), [])

    def _block(self, key: str) -> Block | None:
        return self._blocking.block(key, self._wanted.get(key))
