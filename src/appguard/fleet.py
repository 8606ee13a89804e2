"""What a daemon shares with the other hosts of its fleet beside the bans: failures, protections, the safelist.

Without Redis there is only this host: nobody counts along, and the safelist is kept here alone. Whatever is learnt is
kept in the state too, so that a daemon that starts while Redis is down knows it.
"""

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from appguard.address import Network, NetworkSet, parse_network
from appguard.ban import HOST_MOST, Ban
from appguard.config import DaemonConfig
from appguard.errors import StateError
from appguard.host import HostFacts
from appguard.judge import Protected
from appguard.pipeline import Outcome
from appguard.protection import Protection, parse_protection
from appguard.safelisted import Safelisted, SharedSafelist
from appguard.state import State
from appguard.stores.memory import MemoryBanSet
from appguard.stores.open import REDIS

if TYPE_CHECKING:
    from appguard.shared_counting import Enacted, SharedCounting
    from appguard.stores.fleet_roster import FleetRoster

SAFELIST, OTHERS, HOST_ID = "safelist", "fleet", "host_id"  # settings of the state

log = logging.getLogger("appguard")


class Fleet:
    """All is called on the daemon's event loop; `state` is open from `restore` on.

    `on_change` is given what is let in beside the settings, and what other hosts protect.
    """

    def __init__(
        self,
        config: DaemonConfig,
        bans: MemoryBanSet,
        clock: Callable[[], float],
        state: State,
        on_change: Callable[[Protected, Protected], None],
    ) -> None:
        bans.host = self.host = socket.gethostname()[:HOST_MOST]
        self._config = config
        self._bans = bans
        self._clock = clock
        self._state = state
        self._on_change = on_change
        self._safelist = SharedSafelist()
        self._others: dict[str, Protection] = {}
        self._facts = HostFacts()
        self._own = NetworkSet()
        self._told: tuple[Protected, Protected] | None = None
        self._roster: FleetRoster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offset: Callable[[], float] = lambda: 0.0  # gives Redis TIME minus our clock
        self.counting = self._counting()

    def _counting(self) -> "SharedCounting | None":
        if self._config.store.partition("://")[0] not in REDIS:
            return None
        from appguard.shared_counting import SharedCounting  # redis is imported only where it is used
        from appguard.stores.redis_bans import RedisBanSet

        return SharedCounting(self._config.store, cast("RedisBanSet", self._bans), self._clock)

    def restore(self, facts: HostFacts) -> None:
        """Take back what was known before a restart; `facts` are this host's."""
        self._safelist.restore(self._state.setting(SAFELIST))
        self._others = _parsed(self._state.setting(OTHERS))
        self.learn(facts)

    def start(self, enacted: "Enacted", take: Callable[[Outcome], None]) -> None:
        """Begin to tell, to learn and to have counted; what is given is for `SharedCounting`."""
        self._loop = asyncio.get_running_loop()
        if self.counting is None:
            return
        self.counting.start(enacted, take)
        from appguard.stores.fleet_roster import FleetRoster
        from appguard.stores.redis_bans import RedisBanSet

        bans = cast("RedisBanSet", self._bans)
        host_id = self._state.setting(HOST_ID) or ""
        if len(host_id) != 16:
            host_id = secrets.token_hex(8)
            self._keep(HOST_ID, host_id)
        self._offset = lambda: bans.offset
        self._roster = FleetRoster(
            self._config.store, host_id, self._offset, self._on_learnt, clock=self._clock, on_renamed=self._on_renamed
        )
        self._roster.put(self._safelist)
        self._tell()
        self._roster.start()

    def close(self) -> None:
        """Stop telling. What this host protects stays known to the others for a day."""
        self._loop = None
        if self._roster is not None:
            self._roster.close()
        if self.counting is not None:
            self.counting.close()

    # Protections.

    @property
    def complaint(self) -> str:
        """Say why protections and the safelist are not shared now; nothing if they are, or nobody is there to tell."""
        return "" if self._roster is None else self._roster.complaint

    def learn(self, facts: HostFacts) -> None:
        """Take fresh facts about this host."""
        self._facts = facts
        self._own.learn(facts.own)
        self._tell()
        self._changed()

    def is_own(self, network: Network) -> bool:
        """Say whether a network is this host's own: no host is to ban it, and this one lifts such a ban."""
        found = self._own.overlapping(network) if self._roster is not None else None
        return found is not None and found.prefixlen <= network.prefixlen

    def _tell(self) -> None:
        if self._roster is None:
            return
        config = self._config
        listed = [
            *((network, f"an address of {self.host}") for network in self._facts.own),
            *((parse_network(address.text), "a host of the store") for address in self._facts.stores),
            *((network, f"on the safelist of {self.host}") for network in config.safelist),
            *((network, f"a trusted proxy of {self.host}") for network in config.trusted_proxies.networks),
        ]
        self._roster.tell(self.host, listed)

    def _on_learnt(self, others: dict[str, Protection], entries: list[Safelisted]) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._learnt, others, entries)

    def _on_renamed(self, host_id: str) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._keep, HOST_ID, host_id)

    def _learnt(self, others: dict[str, Protection], entries: list[Safelisted]) -> None:
        self._others = others
        self._keep(OTHERS, json.dumps({key: [each.until, each.to_text()] for key, each in others.items()}))
        news = [entry for entry in entries if self._safelist.merge(entry)]
        if news:
            self._keep(SAFELIST, self._safelist.to_text())
        self._changed()

    def tick(self) -> None:
        """Let go what is over, and begin what there was no thread to spare for."""
        if self._roster is not None:
            self._roster.start()
        if self.counting is not None:
            self.counting.tick()
        if self._safelist.purge(self._clock()):
            self._keep(SAFELIST, self._safelist.to_text())
        self._changed()

    def _changed(self) -> None:
        now = self._clock()
        let_in = tuple((entry.network, "on the safelist") for entry in self._safelist.in_force(now))
        others = {pair: None for each in self._others.values() if each.until > now for pair in each.networks}
        told = (let_in, tuple(others))
        if told != self._told:
            self._told = told
            self._on_change(*told)

    def _keep(self, name: str, text: str) -> None:
        try:
            self._state.set_setting(name, text)
        except StateError as error:
            log.error("what the fleet shares cannot be kept over a restart: %s", error)

    def forget(self, bans: Iterable[Ban]) -> None:
        """Have nothing more counted that led to bans which a person lifted."""
        if self.counting is not None:
            self.counting.forget({ban.key for ban in bans})

    # The safelist.

    def listed(self) -> tuple[Safelisted, ...]:
        """Give what is on the safelist beside the settings."""
        return self._safelist.in_force(self._clock())

    def add(self, network: Network, seconds: float | None, reason: str) -> Safelisted:
        """Put a network on the safelist of all hosts; raise `ConfigError`."""
        entry = self._safelist.add(network, seconds, reason, self.host, self._clock(), self._offset())
        self._put(entry)
        return entry

    def remove(self, network: Network) -> Safelisted | None:
        """Take exactly this network off the safelist of all hosts; None if it was not there."""
        entry = self._safelist.remove(network, self.host, self._clock(), self._offset())
        if entry is not None:
            self._put(entry)
        return entry

    def _put(self, entry: Safelisted) -> None:
        self._keep(SAFELIST, self._safelist.to_text())
        if self._roster is not None:
            self._roster.put((entry,))
        self._changed()


def _parsed(text: str | None) -> dict[str, Protection]:
    """Read back what was kept of the other hosts; nothing if it cannot be read."""
    try:
        kept = cast("Mapping[str, Any]", json.loads(text or "{}"))
        found = {key: parse_protection(str(record), float(until)) for key, (until, record) in kept.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {key: each for key, each in found.items() if each is not None}
