"""iptables rules as Docker makes them for one published port: its chains, its policy, its address translation.

Written after what `iptables-save` shows on a host with Docker; no Docker is involved. `iptables` is the flavour.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.machine import Machine
from tests.netns import joined, run

PUBLISHED, INSIDE = 8080, 8000  # the port of the host, and of the container
_RULES = """
*nat
:PREROUTING ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d LOOPBACK -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s NETWORK ! -o container -j MASQUERADE
-A DOCKER -i container -j RETURN
-A DOCKER ! -i container -p tcp --dport PUBLISHED -j DNAT --to-destination ADDRESS:INSIDE
COMMIT
*filter
:FORWARD DROP
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION
-A FORWARD -o container -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o container -j DOCKER
-A FORWARD -i container ! -o container -j ACCEPT
-A DOCKER -d CONTAINER ! -i container -o container -p tcp --dport INSIDE -j ACCEPT
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION -j RETURN
COMMIT
"""


@dataclass(frozen=True, slots=True)
class Bridge:
    """The network of a container: the host's address in it, the container's, and what differs between the families."""

    host: str
    container: str
    network: str
    loopback: str
    forwarding: Path

    @property
    def rules(self) -> str:
        """Write the rules for `iptables-restore`."""
        address = f"[{self.container}]" if ":" in self.container else self.container
        words = {"LOOPBACK": self.loopback, "NETWORK": self.network, "ADDRESS": address, "CONTAINER": self.container}
        words |= {"PUBLISHED": str(PUBLISHED), "INSIDE": str(INSIDE)}
        return re.sub("|".join(words), lambda word: words[word[0]], _RULES)

    def interface(self, address: str) -> str:
        """Write an address with the prefix length of the network."""
        return f"{address}/{self.network.partition('/')[2]}"


_SETTINGS = Path("/proc/sys/net")
BRIDGES = {
    4: Bridge("10.99.0.1", "10.99.0.2", "10.99.0.0/24", "127.0.0.0/8", _SETTINGS / "ipv4/ip_forward"),
    6: Bridge("fd99::1", "fd99::2", "fd99::/64", "::1/128", _SETTINGS / "ipv6/conf/all/forwarding"),
}


def command_of(iptables: str, version: int) -> str:
    """Give the command of a flavour for a family."""
    return iptables if version == 4 else iptables.replace("iptables", "ip6tables")


@contextmanager
def docker_host(iptables: str, version: int = 4) -> Generator[Machine]:
    """Give a container on a link called `container`, its port published by such rules; they go at the end."""
    bridge = BRIDGES[version]
    command = command_of(iptables, version)
    bridge.forwarding.write_text("1")
    with joined("container", [bridge.interface(bridge.host)], [bridge.interface(bridge.container)]) as machine:
        machine.run("ip", f"-{version}", "route", "add", "default", "via", bridge.host)
        run(f"{command}-restore", "--noflush", text=bridge.rules)
        try:
            yield machine
        finally:
            run(command, "-P", "FORWARD", "ACCEPT")
            for table in ("nat", "filter"):
                run(command, "-t", table, "-F")
                run(command, "-t", table, "-X")
            bridge.forwarding.write_text("0")
