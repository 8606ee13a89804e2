"""Two hosts in namespaces of their own, with a daemon each, and one Redis between them on the lab's own network."""

import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from appguard.stores.local import PublishedBans
from tests.daemon import Place, running_daemon, web_jail
from tests.lab import Process
from tests.machine import Machine
from tests.netns import banned, joined
from tests.redis_server import RedisServer
from tests.slow_relay import SlowRelay

ADDRESSES = {
    "alpha": ("192.0.2.1", "192.0.2.2"),
    "beta": ("192.0.2.5", "192.0.2.6"),
}  # Redis as it sees it, and its own


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the fleet: its machine, its daemon's directories and its daemon."""

    machine: Machine
    place: Place
    daemon: Process

    def drops(self, address: str) -> bool:
        """Say whether this host's kernel shuts an address out."""
        return address in self.machine.run("nft", "list", "ruleset").partition(" ban4 {")[2]

    def kernel(self) -> dict[str, int]:
        """Give the networks this host's kernel shuts out, and the seconds left."""
        with self.machine:
            return banned()

    def bans_said(self, address: str) -> int:
        """Give how often this host's daemon has said that it bans an address."""
        return sum(line.text.endswith(f"] Ban {address}") for line in self.daemon.lines())


def published(place: Place) -> set[str]:
    """Give the networks that the apps of a daemon's host shut out."""
    bans = PublishedBans(place.runtime, lambda: time.time() + place.skew)
    try:
        return {ban.key for ban in bans.snapshot().bans}
    finally:
        bans.close()


@contextmanager
def two_hosts(
    root: Path,
    server: RedisServer | SlowRelay,
    jail: Mapping[str, object] | None = None,
    more: str = "",
    identity: str = "",
    skews: Mapping[str, float] | None = None,
) -> Generator[tuple[Host, Host]]:
    """Give two hosts whose daemons share a Redis on a third machine; `jail` and `more` are settings of both.

    With an `identity` both have that, as clones have. `skews` are the seconds by which clocks of hosts are off.
    """
    with ExitStack() as stack:
        hosts: list[Host] = []
        for name, (gateway, own) in ADDRESSES.items():
            machine = stack.enter_context(joined(name, [f"{gateway}/30"], [f"{own}/30"]))
            directory = root / name
            directory.mkdir()
            place = Place(directory, skew=(skews or {}).get(name))
            place.configure(web_jail(place, jail), f'store = "redis://{gateway}:{server.port}/0"\n{more}')
            if identity:
                place.remember((), host_id=identity)
            with machine:
                daemon = stack.enter_context(running_daemon(place))
            hosts.append(Host(machine, place, daemon))
        yield hosts[0], hosts[1]
