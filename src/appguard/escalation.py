"""From addresses to their network: bans a whole network when enough different addresses of it are banned by one jail.

Counted are the bans in force, by their own ends, so nothing has to be told when one ends. Networks are bounded like
keys: at most `NETWORKS_MOST` are looked at, and the one that was quiet longest goes; of each at most as many addresses
are kept as it takes to ban it. At most `BANS_MOST` bans of networks made by one jail are in force at a time: a jail
that would shut out more is more likely wrong than right.
"""

from collections.abc import Iterable
from dataclasses import replace

from appguard.address import Network, network_text, parse_address
from appguard.ban import Ban, is_host
from appguard.jail import Jail
from appguard.jail_key import Prefixes

NETWORKS_MOST = 20_000
BANS_MOST = 256

FOR_EVER = float("inf")


class Escalation:
    """What one jail has banned, by network."""

    def __init__(self, jail: Jail, networks_most: int = NETWORKS_MOST, bans_most: int = BANS_MOST) -> None:
        self._jail = jail
        self._prefixes = Prefixes.of(jail.escalate_to, f"jail {jail.name}: escalate_to")
        self._networks_most = networks_most
        self._bans_most = bans_most
        self._ends: dict[str, dict[str, float]] = {}  # by network, by address
        self._made: dict[str, float] = {}  # the networks banned, and until when

    def note(self, ban: Ban) -> Ban | None:
        """Take a ban in force; give the ban of its network if it is the one that is too many."""
        network = self._network(ban)
        if network is None:
            return None
        key, now = network_text(network), ban.start
        known = {address: end for address, end in self._ends.pop(key, {}).items() if end > now}
        known[ban.where] = FOR_EVER if ban.end is None else ban.end
        self._ends[key] = dict(sorted(known.items(), key=lambda item: item[1])[-self._jail.escalate :])
        if len(self._ends) > self._networks_most:
            del self._ends[next(iter(self._ends))]
        if len(known) < self._jail.escalate or self._is_over(now):
            return None
        self._made[key] = known[ban.where]
        where = f"{len(known)} addresses of {key} are banned"
        return replace(ban, network=network, reason=where, failures=len(known), version=0)

    def restore(self, bans: Iterable[Ban]) -> None:
        """Take back what this jail has in force, after a restart; nothing is banned for that."""
        for ban in sorted(bans, key=lambda ban: ban.start):
            if not is_host(ban.network):
                self._made[ban.where] = FOR_EVER if ban.end is None else ban.end
            else:
                self.note(ban)

    def _network(self, ban: Ban) -> Network | None:
        return self._prefixes.network(parse_address(str(ban.network.network_address))) if is_host(ban.network) else None

    def _is_over(self, now: float) -> bool:
        self._made = {key: end for key, end in self._made.items() if end > now}
        return len(self._made) >= self._bans_most

    def forget(self, ban: Ban) -> None:
        """Take it that a person has lifted a ban: of an address, or of a network, whose addresses count anew."""
        self._made.pop(ban.where, None)
        self._ends.pop(ban.where, None)
        network = self._network(ban)
        if network is not None:
            self._ends.get(network_text(network), {}).pop(ban.where, None)
