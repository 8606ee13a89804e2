"""Hosts that tell each other through one Redis what they protect and what is on the safelist."""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from appguard.address import parse_network
from appguard.protection import Protection
from appguard.safelisted import Safelisted
from appguard.stores.fleet_roster import FleetRoster


class SharingHost:
    """A host that tells and learns; its clock is off by `skew`."""

    def __init__(self, uri: str, name: str, skew: float = 0.0, own_id: str = "") -> None:
        self.name = name
        self.skew = skew
        self.others: dict[str, Protection] = {}
        self.entries: dict[str, Safelisted] = {}
        self.ids = [own_id or name]
        self.roster = FleetRoster(
            uri, self.ids[0], lambda: -self.skew, self._learn, clock=self.now, on_renamed=self.ids.append
        )

    def now(self) -> float:
        """Tell the time as this host has it."""
        return time.time() + self.skew

    def _learn(self, others: dict[str, Protection], entries: list[Safelisted]) -> None:
        self.others = others
        self.entries = {entry.key: entry for entry in entries}

    def protect(self, address: str) -> None:
        """Tell that this host protects an address."""
        self.roster.tell(self.name, [(parse_network(address), "its own")])

    def let_off(self, address: str, version: int, seconds: float = 60.0, *, is_removed: bool = False) -> None:
        """Put an address on the safelist or take it off."""
        until = time.time() + self.skew + seconds
        self.roster.put((Safelisted(parse_network(address), until, "ours", self.name, version, is_removed),))


@contextmanager
def sharing(uri: str, skew: float = 0.0) -> Generator[tuple[SharingHost, SharingHost]]:
    """Run two hosts for the length of the block."""
    with ExitStack() as stack:
        made = SharingHost(uri, "alpha"), SharingHost(uri, "beta", skew)
        for host in made:
            stack.callback(host.roster.close)
            host.protect(f"192.0.2.{len(host.name)}")
            host.roster.start()
        yield made


def protected(host: SharingHost) -> list[str]:
    """Give what the other hosts protect."""
    return sorted(str(network) for each in host.others.values() for network, _ in each.networks)
