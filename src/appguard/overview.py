"""What the daemon can say of itself at any time, from what its parts hold in memory."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from appguard.ban import Ban, Kind
from appguard.banning import Banning
from appguard.bouncer_status import BouncerStatus
from appguard.bouncers import Bouncers
from appguard.config_jails import JailConfig
from appguard.firewalls.base import Count
from appguard.host import HostFacts
from appguard.jail_window import JailWindow
from appguard.members import sources_of
from appguard.pipeline import Pipeline
from appguard.ports import ports_text
from appguard.reach import Reach, enforcers
from appguard.sources.base import Source
from appguard.status import (
    BanRecord,
    DaemonStatus,
    Dropped,
    FirewallSummary,
    JailStatus,
    JailSummary,
    ReachSummary,
    RefusedBan,
    SourceSummary,
)
from appguard.stores.memory import MemoryBanSet
from appguard.turns import give_way

LOOKED_AT_ONCE = 5_000  # bans


class Overview:
    """Looks at the parts of a daemon; changes none."""

    def __init__(
        self,
        jails: Sequence[JailConfig],
        windows: Mapping[str, JailWindow],
        banning: Banning,
        sources: Mapping[str, Source],
        bouncers: Bouncers,
        bans: MemoryBanSet,
        pipeline: Pipeline,
    ) -> None:
        self._jails = {each.jail.name: each for each in jails}
        self._windows = windows
        self._banning = banning
        self._sources = sources
        self._bouncers = bouncers
        self._bans = bans
        self._pipeline = pipeline
        self._reach = Reach(HostFacts())

    def learn(self, facts: HostFacts) -> None:
        """Take fresh facts about this host."""
        self._reach = Reach(facts)

    def daemon(self, started: float, store: str) -> DaemonStatus:
        """Say how the whole daemon is; `store` is what to say of its store."""
        bouncers, kinds = self._bouncers.status, self._bans.kinds()
        banned: Counter[str] = Counter()
        for (jail, _, _), number in kinds.items():
            banned[jail] += number
        refused = {
            (ban.key, why): RefusedBan(ban.key, ban.jail, why)
            for each in bouncers
            for ban, why in each.refused.values()
        }
        return DaemonStatus(
            version=version("appguard-py"),
            pid=os.getpid(),
            started=started,
            store=store,
            enforcing=not any(each.is_held for each in bouncers),
            bans=kinds.total(),
            firewalls=tuple(FirewallSummary(each.firewall, each.error, each.dropped) for each in bouncers),
            reach=self._reach_of(kinds),
            jails=tuple(self._summary(name, banned[name]) for name in self._windows),
            sources=tuple(self._source(name) for name in self._sources),
            refused=tuple(refused.values()),
        )

    def _reach_of(self, kinds: Mapping[Kind, int]) -> tuple[ReachSummary, ...]:
        counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for (_, via, ports), number in kinds.items():
            if others := self._reach.others(via):
                counted[", ".join(others), self._enforcers(others, ports)] += number
        refused = {ban.key: ban for each in self._bouncers.status for ban, _ in each.refused.values()}
        for key, ban in refused.items():  # counted with those of their kind, but by fewer enforced
            others = self._reach.others(ban.via)
            if others and ban.kind in kinds and self._bans.holds(ban):
                counted[", ".join(others), self._enforcers(others, ban.ports)] -= 1
                counted[", ".join(others), self._enforcers(others, ban.ports, key)] += 1
        counted = +counted
        return tuple(ReachSummary(others, n, enforced_by) for (others, enforced_by), n in counted.items())

    def _enforcers(self, others: Sequence[str], ports: str, key: str = "") -> tuple[str, ...]:
        able = (each for each in self._bouncers.status if not each.error and not each.is_held)
        return enforcers(others, [each.kind for each in able if key not in each.refused], ports)

    def _source(self, name: str) -> SourceSummary:
        status, counts = self._sources[name].status(), self._pipeline.counts(name)
        return SourceSummary(
            name=name,
            origins=status.origins,
            behind=status.behind,
            complaint="; ".join(filter(None, (status.complaint, *self._pipeline.complaints(name)))),
            lag=status.lag,
            dropped=status.dropped,
            lines=counts.lines,
            matched=counts.matched,
            untimely=counts.untimely,
            passed_over=counts.passed_over,
            refused=counts.refused,
        )

    def _summary(self, name: str, banned: int) -> JailSummary:
        window, banning = self._windows[name], self._banning
        banned += banning.dry_kinds(name).total()
        total = banning.totals[name]
        return JailSummary(name, window.currently_failed, window.total_failed, banned, total, banning.alarm(name))

    async def jail(self, name: str) -> JailStatus | None:
        """Say how one jail is; None if there is none of this name. Others go first again and again."""
        window = self._windows.get(name)
        if window is None:
            return None
        kinds = Counter({kind: number for kind, number in self._bans.kinds().items() if kind[0] == name})
        banned = [*await self._banned(name), *(ban.where for ban in self._banning.dry_bans(name))]
        enforced_by = "; ".join(map(_enforced_by, self._bouncers.status))
        sources = sources_of(self._jails[name])
        return JailStatus(
            name=name,
            currently_failed=window.currently_failed,
            total_failed=window.total_failed,
            origins=tuple(origin for source in sources for origin in self._sources[source].status().origins),
            currently_banned=len(banned),
            total_banned=self._banning.totals[name],
            banned=list(dict.fromkeys(banned)),
            enforced_by=_dry(enforced_by, others=bool(kinds)) if window.jail.dry_run else enforced_by,
            reach=self._reach_of(kinds),
            alarm=self._banning.alarm(name),
            ports=ports_text(window.jail.ports, window.jail.protocol),
            dropped=self._dropped(name),
        )

    async def _banned(self, jail: str) -> list[str]:
        found: list[str] = []
        held, now = self._bans.held(), self._bans.now
        for first in range(0, len(held), LOOKED_AT_ONCE):
            part = held[first : first + LOOKED_AT_ONCE]
            found += [ban.where for ban in part if ban.jail == jail and ban.in_force(now)]
            await give_way()
        return found

    def _dropped(self, name: str) -> Dropped | None:
        """Give what the firewalls that count by jail have dropped for one; None if there is none such."""
        counts = [each.counts.get(name, Count(0, 0)) for each in self._bouncers.status if each.counts]
        return Dropped(sum(one.packets for one in counts), sum(one.bytes for one in counts)) if counts else None

    def ban(self, ban: Ban) -> BanRecord:
        """Give the record of a ban, with who enforces it."""
        return BanRecord.of(ban, self._enforcers(self._reach.others(ban.via), ban.ports, ban.key))


def _dry(enforced_by: str, *, others: bool) -> str:
    """Say who enforces the bans of a jail in dry run: those that people and other hosts made are in force."""
    return (
        f"nothing of its own (dry run); bans by people and other hosts: {enforced_by}"
        if others
        else "nothing (dry run)"
    )


def _enforced_by(bouncer: BouncerStatus) -> str:
    if bouncer.error:
        return f"nothing: {bouncer.error}"
    if bouncer.is_held:
        return "nothing (enforce off)"
    return bouncer.firewall + (f", {bouncer.dropped} packets dropped" if bouncer.dropped is not None else "")
