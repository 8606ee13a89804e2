"""Syslog as a source: messages at `log.sock`, where nginx and others write as they would to syslog, or at a UDP port.

A datagram is one message, and what stands behind its header is delivered as one line. At the socket the kernel says
who sent it; so a jail names the users it listens to, and other messages do not count. At a UDP port nobody vouches for
a sender: on the loopback every program of this host may send, and elsewhere only the peers the settings name, which is
no more than a protection against mistakes, because the sender's address of a UDP packet can be forged.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from appguard.address import Address, Network, NetworkSet, parse_address
from appguard.errors import AddressError, SourceError
from appguard.sources.datagrams import SO_RXQ_OVFL, Datagram, DatagramSource, Said
from appguard.sources.socket import UNKNOWN, UnixPlace
from appguard.sources.syslog_message import parse_message

RECEIVE_BYTES = 4 * 1024 * 1024  # what may wait; the kernel gives as much of it as net.core.rmem_max allows


class UdpPlace:
    """A UDP port; only `peers` may send, and without any only this host by its loopback."""

    def __init__(self, address: Address, port: int, peers: Sequence[Network]) -> None:
        self.origin = f"udp://[{address}]:{port}" if address.version == 6 else f"udp://{address}:{port}"
        self._address = address
        self._port = port
        self._peers = NetworkSet(peers)

    def open(self) -> socket.socket:
        """Bind the port. Raise `SourceError`."""
        family = socket.AF_INET6 if self._address.version == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            opened.bind((str(self._address), self._port))
        except OSError as error:
            opened.close()
            advice = "; a port above 1023 needs no privilege" if isinstance(error, PermissionError) else ""
            raise SourceError(f"cannot listen on {self.origin}: {error.strerror or error}{advice}") from error
        return opened

    def admits(self, uid: int | None, address: object) -> bool:
        """Say whether the sender is on this host, if it is bound to the loopback, or one of the peers."""
        host = str(cast("tuple[object, ...]", address)[0]) if isinstance(address, tuple) and address else ""
        with suppress(AddressError):
            sender = parse_address(host)
            return sender in self._peers or (self._address.is_loopback and sender.is_loopback)
        return False

    def close(self) -> None:
        """Do nothing: a port leaves nothing behind."""


class SyslogSocket(DatagramSource):
    """Receives syslog messages on a unix datagram socket."""

    def __init__(self, name: str, path: str | Path, mode: int = 0o666) -> None:
        super().__init__(name, UnixPlace(path, mode), read_syslog, UNKNOWN)


class SyslogPort(DatagramSource):
    """Receives syslog messages on a UDP port."""

    def __init__(self, name: str, address: Address, port: int, peers: Sequence[Network] = ()) -> None:
        super().__init__(name, UdpPlace(address, port, peers), read_syslog, "from hosts that are not in peers dropped")


def read_syslog(datagram: Datagram) -> Said:
    """Give the message of a datagram."""
    message = parse_message(datagram.data, time.time())
    if message is None or not message.line:
        return Said(is_odd=True)
    return Said([message.line], [message.time], is_odd=not datagram.is_whole)
