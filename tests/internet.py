"""A small internet of machines: a server behind a router, and clients anywhere beyond it.

    server 192.0.2.10, 2001:db8:0:1::10
       |
    router 192.0.2.1, 2001:db8:0:1::1
       |            |
    attacker     honest client ...      each on a network of its own, none on the server's link

All addresses are from the documentation ranges (RFC 5737, RFC 3849).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from types import TracebackType
from typing import Self

from tests.lab import wait_until
from tests.machine import Machine


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client lives: its name and its addresses with their networks' lengths; the router has the first hosts."""

    name: str
    addresses: tuple[str, ...]


SERVER4 = "192.0.2.10"
SERVER6 = "2001:db8:0:1::10"
SERVER = Place("server", (f"{SERVER4}/24", f"{SERVER6}/64"))


class Internet:
    """The machines, joined. Use it as a context: at its end the machines are removed."""

    def __init__(self, clients: Iterable[Place]) -> None:
        self.machines: dict[str, Machine] = {}
        self._clients = tuple(clients)

    @property
    def server(self) -> Machine:
        """Give the machine that is to be protected."""
        return self.machines["server"]

    def __enter__(self) -> Self:
        router = self._add("router")
        router.set("ipv4/ip_forward", 1)
        router.set("ipv6/conf/all/forwarding", 1)
        for place in (SERVER, *self._clients):
            join(self._add(place.name), router, place)
        for machine in self.machines.values():
            wait_until(machine.is_connected, 10, f"{machine.name} has its links up")
        return self

    def _add(self, name: str) -> Machine:
        self.machines[name] = machine = Machine(name)
        return machine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.machines:
            self.machines.popitem()[1].remove()


def join(machine: Machine, router: Machine, place: Place) -> None:
    """Lay a cable between a machine and its router, and give both their addresses and routes."""
    interfaces = [ip_interface(address) for address in place.addresses]
    link = f"to-{place.name}"[:15]
    router.configure(f"link add {link} type veth peer name eth0 netns {machine.name}")
    gateways = {interface.network: _first_host(interface) for interface in interfaces}
    router.configure(*_addressing(link, gateways.values()))
    machine.configure(*_addressing("eth0", interfaces))
    machine.configure(*(f"route replace default via {gateway.ip}" for gateway in gateways.values()))


def _addressing(link: str, interfaces: Iterable[IPv4Interface | IPv6Interface]) -> list[str]:
    nodad = {4: "", 6: " nodad"}  # no waiting until an IPv6 address is known to be free
    return [*(f"address add {one} dev {link}{nodad[one.version]}" for one in interfaces), f"link set {link} up"]


def _first_host(interface: IPv4Interface | IPv6Interface) -> IPv4Interface | IPv6Interface:
    return ip_interface(f"{interface.network.network_address + 1}/{interface.network.prefixlen}")
