"""Other machines for tests: network namespaces joined to the lab's by veth pairs; and what nftables holds.

A `Machine` is a namespace kept by an open file, so it needs no process and ends with the file. A socket keeps the
namespace it was made in: `Machine.open_socket` makes it in a thread that enters the namespace and ends.
"""

import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, TypeVar

from appguard.address import Network, network_text
from tests.lab import in_lab

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """Another machine, on the other end of a veth pair whose end here is the interface `name`.

    `here` and `there` are the addresses with prefix lengths of the two ends.
    """

    def __init__(self, name: str, here: Sequence[str], there: Sequence[str]) -> None:
        assert in_lab(), "machines are made in the lab only"
        self.name = name
        self._namespace = _in_thread(_new_namespace)
        self._path = f"/proc/{os.getpid()}/fd/{self._namespace}"
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self._path)
        self.run("ip", "link", "set", "lo", "up")
        for address in here:
            run("ip", "address", "add", address, "dev", name, *_flags(address))
        for address in there:
            self.run("ip", "address", "add", address, "dev", "eth0", *_flags(address))
        run("ip", "link", "set", name, "up")
        self.run("ip", "link", "set", "eth0", "up")

    def run(self, *command: str) -> str:
        """Run a command there; give its output."""
        return run("nsenter", f"--net={self._path}", *command)

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Give a socket there."""

        def make() -> socket.socket:
            _check(_libc.setns(self._namespace, _CLONE_NEWNET))
            return socket.socket(family, kind, protocol)

        return _in_thread(make)

    def connect(self, address: str, port: int, source: str = "", within: float = 5.0) -> socket.socket:
        """Give a TCP connection from there; raise TimeoutError if nobody answers."""
        made = self.open_socket(_family(address), socket.SOCK_STREAM)
        try:
            made.settimeout(within)
            made.bind((source, 0))
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Take the machine away."""
        run("ip", "link", "delete", self.name)
        os.close(self._namespace)


@contextmanager
def joined(name: str, here: Sequence[str], there: Sequence[str]) -> Generator[Machine]:
    """Give another machine for the length of the block."""
    machine = Machine(name, here, there)
    try:
        yield machine
    finally:
        machine.close()


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
    """Give what one set of our table holds: networks as text, and the seconds left (0: no timeout)."""
    listing = json.loads(run("nft", "-j", "list", "set", "inet", "appguard", name))
    found = next(each["set"] for each in listing["nftables"] if "set" in each)
    return dict(_element(each) for each in found.get("elem", ()))


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


def _new_namespace() -> int:
    _check(_libc.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(work: Callable[[], T]) -> T:
    """Do something in a thread of its own: only that thread changes its namespace."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _flags(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
