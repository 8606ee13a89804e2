"""Banning: from what a jail decided to what is in force, and what follows from that.

In this order: is the address let off (`ignorecommand`)? Would the judge refuse it? How long, after so many earlier bans
and so many this minute? Is it a dry run? Then the ban set is told, and of a new ban also the jails that count bans
(`source = "bans"`) and the escalation of its jail, which may lead to further bans. Only the first step waits, and only
that ban waits for it. All is called on the daemon's event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from appguard.address import parse_address
from appguard.ban import PERMANENT, Ban, is_host
from appguard.ban_rate import BanRate, capped
from appguard.bantime import History, bantime_of
from appguard.errors import RefusedForSafety
from appguard.escalation import Escalation
from appguard.event import BAN, Event
from appguard.exemption import Exemption, NoAnswer, check_of
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.pipeline import Outcome, count
from appguard.stores.memory import MemoryBanSet

HISTORY_SWEEP = 600.0  # seconds

log = logging.getLogger("appguard")


class _Bench:
    """What one jail's bans go through."""

    def __init__(self, jail: Jail, bans: MemoryBanSet, history: History) -> None:
        self.jail = jail
        self.bans = bans
        self.history = history
        self.rate = BanRate(jail)
        self.escalation = Escalation(jail) if jail.escalate else None
        self.exemption = Exemption(check_of(jail.ignorecommand)) if jail.ignorecommand else None


