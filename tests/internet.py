"""A small internet of network namespaces: a server behind a router, and clients anywhere beyond it.

    server 192.0.2.10, 2001:db8:0:1::10
       |
    router 192.0.2.1, 2001:db8:0:1::1
       |            |
    attacker     honest client ...      each on a network of its own, none on the server's link

All addresses are from the documentation ranges (RFC 5737, RFC 3849). The namespaces belong to the lab and need its
root. A namespace is entered by one thread: what that thread opens or starts meanwhile belongs to the machine, also
after it has left; so one process can hold sockets on both sides of a firewall and compare their times.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import wait_until

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40
NAMESPACES = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """A machine of the small internet: one network namespace. Use it as a context to act on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._homes = threading.local()
        subprocess.run(["ip", "netns", "add", name], check=True)
        for interfaces in ("all", "default"):  # addresses can be used at once
            self.set(f"ipv6/conf/{interfaces}/accept_dad", 0)
            self.set(f"ipv6/conf/{interfaces}/dad_transmits", 0)
        self.configure("link set lo up")

    def configure(self, *commands: str) -> None:
        """Give commands to this machine's `ip`."""
        text = "\n".join(commands)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=text.encode(), check=True)

    def run(self, *command: str) -> str:
        """Run a command on this machine to its end and give its output; raise CalledProcessError if it fails."""
        with self:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def set(self, setting: str, value: int) -> None:
        """Set a sysctl of this machine, named by its path below /proc/sys/net."""
        with self:
            Path("/proc/sys/net", setting).write_text(str(value))

    def is_connected(self) -> bool:
        """Say whether all links are up; the kernel takes a moment (linkwatch) to see that both ends are."""
        with self, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return all(_is_running(probe, name) for _, name in socket.if_nameindex())

    def remove(self) -> None:
        """Remove the machine; its links go with it once its last process and socket are gone."""
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def __enter__(self) -> Self:
        homes = self._homes.__dict__.setdefault("stack", [])
        homes.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        there = os.open(NAMESPACES / self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        home = self._homes.stack.pop()
        try:
            _enter(home)
        finally:
            os.close(home)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _is_running(probe: socket.socket, interface: str) -> bool:
    answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sH14x", interface.encode(), 0))
    flags: int = struct.unpack_from("16xH", answer)[0]
    return bool(flags & IFF_RUNNING)


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
            _join(self._add(place.name), router, place)
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


def _join(machine: Machine, router: Machine, place: Place) -> None:
    """Lay a cable between a machine and the router, and give both their addresses and routes."""
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
