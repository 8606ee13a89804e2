"""The companion daemon: wires sources > filters > jails > ban set, and from there state, published bans and bouncer.

Everything runs on one event loop. A chunk of lines goes through in one plain call (`_deliver`): count, ban, wake the
bouncer. When the bouncer had its turn, the bans are published for the apps and saved with counters and read position
in one transaction (one write to a log, not synced; `saving.py`): first the kernel, then files. A daemon killed at any
point continues after a restart with exactly the lines it had not counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from appguard import explain, orders
from appguard.address import Grouping
from appguard.ban import Fact
from appguard.ban_log import BanLog
from appguard.banning import Banning
from appguard.bouncer import Bouncer
from appguard.bouncer_apart import APART, BouncerApart
from appguard.bouncers import Bouncers
from appguard.config import CONFIG_FILE, DaemonConfig, daemon_config
from appguard.control import serve
from appguard.engine import judge_of, routes_of, safelist_of, windows_of
from appguard.errors import AppGuardError
from appguard.firewalls.open import kinds_of, open_firewall
from appguard.fleet import Fleet
from appguard.following import Following
from appguard.footing import StderrHandler, allow_many_files, here_to_stay, make_directories, settle_memory
from appguard.held import HoldMark
from appguard.host import administrators
from appguard.judge import Protected, Protections
from appguard.members import ban_set_of, open_source, origins_of
from appguard.names import Addresses, Names
from appguard.notify import keep_alive, notify, until_signal
from appguard.orders import Orders
from appguard.overview import Overview
from appguard.pipeline import Outcome, Pipeline, Unresolved
from appguard.saving import Saving
from appguard.sources.base import Chunk, Source
from appguard.state import Batch, State
from appguard.store_hosts import StoreHosts
from appguard.stores.local import Publisher
from appguard.stores.sure_time import SureTime
from appguard.trials import Trials
from appguard.trouble import Trouble
from appguard.turns import give_way
from appguard.whole import slices, whole

NEWS = 3_600.0  # seconds before its start from which on bans are news to a daemon
TICK = 1.0  # seconds between looks for ended bans
VANISHED = 30 * 86_400.0  # seconds after which the position in a log that is gone is dropped, and a lift
PURGE_EVERY = 86_400.0

log = logging.getLogger("appguard")


class Daemon:
    """The daemon of one host."""

    def __init__(self, config: DaemonConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._started = clock()
        self._store_hosts = StoreHosts(config.store)
        self._facts = self._store_hosts.facts()
        self._mark = HoldMark(config.control_socket)
        self._grouping = Grouping(self._facts.on_link)
        self._sure = SureTime(clock)
        self._state = State(config.state_directory, clock, self._sure)
        self._bans = ban_set_of(config.store, clock, self._sure, self._on_change)
        self._publisher = Publisher(config.runtime_directory)
        self._windows = windows_of(config.jails, self._grouping)
        self._safelist = safelist_of(config)
        self._pipeline = Pipeline(routes_of(config.jails, self._windows), self._safelist)
        self._names = Names()
        self._protections = Protections()
        self._judge = judge_of(config, self._facts, administrators(), self._protections)
        self._trials = Trials(self._judge)
        self._fleet = Fleet(config, self._bans, clock, self._state, self._protect)
        self._banning = Banning(
            self._windows, self._bans, self._judge, clock, self._note_late, counting=self._fleet.counting
        )
        self._ban_log = BanLog(config.state_directory, self._started - NEWS)
        self._following = Following(self._bans, clock)
        self._bouncers = Bouncers([self._new_bouncer(kind) for kind in kinds_of(config.firewall)])
        self._sources: dict[str, Source] = {}
        self._overview = Overview(
            config.jails, self._windows, self._banning, self._sources, self._bouncers, self._bans, self._pipeline
        )
        self._saving = Saving(self._windows, self._banning.totals, self._gather, self._write, self._sure.now)
        self._orders = self._new_orders()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cursor, self._purge_at = 0, 0.0
        self._is_restored = False
        self._spreading: asyncio.Task[None] | None = None
        self._trouble = Trouble()

    def _new_orders(self) -> Orders:
        explaining = explain.Parts(
            self._config.jails,
            self._windows,
            self._banning,
            self._bans,
            self._judge,
            self._safelist,
            self._grouping.key,
            lambda ban: self._orders.record(ban),
            is_enforcing=lambda: not any(each.is_held for each in self._bouncers.status),
            counted_by_all=None if self._fleet.counting is None else self._fleet.counting.counted,
        )
        parts = orders.Parts(
            self._bans,
            self._banning,
            self._judge,
            self._trials,
            self._bouncers,
            self._overview,
            self._fleet,
            self._ban_log,
            self._grouping,
            self._state,
            self._mark,
            self._clock,
            self._note_late,
        )
        return Orders(parts, explain.Explainer(explaining), self._following)

    def _new_bouncer(self, kind: str) -> Bouncer | BouncerApart:
        if kind == APART:
            return BouncerApart(self._following, self._clock)
        firewall = open_firewall(kind, self._config.firewall)
        judge = judge_of(self._config, self._facts, protections=self._protections)
        facts, off = self._store_hosts.facts, self._mark.is_set
        return Bouncer(self._bans, firewall, judge, self._clock, read_facts=facts, is_switched_off=off)

    async def run(self) -> None:
        """Run until cancelled; then the bans stay in the firewall. Raise `AppGuardError` if it cannot start."""
        allow_many_files()
        make_directories({self._config.runtime_directory: 0o755, self._config.control_socket.parent: 0o750})
        self._loop = asyncio.get_running_loop()
        self._restore()
        self._fleet.start(self._banning.enacted, self._take)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._bouncers.run())
                tasks.create_task(serve(self._orders, self._config.control_socket))
                for source in self._sources.values():
                    tasks.create_task(source.run(partial(self._deliver, source.name)))
                tasks.create_task(self._tick())
                tasks.create_task(keep_alive())
                number = await self._restore_bans()
                notify("READY=1")
                log.info("AppGuard daemon is up: %d jails, %d bans", len(self._windows), number)
        finally:
            self._loop = None
            self._names.close()
            self._note(self._banning.settle())
            self._fleet.close()
            self._end_spreading()
            self._bans.close()
            self._saving.now()
            self._publisher.close()
            self._state.close()

    def _on_change(self) -> None:
        """Take what a shared ban set has learnt, told by another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._spread)

    def _restore(self) -> None:
        self._state.open()
        self._trouble.attempt("events", self._ban_log.open)
        self._fleet.restore(self._facts)
        self._purge()
        self._bans.restore_lifts(self._state.lifts())
        self._bans.begin_restore()
        self._following.begin_restore(self._state.brief_bans)
        self._bouncers.begin_restore(self._state.brief_bans_left)
        self._trouble.attempt("published bans", self._publisher.begin)
        self._banning.history.restore(self._state.pasts())
        for name, window in self._windows.items():
            gone = window.restore(self._state.failures(name))
            self._saving.touch(name, gone)
            window.total_failed, self._banning.totals[name] = self._state.totals(name)
        self._look_at_mark()
        if self._state.setting("enforce") == "off":
            self._orders.hold_or_release(on=False)
        origins = origins_of(self._config.jails)
        self._trouble.attempt("state", lambda: self._state.adopt({name: each.has for name, each in origins.items()}))
        for name, origin in origins.items():
            positions, is_slow = self._state.positions(name), self._pipeline.may_be_slow(name)
            runtime = self._config.runtime_directory
            self._sources[name] = open_source(name, origin, runtime, positions, may_be_slow=is_slow)

    async def _restore_bans(self) -> int:
        """Take back the bans when the firewall has them, part by part, and give their number; what is new goes between.

        Whoever asks about them is answered when all are back, and what apps read stays until then.
        """
        with here_to_stay():
            await self._bouncers.tried()
            for part in self._state.restored_parts():
                bans = [ban for ban in part if ban.in_force(self._sure.now())]
                self._bans.restore(bans)
                self._following.came_back(bans)
                self._gather({id(ban) for ban in bans})
                self._banning.restore(ban for ban in bans if ban.in_force(self._clock()))
                await give_way()
                await self._bouncers.tried()
        self._bans.end_restore()
        self._bouncers.end_restore()
        self._following.end_restore()
        number = self._bans.kinds().total()
        self._trouble.attempt("published bans", lambda: self._publisher.unveil(number))
        self._is_restored = True
        self._spread()
        return number

    def _purge(self) -> None:
        """Drop what will not be asked for any more; a full disk is no reason not to start."""
        now = self._clock()
        self._purge_at = now + PURGE_EVERY
        self._trouble.attempt("state", lambda: self._state.purge(self._windows, now - VANISHED))

    def _deliver(self, source: str, chunk: Chunk) -> None:
        outcome = self._pipeline.feed(source, chunk, self._clock())
        if chunk.position is not None:
            self._saving.batch.positions[source, chunk.origin] = chunk.position
        for unresolved in outcome.unresolved:
            self._names.ask(unresolved.named.host, partial(self._resolved, unresolved))
        self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        self._banning.take(outcome)
        if not outcome.bans or self._loop is None:
            self._note_late(outcome)
            return
        self._note(outcome)
        self._bouncers.wake()
        self._loop.call_soon(self._spread)

    def _resolved(self, unresolved: Unresolved, addresses: Addresses) -> None:
        """Hear, maybe in another thread, which addresses the client of an event has."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._count, unresolved, addresses)

    def _count(self, unresolved: Unresolved, addresses: Addresses) -> None:
        self._take(self._pipeline.resolve(unresolved, addresses, self._clock()))

    def _note(self, outcome: Outcome) -> None:
        """Note what is to be saved."""
        for name, keys in outcome.touched.items():
            self._saving.touch(name, keys)
        for network in self._banning.history.changed:
            self._saving.batch.pasts[network] = self._banning.history.of(network)
        self._banning.history.changed.clear()

    def _note_late(self, outcome: Outcome) -> None:
        self._note(outcome)
        self._spread()

    def _spread(self) -> None:
        self._gather()
        self._saving.soon()

    def _gather(self, saved: Collection[int] = ()) -> None:
        """Tell the bouncer, the apps and the state what changed in the ban set; `saved` are ids of bans it has."""
        changes = self._bans.follow(self._cursor)
        if changes is None and self._is_restored:
            self._begin_to_spread_all()
        elif changes is None:  # a fleet has told so much meanwhile: the rest when all bans are back
            self._bouncers.wake()
        elif changes.facts:
            self._cursor = changes.cursor
            self._learn(changes.facts)
            news = [fact for fact in changes.facts if id(fact.ban) not in saved]
            self._ban_log.learn(fact for fact in changes.facts if id(fact.ban) in saved)
            self._trouble.attempt("events", lambda: self._ban_log.write(news))
            self._saving.batch.facts += news
            facts = self._bans.for_apps(changes.facts)
            self._trouble.attempt("published bans", lambda: self._publisher.publish(facts, self._bans.bans_for_apps))

    def _begin_to_spread_all(self) -> None:
        """Do so where too much changed for the ban set to remember it: in slices, which others may come between."""
        self._cursor = self._bans.snapshot().cursor
        if self._spreading is not None:
            self._spreading.cancel()
        self._spreading = asyncio.ensure_future(self._spread_all())
        self._trouble.attempt("published bans", lambda: self._publisher.renew(self._bans.bans_for_apps))
        self._wake()

    async def _spread_all(self) -> None:
        """Compare with what the state holds."""
        async for facts in whole(self._bans, self._state, self._unsaved):
            self._take_in(facts)
            self._trouble.attempt("events", partial(self._ban_log.write, facts))
            self._saving.batch.facts.extend(facts)
            self._saving.soon()
        self._spreading = None

    def _unsaved(self) -> int:
        return 0 if "state" in self._trouble else len(self._saving.batch.facts)

    def _end_spreading(self) -> None:
        """Have saved at once what was to be spread in slices."""
        if self._spreading is not None:
            self._spreading.cancel()
            facts = chain.from_iterable(slices(self._bans, self._state))
            self._trouble.attempt("state", lambda: self._saving.batch.facts.extend(facts))

    def _learn(self, facts: Sequence[Fact]) -> None:
        """Tell who acts on them what became true of networks."""
        self._take_in(facts)
        self._wake()

    def _wake(self) -> None:
        self._bouncers.wake()
        self._following.tell()

    def _take_in(self, facts: Sequence[Fact]) -> None:
        self._pipeline.learn(facts)
        self._note(self._banning.learn(facts))
        for ban in [fact.ban for fact in facts if fact.ban is not None and self._bans.is_current(fact)]:
            why = "it is an address of this host" if self._fleet.is_own(ban.network) else self._banning.objection(ban)
            if why and self._bans.unban(ban.network, ban.ports):
                self._ban_log.lifts_by_itself(ban.key)
                log.warning("[%s] Unban %s: %s", ban.jail, ban.key, why)
                asyncio.get_running_loop().call_soon(self._spread)

    def _protect(self, let_in: Protected, others: Protected) -> None:
        """Take what no ban may meet beside what the settings say."""
        self._protections.let_in, self._protections.others = let_in, others
        self._judge.update(self._facts, administrators())
        self._safelist.learn([*safelist_of(self._config), *(network for network, _ in (*let_in, *others))])
        self._following.protect(let_in, others)

    def _write(self, batch: Batch) -> bool:
        return self._trouble.attempt("state", lambda: self._state.save(batch))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            while ended := self._bans.expire():
                for ban in ended:
                    log.info("[%s] Unban %s", ban.jail, ban.key)
                    self._trials.take(ban.key)
                await give_way()
            for name, window in self._windows.items():
                self._saving.touch(name, window.sweep(self._clock()))
            self._banning.tick()
            self._fleet.tick()
            self._note(Outcome())
            if "published bans" in self._trouble:
                self._trouble.attempt("published bans", lambda: self._publisher.publish_all(self._bans.bans_for_apps()))
            else:
                self._trouble.attempt("published bans", self._publisher.finish)
            self._publisher.beat()
            self._look_at_host()
            self._trouble.attempt("enforcement's switch", self._look_at_mark)
            if self._clock() >= self._purge_at:
                self._purge()
            self._saving.now()

    def _look_at_mark(self) -> None:
        """Take it into the state that root has switched enforcement off without us."""
        if self._mark.is_set() and self._state.setting("enforce") != "off":
            self._state.set_setting("enforce", "off")
            log.warning("enforcement was switched off while the daemon did not answer; it stays off")
            self._orders.hold_or_release(on=False)

    def _look_at_host(self) -> None:
        """Take what is new of this host: a neighbour on a link, for one, is counted alone, not with its /64."""
        facts = self._store_hosts.facts()
        self._judge.update(facts, administrators())
        if facts != self._facts:
            self._facts = facts
            self._grouping.learn(facts.on_link)
            self._fleet.learn(facts)
            self._overview.learn(facts)


def main(path: Path | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; give the exit code. Raise `AppGuardError` if it cannot start."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(message)s", level=logging.INFO, handlers=[StderrHandler()]
    )
    config = daemon_config(path or CONFIG_FILE)
    settle_memory()
    try:
        farewell = "AppGuard daemon stops; bans stay in the firewall until they end"
        asyncio.run(until_signal(Daemon(config).run(), farewell))
    except* AppGuardError as errors:
        raise errors.exceptions[0] from errors
    return 0
