"""Banning: from what a jail decided to what is in force, and what follows from that.

In this order: is the address let off (`ignorecommand`)? Would the judge refuse it? How long, after so many earlier bans
and so many this minute? Is it a dry run? Then the ban set is told, and of a new ban also the jails that count bans
(`source = "bans"`) and the escalation of its jail, which may lead to further bans. Only the first step waits, and only
that ban waits for it. Where the fleet counts (`scope = "fleet"`), the judge is asked before it is told of
a failure, and what follows from a ban follows on the host that told the last one. All is called on the daemon's loop.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from appguard.address import Address, network_text, parse_address
from appguard.ban import PERMANENT, Ban, Fact, Kind, is_host
from appguard.ban_rate import BanRate, capped
from appguard.bantime import History, bantime_of
from appguard.errors import RefusedForSafety
from appguard.escalation import Escalation
from appguard.event import BAN, Event
from appguard.exemption import Exemption, NoAnswer, check_of
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.pipeline import Outcome, Shared, count
from appguard.stores.memory import MemoryBanSet

HEARD_MOST = 1_000  # bans

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


class FleetCounting(Protocol):
    """Has the fleet count failures. `complaint` says why it cannot now; nothing if it can."""

    @property
    def complaint(self) -> str:
        """Say why it cannot count now."""
        ...

    def share(self, shared: Shared, offer: Ban | None) -> bool:
        """Have a failure counted that may lead to a ban; say whether that will be answered with `enacted`."""
        ...


class Banning:
    """The decisions of all jails. `on_late` is given what a ban that had to wait led to.

    `counting` counts for the jails of the fleet; without it, or while it cannot, this host counts alone. `on_ban` is
    told of each ban put in force, a dry run's too, and whether it is another one, not one prolonged; `on_refused` of
    each that the judge refuses, and why.

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
        counting: FleetCounting | None = None,
    ) -> None:
        self.history = History()
        self.totals = dict.fromkeys(windows, 0)
        self._windows = windows
        self._judge = judge
        self._clock = clock
        self._on_late = on_late
        self._on_ban = on_ban
        self._on_refused = on_refused
        self._counting = counting
        self._bans = bans
        self._began = clock()
        self._benches: dict[str, _Bench] = {}
        for name, window in windows.items():
            if window.jail.dry_run:
                self._benches[name] = _Bench(window.jail, MemoryBanSet(clock), History())
            else:
                self._benches[name] = _Bench(window.jail, bans, self.history)
        self._listeners = {name: window for name, window in windows.items() if BAN in window.jail.events}
        self._waiting: dict[tuple[str, str], Ban] = {}
        self._heard: dict[tuple[str, str], int] = {}  # by jail and network, the versions of what was learned of last
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, outcome: Outcome) -> None:
        """Decide the bans of an outcome; what that touches is added to it."""
        for ban in outcome.bans:
            self._take(ban, outcome)
        self._share(outcome)

    def _share(self, outcome: Outcome) -> None:
        while outcome.shared:  # a jail that counts bans may add to them meanwhile
            shared, outcome.shared = outcome.shared, []
            for each in shared:
                self._take_shared(each, outcome)

    def _take_shared(self, shared: Shared, outcome: Outcome) -> None:
        offer = self._offer(shared.offer) if shared.offer is not None else None
        is_refused = offer is None and shared.offer is not None
        if is_refused or self._counting is None or not self._counting.share(shared, offer):
            for ban in shared.bans:
                self._take(ban, outcome)

    def _offer(self, ban: Ban) -> Ban | None:
        """Give the ban that the fleet may put in force, with its end; None if it may not."""
        bench = self._benches[ban.jail]
        try:
            self._judge.check(ban)
        except RefusedForSafety:
            return None  # said when this host's own count refuses it
        ban = self._lasting(bench, ban)
        return capped(ban) if bench.rate.is_over(self._clock()) else ban

    def enacted(self, ban: Ban, is_new: bool) -> Outcome:
        """Take what the fleet has put in force because of a failure told by this host; say what follows.

        It is not new if this host had banned by itself, while the fleet did not answer; it may have been heard of.
        """
        bench, outcome = self._benches[ban.jail], Outcome()
        was_heard = self._heard.pop((ban.jail, ban.where), None) == ban.version
        is_new = is_new and (was_heard or not bench.history.in_force(ban.jail, ban.where, ban.start))
        if bench.jail.dry_run:
            bench.bans.ban(ban)
        bench.history.note(ban)
        self._on_ban(ban, is_new)
        if is_new:
            self._count_rate(bench, self._clock())
            self._say_banned(bench, ban, outcome)
        outcome.touched.setdefault(ban.jail, set()).update(self._windows[ban.jail].forget_network(ban.where))
        return outcome

    def learn(self, facts: Iterable[Fact]) -> Outcome:
        """Take what other hosts have decided: what led to a ban by the whole fleet does not count again.

        What this host decided is among it, and known already.
        """
        outcome = Outcome()
        shared = {name: bench for name, bench in self._benches.items() if bench.jail.is_shared}
        for fact in facts if shared else ():
            ban = fact.ban
            if ban is None:
                for name, bench in shared.items():
                    bench.history.end(name, network_text(fact.network), self._clock())
            elif ban.automatic and ban.jail in shared and not shared[ban.jail].history.knows(ban):
                shared[ban.jail].history.note(ban)
                self._hear(ban)
                gone = self._windows[ban.jail].forget_network(ban.where)
                outcome.touched.setdefault(ban.jail, set()).update(gone)
        return outcome

    def _hear(self, ban: Ban) -> None:
        """Remember that a ban is known from what all are told, in case the answer to our failure comes after that."""
        if len(self._heard) >= HEARD_MOST:
            self._heard.pop(next(iter(self._heard)))
        self._heard[ban.jail, ban.where] = ban.version

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
        if bench.bans.get(_first_of(ban)) is None and not bench.bans.holds(ban):
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
        if kept is None and not sized.in_force(self._clock()) and not bench.bans.holds(sized):
            log.info("[%s] %s is not banned: that would be over already%s", ban.jail, ban.key, dry)
            return
        if kept is None or not is_new:
            log.info("[%s] %s already banned%s", ban.jail, ban.key, dry)
            return
        self._say_banned(bench, kept, outcome)

    def _say_banned(self, bench: _Bench, ban: Ban, outcome: Outcome) -> None:
        self.totals[ban.jail] += 1
        log.warning("[%s] Ban %s%s", ban.jail, ban.key, " (dry run)" if bench.jail.dry_run else "")
        self._follow_up(bench, ban, outcome)

    def _sized(self, bench: _Bench, ban: Ban, *, is_new: bool) -> Ban | None:
        """Give the ban with its end; None if it is of a network while there are too many bans."""
        ban, now = self._lasting(bench, ban), self._clock()
        is_over = self._count_rate(bench, now) if is_new else bench.rate.is_over(now)
        return capped(ban) if is_over else ban

    def _lasting(self, bench: _Bench, ban: Ban) -> Ban:
        if not bench.jail.bantime_increment:
            return ban
        bantime = bantime_of(bench.jail, bench.history.earlier(bench.jail, ban.where, ban.start))
        return replace(ban, end=None if bantime == PERMANENT else ban.start + bantime)

    def _count_rate(self, bench: _Bench, now: float) -> bool:
        """Count a ban; say whether they are too many, and log when they begin to be."""
        before = bench.rate.alarm
        is_over = bench.rate.count(now)
        if bench.rate.alarm and not before:
            log.error("[%s] %s", bench.jail.name, bench.rate.alarm)
        return is_over

    def _follow_up(self, bench: _Bench, ban: Ban, outcome: Outcome) -> None:
        if ban.jail not in self._listeners and not bench.jail.dry_run and is_host(ban.network):
            event = Event(BAN, ban.start, _first_of(ban))
            for window in self._listeners.values():
                for further in count(window, event, f"[{ban.jail}] Ban {ban.key}", outcome):
                    self._take(further, outcome)
            self._share(outcome)
        wider = bench.escalation.note(ban) if bench.escalation else None
        if wider is not None:
            self._enact(wider, outcome)

    def objection(self, ban: Ban) -> str:
        """Say why a ban is to be lifted: the jail that made it here was set to `dry_run` since; nothing if it stays.

        A jail in dry run makes none: what came since is by another host of this name. Apps name no host.
        """
        is_ours = self._bans.name == MemoryBanSet.name or ban.host == self._bans.host
        is_of_before = is_ours and ban.start <= self._began and ban.automatic and ban.failures
        bench = self._benches.get(ban.jail) if is_of_before else None
        return "its jail is in dry run now" if bench is not None and bench.jail.dry_run else ""

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
            if bench.escalation is not None and not bench.jail.dry_run:
                bench.escalation.restore(ban for ban in bans if ban.jail == name and ban.automatic)

    def tick(self) -> None:
        """Do what time brings: end alarms and dry runs' bans, forget what is long past."""
        now = self._clock()
        for name, bench in self._benches.items():
            if bench.rate.calm(now):
                log.warning("[%s] no more than %d bans a minute again", name, bench.jail.bans_per_minute)
            for ban in bench.bans.expire() if bench.jail.dry_run else ():
                log.info("[%s] Unban %s (dry run)", name, ban.key)
        for history in {id(bench.history): bench.history for bench in self._benches.values()}.values():
            history.sweep(now)

    def alarm(self, jail: str) -> str:
        """Say what is wrong with a jail; nothing if nothing is."""
        bench = self._benches[jail]
        complaint = self._counting.complaint if bench.jail.is_shared and self._counting is not None else ""
        alone = f"this host counts alone: Redis: {complaint}" if complaint else ""
        return "; ".join(filter(None, (bench.rate.alarm, alone)))

    def outlook(self, jail: str, network: str, now: float) -> tuple[int, float]:
        """Give how many earlier bans of a network count for a jail, and the seconds another would last at least."""
        bench = self._benches[jail]
        earlier = bench.history.earlier(bench.jail, network, now)
        return earlier, bantime_of(bench.jail, earlier, lambda: 0.0)

    def dry_kinds(self, jail: str) -> Counter[Kind]:
        """Give how many bans of each kind a jail in dry run would have made that were in force now."""
        bench = self._benches[jail]
        return bench.bans.kinds() if bench.jail.dry_run else Counter()

    def dry_bans(self, jail: str) -> tuple[Ban, ...]:
        """Give what a jail in dry run would have banned now."""
        bench = self._benches[jail]
        return bench.bans.snapshot().bans if bench.jail.dry_run else ()


def _first_of(ban: Ban) -> Address:
    """Give the address of a ban, or the first of its network."""
    return parse_address(ban.where.partition("/")[0])
