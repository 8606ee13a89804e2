"""Explain: what would become of a line, or what is known of an address, stage by stage; nothing is counted or changed.

A line is read by fresh filters in a thread of its own, so that neither a slow regex nor what filters remember touches
the daemon. What follows reads the daemon's memory: the counters of the jails, the ban set, the judge. A filter here is
told to yield requests that are no failure too, so that such a line is explained as what it is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appguard.address import Address, Grouping, NetworkSet, parse_address
from appguard.ban import EVIDENCE_TEXT_MOST, Ban
from appguard.banning import Banning
from appguard.config import DaemonConfig
from appguard.config_jails import JailConfig
from appguard.config_sources import BANS_SOURCE
from appguard.engine import Windows, judge_of, reads, safelist_of, windows_of, without_questions
from appguard.errors import AddressError, RefusedForSafety
from appguard.event import LOGIN_FAIL, REQUEST, Event
from appguard.explained import AddressFacts, EventRecord, Explanation, JailStep
from appguard.filters.base import Named
from appguard.host import administrators
from appguard.jail import Jail
from appguard.jail_key import PAIR, network_of
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.members import fresh_filter_of, sources_of, wanted_kinds
from appguard.not_counted import why_no_event, why_not_counted
from appguard.status import BanRecord
from appguard.store_hosts import StoreHosts
from appguard.stores.memory import MemoryBanSet
from appguard.verdict import conclusion_of

Found = Event | Named | None
CountedByAll = Callable[[Sequence[tuple[Jail, str]]], Awaitable[Mapping[tuple[str, str], int]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a daemon that are looked at. `record` tells who enforces a ban, `is_enforcing` whether anybody is.

    `counted_by_all` looks up what all hosts have counted, by jail and key, as far as it is known at once. `is_live` is
    False where there is no daemon, and therefore nothing counted.
    """

    jails: Sequence[JailConfig]
    windows: Windows
    banning: Banning
    bans: MemoryBanSet
    judge: Judge
    safelist: NetworkSet
    group: Callable[[Address], str]
    record: Callable[[Ban], BanRecord]
    is_enforcing: Callable[[], bool]
    counted_by_all: CountedByAll | None = None
    is_live: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What one jail gets to see of a line: `why_not` says why it does not read it, or why that is no event."""

    config: JailConfig
    found: Found
    why_not: str


class Explainer:
    """Explains one thing at a time. Is used on the daemon's event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turn = asyncio.Lock()

    async def explain(self, what: str, origin: str, now: float) -> Explanation:
        """Explain an address, or a line as if it stood in the file `origin` (empty: wherever)."""
        try:
            return await self._address(parse_address(what.strip()), now)
        except AddressError:
            pass  # a line then
        line = what.rstrip("\r\n").encode(errors="replace")
        async with self._turn:
            seen = await asyncio.to_thread(look, self._parts.jails, line, origin, now)
        return await self._line(what, seen, now)

    async def _line(self, what: str, seen: Sequence[Seen], now: float) -> Explanation:
        jails = await self._with_all_hosts([(step, step.key) for step in (self._seen_step(e, what, now) for e in seen)])
        found = {each.found.address.text: each.found.address for each in seen if isinstance(each.found, Event)}
        addresses = tuple(self._facts(address) for address in found.values())
        return self._explanation(what, now, jails, addresses)

    async def _address(self, address: Address, now: float) -> Explanation:
        steps: list[tuple[JailStep, str]] = []
        for each in self._parts.jails:
            window = self._parts.windows[each.jail.name]
            network = "" if window.jail.is_by_user else self._parts.group(address)
            own = window.key(Event(LOGIN_FAIL, now, address)) or network  # of a pair the part that is known
            elsewhere = "" if window.jail.key == PAIR else own
            keys = window.keys_of(own) if own else ()
            steps += (
                (self._step(each, None, key, key.partition(" ")[0] or network, "", "", now), key or elsewhere)
                for key in keys or ("",)
            )
        jails = await self._with_all_hosts(steps)
        return self._explanation(address.text, now, jails, (self._facts(address),))

    async def _with_all_hosts(self, steps: Sequence[tuple[JailStep, str]]) -> tuple[JailStep, ...]:
        """Add to each step what all hosts have counted under its key, or the one it would have."""
        windows, ask = self._parts.windows, self._parts.counted_by_all
        shared = [(windows[step.name].jail, key) for step, key in steps if step.is_shared and key]
        if ask is None or not shared:
            return tuple(step for step, _ in steps)
        found = await ask(shared)
        return tuple(_with_count(step, key, found.get((step.name, key))) for step, key in steps)

    def _explanation(
        self, what: str, now: float, jails: Sequence[JailStep], addresses: Sequence[AddressFacts]
    ) -> Explanation:
        is_live = self._parts.is_live
        return Explanation(what, is_live, now, jails, addresses, conclusion_of(jails, addresses, is_live=is_live))

    def _seen_step(self, seen: Seen, line: str, now: float) -> JailStep:
        found, why_not, key = seen.found, seen.why_not, ""
        window = self._parts.windows[seen.config.jail.name]
        if isinstance(found, Event):
            key = window.key(found)
            why_not = why_not or why_not_counted(window, found, self._parts.safelist, now)
        elif isinstance(found, Named):
            why_not = why_not or f"its client is known by the name {found.host} only: its addresses are looked up first"
        return self._step(seen.config, found, key, self._network(window, found, key), line, why_not, now)

    def _step(  # each is a part of the record
        self, config: JailConfig, found: Found, key: str, network: str, line: str, why_not: str, now: float
    ) -> JailStep:
        window, jail = self._parts.windows[config.jail.name], config.jail
        failures = window.failures(key) if key else ()
        earlier, bantime = self._parts.banning.outlook(jail.name, network, now)
        return JailStep(
            name=jail.name,
            sources=tuple(sources_of(config)) or config.sources,
            filter=config.filter,
            event=_record_of(found),
            fits=isinstance(found, Event) and window.counts(found),
            why_not=why_not,
            key=key,
            counted=sum(each.count for each in failures if each.time > now - window.findtime),
            maxretry=jail.maxretry,
            findtime=window.findtime,
            is_evidence=bool(line) and any(each.evidence == line[:EVIDENCE_TEXT_MOST] for each in failures),
            bantime=bantime,
            earlier=earlier,
            refused=self._refused(network, now) if network else "",
            dry_run=jail.dry_run,
            is_shared=window.is_shared,
            dry_banned=any(ban.where == network for ban in self._parts.banning.dry_bans(jail.name)),
        )

    def _network(self, window: JailWindow, found: Found, key: str) -> str:
        """Give what a jail would ban; empty if that is not known."""
        if window.jail.is_by_user:
            return self._parts.group(found.address) if isinstance(found, Event) else ""
        return key.partition(" ")[0]

    def _refused(self, network: str, now: float) -> str:
        try:
            self._parts.judge.check(Ban(network_of(network), "explain", now, now + 1))
        except RefusedForSafety as error:
            return str(error)
        return ""

    def _facts(self, address: Address) -> AddressFacts:
        parts = self._parts
        found = parts.bans.get(address)
        refused = self._refused(parts.group(address), 0.0)
        others = [ban for ban in parts.bans.ported(address) if ban is not found]
        bans = tuple(parts.record(ban) for ban in (*([] if found is None else [found]), *others))
        return AddressFacts(address.text, address in parts.safelist, refused, bans, parts.is_enforcing())