class Banning:
    """The decisions of all jails. `on_late` is given what a ban that had to wait led to.

    `on_ban` is told of each ban put in force, a dry run's too, and whether it is another one, not one prolonged;
    `on_refused` of each that the judge refuses, and why.

    A ban of a jail in `dry_run` is in no ban set that anybody enforces. `totals` are the bans each jail ever made.
    """

    def __init__(
        self,
        windows: Mapping[str, JailWindow],
        bans: MemoryBanSet,
        judge: Judge,
        clock: Callable[[], float],
        on_late: Callable[[Outcome], None],
        on_ban: Callable[[Ban, bool], None] = lambda ban, is_new: None,
        on_refused: Callable[[Ban, str], None] = lambda ban, why: None,
    ) -> None:
        self.history = History()
        self.totals = dict.fromkeys(windows, 0)
        self._windows = windows
        self._judge = judge
        self._clock = clock
        self._on_late = on_late
        self._on_ban = on_ban
        self._on_refused = on_refused
        self._benches: dict[str, _Bench] = {}
        for name, window in windows.items():
            if window.jail.dry_run:
                self._benches[name] = _Bench(window.jail, MemoryBanSet(clock), History())
            else:
                self._benches[name] = _Bench(window.jail, bans, self.history)
        self._listeners = {name: window for name, window in windows.items() if BAN in window.jail.events}
        self._waiting: dict[tuple[str, str], Ban] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = 0.0

    def take(self, outcome: Outcome) -> None:
        """Decide the bans of an outcome; what that touches is added to it."""
        for ban in outcome.bans:
            self._take(ban, outcome)

    def _take(self, ban: Ban, outcome: Outcome) -> None:
        exemption = self._benches[ban.jail].exemption
        if exemption is None:
            self._enact(ban, outcome)
            return
        is_let_off = exemption.remembered(ban.where)
        if is_let_off is not None:
            self._decide(ban, outcome, is_let_off=is_let_off)
        elif (ban.jail, ban.key) not in self._waiting:
            self._waiting[ban.jail, ban.key] = ban
            task = asyncio.ensure_future(self._ask(exemption, ban))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, exemption: Exemption, ban: Ban) -> None:
        try:
            is_let_off = await exemption.ask(ban.where)
        except NoAnswer as error:
            log.warning("[%s] ignorecommand does not say whether to ban %s, so it is: %s", ban.jail, ban.key, error)
            is_let_off = False
        if self._waiting.pop((ban.jail, ban.key), None) is not None:
            outcome = Outcome()
            self._decide(ban, outcome, is_let_off=is_let_off)
            self._on_late(outcome)

    def _decide(self, ban: Ban, outcome: Outcome, *, is_let_off: bool) -> None:
        if is_let_off:
            log.info("[%s] Ignore %s by ignorecommand", ban.jail, ban.key)
        else:
            self._enact(ban, outcome)

    def settle(self) -> Outcome:
        """Make the bans that wait for an answer: there will be none any more."""
        outcome = Outcome()
        while self._waiting:
            _, ban = self._waiting.popitem()
            log.warning("[%s] ignorecommand does not say in time whether to ban %s, so it is", ban.jail, ban.key)
            self._enact(ban, outcome)
        for task in self._tasks:
            task.cancel()
        return outcome

    def _enact(self, ban: Ban, outcome: Outcome) -> None:
        bench = self._benches[ban.jail]
        try:
            self._judge.check(ban)
        except RefusedForSafety as error:
            log.warning("[%s] %s is not banned: %s", ban.jail, ban.key, error)
            self._on_refused(ban, str(error))
            return
        if bench.bans.get(parse_address(str(ban.network.network_address))) is None and not bench.bans.holds(ban):
            bench.history.end(ban.jail, ban.where, ban.start)
        is_new = not bench.history.in_force(ban.jail, ban.where, ban.start)
        sized = self._sized(bench, ban, is_new=is_new)
        if sized is None:
            return
        kept = bench.bans.ban(sized)
        dry = " (dry run)" if bench.jail.dry_run else ""
        if kept is not None:
            bench.history.note(kept)
            self._on_ban(kept, is_new)
        if kept is None or not is_new:
            log.info("[%s] %s already banned%s", ban.jail, ban.key, dry)
            return
        self.totals[ban.jail] += 1
        log.warning("[%s] Ban %s%s", kept.jail, kept.key, dry)
        self._follow_up(bench, kept, outcome)

    def _sized(self, bench: _Bench, ban: Ban, *, is_new: bool) -> Ban | None:
        """Give the ban with its end; None if it is of a network while there are too many bans."""
        bantime = bantime_of(bench.jail, bench.history.earlier(bench.jail, ban.where, ban.start))
        if bench.jail.bantime_increment:
            ban = replace(ban, end=None if bantime == PERMANENT else ban.start + bantime)
        now = self._clock()
        before = bench.rate.alarm
        is_over = bench.rate.count(now) if is_new else bench.rate.is_over(now)
        if bench.rate.alarm and not before:
            log.error("[%s] %s", ban.jail, bench.rate.alarm)
        return capped(ban) if is_over else ban

    def _follow_up(self, bench: _Bench, ban: Ban, outcome: Outcome) -> None:
        if ban.jail not in self._listeners and not bench.jail.dry_run and is_host(ban.network):
            event = Event(BAN, ban.start, parse_address(str(ban.network.network_address)))
            for window in self._listeners.values():
                for further in count(window, event, f"[{ban.jail}] Ban {ban.key}", outcome):
                    self._take(further, outcome)
        wider = bench.escalation.note(ban) if bench.escalation else None
        if wider is not None:
            self._enact(wider, outcome)

    def lift(self, ban: Ban) -> dict[str, set[str]]:
        """Forget what led to a ban that a person lifts: it was wrong. Give the keys that are touched, by jail."""
        self.history.forget(ban.where)
        for bench in self._benches.values():
            if bench.escalation is not None:
                bench.escalation.forget(ban)
        return {name: window.forget_network(ban.where) for name, window in self._windows.items()}

    def restore(self, bans: Iterable[Ban]) -> None:
        """Take back what is in force after a restart."""
        bans = tuple(bans)
        for name, bench in self._benches.items():
            if bench.escalation is not None:
                bench.escalation.restore(ban for ban in bans if ban.jail == name and ban.automatic)

    def tick(self) -> None:
        """Do what time brings: end alarms and dry runs' bans, forget what is long past."""
        now = self._clock()
        for name, bench in self._benches.items():
            if bench.rate.calm(now):
                log.warning("[%s] no more than %d bans a minute again", name, bench.jail.bans_per_minute)
            for ban in bench.bans.expire() if bench.jail.dry_run else ():
                log.info("[%s] Unban %s (dry run)", name, ban.key)
        if now >= self._swept + HISTORY_SWEEP:
            self._swept = now
            for history in {id(bench.history): bench.history for bench in self._benches.values()}.values():
                history.sweep(now)

    def alarm(self, jail: str) -> str:
        """Say what is wrong with a jail; nothing if nothing is."""
        return self._benches[jail].rate.alarm

    def outlook(self, jail: str, network: str, now: float) -> tuple[int, float]:
        """Give how many earlier bans of a network count for a jail, and the seconds another would last at least."""
        bench = self._benches[jail]
        earlier = bench.history.earlier(bench.jail, network, now)
        return earlier, bantime_of(bench.jail, earlier, lambda: 0.0)

    def dry_bans(self, jail: str) -> tuple[Ban, ...]:
        """Give what a jail in dry run would have banned now."""
        bench = self._benches[jail]
        return bench.bans.snapshot().bans if bench.jail.dry_run else ()
