"""What people order and ask through `control.sock`, carried out by the parts of a daemon; see `control.Controlled`."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from appguard.address import Grouping, Network, network_text, overlap, parse_address, parse_network
from appguard.ban import Ban
from appguard.ban_log import BanEvent, BanLog
from appguard.banning import Banning
from appguard.bouncers import Bouncers
from appguard.errors import AddressError, ConfigError, FirewallError
from appguard.explain import Explainer
from appguard.explained import Explanation
from appguard.fleet import Fleet
from appguard.following import Following
from appguard.held import HoldMark
from appguard.judge import Judge
from appguard.overview import Overview
from appguard.pipeline import Outcome
from appguard.ports import key_of, parse_key
from appguard.safelisted import Safelisted
from appguard.state import State
from appguard.status import BanRecord, DaemonStatus, JailStatus
from appguard.stores.memory import MemoryBanSet
from appguard.trials import Trials
from appguard.turns import give_way

LOOKED_AT_ONCE = 1_000  # bans

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a daemon that orders reach. `on_outcome` notes what an order led to and spreads it."""

    bans: MemoryBanSet
    banning: Banning
    judge: Judge
    trials: Trials
    bouncers: Bouncers
    overview: Overview
    fleet: Fleet
    ban_log: BanLog
    grouping: Grouping
    state: State
    mark: HoldMark
    clock: Callable[[], float]
    on_outcome: Callable[[Outcome], None]


