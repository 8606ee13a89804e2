"""Machines joined to the lab's own network by veth pairs; and what nftables holds."""

import json
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

from appguard.address import Network, network_text
from appguard.firewalls.netlink import NESTED, ask, attribute, text
from tests.lab import in_lab
from tests.machine import Machine

GET_ELEMENTS = 13  # NFT_MSG_GETSETELEM


@contextmanager
def joined(name: str, here: Sequence[str], there: Sequence[str]) -> Generator[Machine]:
    """Give a machine on the other end of a veth pair whose end here is the interface `name`.

    `here` and `there` are the addresses with prefix lengths of the two ends.
    """
    machine = Machine(name)
    try:
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        for address in here:
            run("ip", "address", "add", address, "dev", name, *_flags(address))
        machine.configure(*(f"address add {address} dev eth0 {' '.join(_flags(address))}" for address in there))
        run("ip", "link", "set", name, "up")
        machine.configure("link set eth0 up")
        yield machine
    finally:
        machine.remove()


@contextmanager
def listening(address: str, port: int) -> Generator[socket.socket]:
    """Give a TCP server socket here; the kernel completes connections to it without being asked."""
    with socket.create_server((address, port), family=socket.AddressFamily(_family(address))) as server:
        server.settimeout(5)
        yield server


def answers(machine: Machine, address: str, port: int = 80, source: str = "", within: float = 5.0) -> bool:
    """Say whether a TCP server answers that machine."""
    try:
        machine.connect(address, port, source, within).close()
    except TimeoutError:
        return False
    return True


def run(*command: str, text: str = "") -> str:
    """Run a command in the lab; give its output, raise AssertionError with its words if it fails."""
    assert in_lab(), "tests change addresses and nftables in the lab only"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def elements(name: str) -> dict[str, int]:
    """Give what one set or map of our table holds: networks as text, and the seconds left (0: no timeout)."""
    kind = "map" if name.startswith("ban") else "set"
    listing = json.loads(run("nft", "-j", "list", kind, "inet", "appguard", name))
    found = next(each[kind] for each in listing["nftables"] if kind in each)
    return dict(_element(each[0] if kind == "map" else each) for each in found.get("elem", ()))


def banned() -> dict[str, int]:
    """Give all networks our table shuts out, and the seconds left."""
    found = elements("ban4") | elements("ban6") | elements("ban4_net") | elements("ban6_net")
    return found | {f"{address}/64": left for address, left in elements("ban6_64").items()}


def has_table() -> bool:
    """Say whether our table is there."""
    return "table inet appguard\n" in run("nft", "list", "tables")


def _element(each: str | dict[str, Any]) -> tuple[str, int]:
    left = 0
    if isinstance(each, dict) and "elem" in each:
        left = int(each["elem"]["expires"])
        each = each["elem"]["val"]
    if isinstance(each, dict):
        each = f"{each['prefix']['addr']}/{each['prefix']['len']}"
    return network_text(ip_network(each)), left


def network(text: str) -> Network:
    """Give a network, its text being exact."""
    return ip_network(text)


def _flags(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def holds(host: str, table: str = "appguard") -> bool:
    """Say whether our table shuts out an IPv4 address, by a question about this element alone."""
    key = attribute(1 | NESTED, attribute(1, ip_address(host).packed))
    elements = attribute(3 | NESTED, attribute(1 | NESTED, key))
    try:
        return bool(ask(GET_ELEMENTS, text(1, table) + text(2, "ban4") + elements))
    except FileNotFoundError:
        return False
