"""What the daemon can say of itself at any time, from what its parts hold in memory."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from appguard.ban import Ban
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


class Overview:
    """Looks at the parts of a daemon; changes none."""

    def __init__(
        self,
        jails: Sequence[JailConfig],
        windows: Mapping[str, JailWindow],
        banning: Banning,
        sources: Mapping[str, Source],
        bouncers: Bouncers,
        bans: Callable[[], Sequence[Ban]],
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
        bouncers, bans = self._bouncers.status, self._bans()
        banned = Counter(ban.jail for ban in bans)
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
            bans=len(bans),
            firewalls=tuple(FirewallSummary(each.firewall, each.error, each.dropped) for each in bouncers),
            reach=self._reach_of(bans),
            jails=tuple(self._summary(name, banned[name]) for name in self._windows),
            sources=tuple(self._source(name) for name in self._sources),
            refused=tuple(refused.values()),
        )

    def _reach_of(self, bans: Sequence[Ban]) -> tuple[ReachSummary, ...]:
        hidden = ((others, ban) for ban in bans if (others := self._reach.others(ban.via)))
        counted = Counter((", ".join(others), self._enforcers(others, ban)) for others, ban in hidden)
        return tuple(ReachSummary(others, n, enforced_by) for (others, enforced_by), n in counted.items())

    def _enforcers(self, others: Sequence[str], ban: Ban) -> tuple[str, ...]:
        able = (each for each in self._bouncers.status if not each.error and not each.is_held)
        return enforcers(others, [each.kind for each in able if ban.key not in each.refused], ban.ports)

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
        banned += len(banning.dry_bans(name))
        total = banning.totals[name]
        return JailSummary(name, window.currently_failed, window.total_failed, banned, total, banning.alarm(name))

    def jail(self, name: str) -> JailStatus | None:
        """Say how one jail is; None if there is none of this name."""
        window = self._windows.get(name)
        if window is None:
            return None
        banned = [ban for ban in (*self._bans(), *self._banning.dry_bans(name)) if ban.jail == name]
        enforced_by = "; ".join(map(_enforced_by, self._bouncers.status))
        sources = sources_of(self._jails[name])
        return JailStatus(
            name=name,
            currently_failed=window.currently_failed,
            total_failed=window.total_failed,
            origins=tuple(origin for source in sources for origin in self._sources[source].status().origins),
            currently_banned=len(banned),
            total_banned=self._banning.totals[name],
            banned=list(dict.fromkeys(ban.where for ban in banned)),
            enforced_by="nothing (dry run)" if window.jail.dry_run else enforced_by,
            reach=() if window.jail.dry_run else self._reach_of(banned),
            alarm=self._banning.alarm(name),
            ports=ports_text(window.jail.ports, window.jail.protocol),
            dropped=self._dropped(name),
        )

    def _dropped(self, name: str) -> Dropped | None:
        """Give what the firewalls that count by jail have dropped for one; None if there is none such."""
        counts = [each.counts.get(name, Count(0, 0)) for each in self._bouncers.status if each.counts]
        return Dropped(sum(one.packets for one in counts), sum(one.bytes for one in counts)) if counts else None

    def ban(self, ban: Ban) -> BanRecord:
        """Give the record of a ban, with who enforces it."""
        return BanRecord.of(ban, self._enforcers(self._reach.others(ban.via), ban))


def _enforced_by(bouncer: BouncerStatus) -> str:
    if bouncer.error:
        return f"nothing: {bouncer.error}"
    if bouncer.is_held:
        return "nothing (enforce off)"
    return bouncer.firewall + (f", {bouncer.dropped} packets dropped" if bouncer.dropped is not None else "")