def _with_count(step: JailStep, key: str, counted: int | None) -> JailStep:
    return replace(step, counted_by_all=counted, key=step.key or (key if counted else ""))


def from_settings(config: DaemonConfig, clock: Callable[[], float] = time.time) -> Explainer:
    """Give what explains by the settings and this host alone, where no daemon runs; raise `ConfigError`."""
    facts = StoreHosts(config.store).facts()
    grouping, judge, bans = Grouping(facts.on_link), judge_of(config, facts, administrators()), MemoryBanSet(clock)
    windows = windows_of([without_questions(each) for each in config.jails], grouping)
    return Explainer(
        Parts(
            config.jails,
            windows,
            Banning(windows, bans, judge, clock, lambda outcome: None),
            bans,
            judge,
            safelist_of(config),
            grouping.key,
            record=BanRecord.of,
            is_enforcing=lambda: False,
            is_live=False,
        )
    )


def look(jails: Sequence[JailConfig], line: bytes, origin: str, now: float) -> tuple[Seen, ...]:
    """Give what each jail gets to see of a line, as if it were written now; raise `ConfigError`."""
    readers = [each for each in jails if BANS_SOURCE not in each.sources]
    kinds = wanted_kinds(readers)
    found: dict[str, tuple[Found, str]] = {}
    seen: list[Seen] = []
    for each in readers:
        chosen = fresh_filter_of(each, kinds[each.filter] | {REQUEST})
        if chosen.name not in found:
            event = chosen.match(line, now)
            found[chosen.name] = event, "" if event is not None else why_no_event(chosen, line, now)
        event, no_event = found[chosen.name]
        unread = "" if not origin or reads(each, Path(origin)) else f"it does not read {origin}"
        seen.append(Seen(each, event, unread or no_event))
    return tuple(seen)


def _record_of(found: Found) -> EventRecord | None:
    if isinstance(found, Event):
        return EventRecord(
            found.kind,
            found.address.text,
            found.time,
            found.count,
            user=found.user,
            method=found.method,
            path=found.path,
            status=found.status,
            via=found.via,
            jail=found.jail,
        )
    if isinstance(found, Named):
        event = found.event_of(parse_address("192.0.2.1"))
        return EventRecord(event.kind, "", event.time, event.count, host=found.host, user=event.user)
    return None
