"""A machine of a test's own: a network namespace, which this process enters thread by thread.

What a thread opens or starts while it is on a machine belongs to the machine, also after the thread has left it; so one
process can hold sockets on both sides of a firewall and compare their times. The namespaces belong to the lab.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import in_lab

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40
NAMESPACES = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """A network namespace called `name`. Use it as a context to act on it."""

    def __init__(self, name: str) -> None:
        assert in_lab(), "machines are made in the lab only"
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

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Give a socket of this machine."""
        with self:
            return socket.socket(family, kind, protocol)

    def connect(self, address: str, port: int, source: str = "", within: float = 5.0) -> socket.socket:
        """Give a TCP connection from this machine; raise TimeoutError if nobody answers."""
        with self:
            return socket.create_connection((address, port), within, (source, 0) if source else None)

    def is_connected(self) -> bool:
        """Say whether all links are up; the kernel takes a moment (linkwatch) to see that both ends are."""
        with self, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return all(_is_running(probe, name) for _, name in socket.if_nameindex())

    def remove(self) -> None:
        """Remove the machine and the cable to it; what else it has goes once its last process and socket are gone."""
        subprocess.run(["ip", "-n", self.name, "link", "delete", "eth0"], check=False, stderr=subprocess.DEVNULL)
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