class Orders:
    """Carries out orders. All is called on the daemon's event loop, while its parts are open."""

    def __init__(self, parts: Parts, explainer: Explainer, following: Following) -> None:
        self.following = following
        self._explainer = explainer
        self._parts = parts
        self._started = parts.clock()

    def bans(self) -> Sequence[Ban]:
        """Give the bans in force."""
        return self._parts.bans.snapshot().bans

    def status(self) -> DaemonStatus:
        """Say how the daemon is."""
        store, unheard, unshared = self._parts.bans.name, self._parts.bans.complaint, self._parts.fleet.complaint
        if unheard:
            store += f", not answering: {unheard}"
        elif unshared:
            store += f", not sharing protections and safelist: {unshared}"
        return self._parts.overview.daemon(self._started, store)

    async def jail_status(self, name: str) -> JailStatus | None:
        """Say how one jail is."""
        return await self._parts.overview.jail(name)

    def record(self, ban: Ban) -> BanRecord:
        """Give the record of a ban, with who enforces it."""
        return replace(self._parts.overview.ban(ban), unconfirmed=ban.key in self._parts.trials)

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Put a person's ban in force."""
        if ban.network.version == 6 and ban.network.prefixlen == 128:
            ban = replace(ban, network=parse_network(self._parts.grouping.key(parse_address(ban.where))))
        self._parts.judge.check(ban, force=force)
        if force:
            self._parts.bouncers.force(ban.key)
            ban = self._parts.trials.on_trial(ban, self._parts.clock())
        return self._put(ban)

    def _put(self, ban: Ban) -> Ban:
        kept = self._parts.bans.ban(ban)
        if kept is None:
            return self._outlasting(ban)
        self._parts.banning.totals[ban.jail] = self._parts.banning.totals.get(ban.jail, 0) + 1
        log.warning("[%s] Ban %s", kept.jail, kept.key)
        self._parts.on_outcome(Outcome())
        return kept

    async def confirm(self, what: str) -> Ban | None:
        """Give a ban by force the length that was asked for."""
        ban = self._parts.trials.take(_key_of(what))
        return self._put(ban) if ban is not None and self._parts.bans.holds(ban) else None

    def _outlasting(self, ban: Ban) -> Ban:
        found = next((each for each in self._parts.bans.of_network(ban.network) if each.ports == ban.ports), None)
        if found is None:
            raise ConfigError(f"{ban.key}: the ban would already have ended")
        return found

    async def settled(self) -> str:
        """Enforce what is new now; say why it is not enforced, nothing if it is."""
        try:
            await self._parts.bouncers.settle()
        except FirewallError as error:
            return str(error)
        return "enforcement is off" if any(each.is_held for each in self._parts.bouncers.status) else ""

    async def unban(self, what: str, jail: str | None = None) -> Ban | None:
        """Lift a ban; of a network all there are, whichever ports they are about."""
        lifted = self._lift(ban for ban in await self._found(what) if jail in (None, ban.jail))
        return next(iter(lifted), None)

    def _lift(self, bans: Iterable[Ban]) -> list[Ban]:
        """Lift bans; give those that were still in force."""
        lifted = [ban for ban in bans if self._parts.bans.unban(ban.network, ban.ports)]
        outcome = Outcome()
        for ban in lifted:
            log.warning("[%s] Unban %s", ban.jail, ban.key)
            self._parts.trials.take(ban.key)
            for jail, keys in self._parts.banning.lift(ban).items():
                outcome.touched.setdefault(jail, set()).update(keys)
        if lifted:
            self._parts.fleet.forget(lifted)
            self._parts.on_outcome(outcome)
        return lifted

    async def _found(self, what: str) -> list[Ban]:
        """Find bans by their network, an address (the bans of its /64 too), or a ref."""
        try:
            networks = {parse_network(what)}
            if "/" not in what:
                networks.add(parse_network(self._parts.grouping.key(parse_address(what))))
        except AddressError:
            return await self._all(lambda ban: ban.ref == what.upper())
        return [ban for network in networks for ban in self._parts.bans.of_network(network)]

    async def _all(self, is_meant: Callable[[Ban], bool]) -> list[Ban]:
        """Find bans by looking at every one; others go first again and again."""
        found: list[Ban] = []
        bans = self.bans()
        for first in range(0, len(bans), LOOKED_AT_ONCE):
            found += filter(is_meant, bans[first : first + LOOKED_AT_ONCE])
            await give_way()
        return found

    async def enforce(self, on: bool) -> None:
        """Begin or stop to enforce."""
        self._parts.state.set_setting("enforce", "on" if on else "off")
        if on:
            self._parts.mark.clear()
        self.hold_or_release(on=on)
        await self._parts.bouncers.settle()

    def safelisted(self) -> Sequence[Safelisted]:
        """Give what was put on the safelist beside the settings."""
        return self._parts.fleet.listed()

    async def add_to_safelist(
        self, network: Network, seconds: float | None, reason: str
    ) -> tuple[Safelisted, list[Ban]]:
        """Put a network on the safelist and lift the bans that it shares an address with; give both."""
        entry = self._parts.fleet.add(network, seconds, reason)
        return entry, self._lift(await self._all(lambda ban: overlap(ban.network, network)))

    async def remove_from_safelist(self, network: Network) -> Safelisted | None:
        """Take exactly this network off the safelist."""
        return self._parts.fleet.remove(network)

    async def events(self, since: int) -> tuple[Sequence[BanEvent], int]:
        """Give what became of bans after a cursor, and the cursor of the last event when that was asked."""
        newest = self._parts.ban_log.newest
        return await asyncio.to_thread(self._parts.ban_log.read, since), newest

    async def explain(self, what: str, origin: str) -> Explanation:
        """Say what would become of a line, or what is known of an address."""
        return await self._explainer.explain(what, origin, self._parts.clock())

    def hold_or_release(self, *, on: bool) -> None:
        """Enforce, or lift everything and hold."""
        self.following.switch(on)
        if on:
            self._parts.bouncers.release()
        else:
            self._parts.bouncers.hold()


def _key_of(what: str) -> str:
    """Give the key of a ban as people write it, its network perhaps not as it is written here; raise our errors."""
    try:
        network, ports = parse_key(what)
    except AddressError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return key_of(network_text(network), ports)
