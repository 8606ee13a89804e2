"""Datagrams as a source: turns, senders, and what becomes of a datagram that is not what it should be.

A turn takes at most `TURN_DATAGRAMS`, delivers their lines in one chunk per sender, and then leaves the loop to others
for as long as it took: so a flooding sender slows down itself, and delays another's ban by milliseconds. What a
datagram says is the business of a `Read` function, where the socket comes from that of a `Place`.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from appguard.sources.base import Chunk, Deliver, SourceStatus

TURN_DATAGRAMS = 16
DATAGRAM_MOST = 64 * 1024  # bytes of one datagram that are looked at
SO_RXQ_OVFL = 40  # tells with each datagram how many the kernel threw away so far; Python has no name for it
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_DROPPED = struct.Struct("I")
# Room for both and no more: the kernel does not hand over descriptors that it finds no room for.
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size)


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram; `is_whole` False if it was longer than what is looked at."""

    data: bytes
    is_whole: bool = True


@dataclass(slots=True)
class Said:
    """What a datagram says: lines, and for each the time it was written, or no times."""

    lines: list[bytes] = field(default_factory=list[bytes])
    times: list[float] = field(default_factory=list[float])
    is_odd: bool = False

    def add(self, other: "Said") -> None:
        """Take what another says behind this."""
        self.lines += other.lines
        self.times += other.times


Read = Callable[[Datagram], Said]


class Place(Protocol):
    """Where a socket is bound: a file, or an address and port."""

    origin: str

    def open(self) -> socket.socket:
        """Bind the socket, not blocking; raise `SourceError`."""
        ...

    def admits(self, uid: int | None, address: object) -> bool:
        """Say whether a sender may send here at all: its user id and address, as the kernel gives them."""
        ...

    def close(self) -> None:
        """Remove what `open` left behind."""
        ...


class DatagramSource:
    """Receives datagrams at one place and delivers what they say. `strangers` names those it does not admit."""

    def __init__(self, name: str, place: Place, read: Read, strangers: str) -> None:
        self.name = name
        self._place = place
        self._read = read
        self._strangers = strangers
        self._socket: socket.socket | None = None
        self._refused = 0
        self._odd = 0
        self._dropped = 0

    def open(self) -> None:
        """Bind the socket. Raise `SourceError`. May be repeated."""
        if self._socket is None:
            self._socket = self._place.open()

    async def run(self, deliver: Deliver) -> None:
        """Deliver what arrives until cancelled, then close. Raise `SourceError` if the socket cannot be bound."""
        self.open()
        assert self._socket is not None
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        try:
            while True:
                loop.add_reader(self._socket, readable.set)
                await readable.wait()
                loop.remove_reader(self._socket)
                readable.clear()
                began = loop.time()
                self._take_turn(self._socket, deliver)
                await asyncio.sleep(loop.time() - began)
        finally:
            loop.remove_reader(self._socket)
            self.close()

    def _take_turn(self, opened: socket.socket, deliver: Deliver) -> None:
        """Deliver the datagrams that wait, up to the bounds of one turn."""
        said_by_uid: dict[int | None, Said] = {}
        with suppress(BlockingIOError):
            for _ in range(TURN_DATAGRAMS):
                data, ancillary, flags, address = opened.recvmsg(DATAGRAM_MOST, _ANCILLARY_BYTES)
                uid = self._sender(ancillary)
                if not self._place.admits(uid, address):
                    self._refused += 1
                    continue
                said = self._read(Datagram(data, not flags & socket.MSG_TRUNC))
                self._odd += said.is_odd or bool(flags & socket.MSG_CTRUNC)
                said_by_uid.setdefault(uid, Said()).add(said)
        for uid, said in said_by_uid.items():
            if said.lines:
                deliver(self._chunk(uid, said))

    def _chunk(self, uid: int | None, said: Said) -> Chunk:
        return Chunk(self._place.origin, said.lines, uid=uid, times=said.times or None)

    def _sender(self, ancillary: list[tuple[int, int, bytes]]) -> int | None:
        """Give the user id the kernel attached, note what it dropped, and close any descriptor a sender attached."""
        uid = None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == _CREDENTIALS.size:
                uid = int(_CREDENTIALS.unpack(data)[1])
            elif (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL) and len(data) == _DROPPED.size:
                self._dropped = int(_DROPPED.unpack(data)[0])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for (descriptor,) in struct.iter_unpack("i", data[: len(data) // 4 * 4]):
                    os.close(descriptor)
        return uid

    def status(self) -> SourceStatus:
        """Say where datagrams are received, and how many were not what they should be."""
        counts = ((self._refused, self._strangers), (self._odd, "too long, empty or with more than data"))
        complaint = "; ".join(f"{count} datagrams {what}" for count, what in counts if count)
        return SourceStatus((self._place.origin,), complaint=complaint, dropped=self._dropped)

    def close(self) -> None:
        """Close the socket and remove what belongs to it. May be repeated."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        self._place.close()
