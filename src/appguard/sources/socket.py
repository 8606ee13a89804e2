"""`events.sock`: a unix datagram socket the apps of this host write their event lines to.

The kernel says who sent a datagram (SO_PASSCRED); one without credentials is dropped. A turn takes at most
`TURN_DATAGRAMS` of `DATAGRAM_LINES` lines each, delivers them in one chunk per sender, and then leaves the loop to
others for as long as it took: so a flooding app slows down itself, and delays another app's ban by milliseconds. The
kernel lets only a few datagrams wait (net.unix.max_dgram_qlen) and holds up or refuses further senders meanwhile; a
larger receive buffer does not change that.
"""

import asyncio
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from appguard.errors import SourceError
from appguard.sources.base import LINE_MOST, Chunk, Deliver, SourceStatus
from appguard.sources.lines import trim

TURN_DATAGRAMS = 16
DATAGRAM_LINES = 4  # an app sends one
DATAGRAM_MOST = 64 * 1024  # bytes of one datagram that are looked at
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size)  # no room for descriptors: the kernel does not hand them over


class EventSocket:
    """Receives event lines on a unix datagram socket. `mode` are the rights of the socket's file."""

    def __init__(self, name: str, path: str | Path, mode: int = 0o666) -> None:
        self.name = name
        self._path = Path(path)
        self._mode = mode
        self._socket: socket.socket | None = None
        self._inode = 0
        self._anonymous = 0
        self._odd = 0

    def open(self) -> None:
        """Bind the socket, in the place of one that nobody listens on any more. Raise `SourceError`."""
        if self._socket is not None:
            return
        self._remove_stale()
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            opened.bind(str(self._path))
            self._path.chmod(self._mode)
            self._inode = self._path.lstat().st_ino
        except OSError as error:
            opened.close()
            raise SourceError(f"cannot listen on {self._path}: {error.strerror or error}") from error
        self._socket = opened

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except OSError:
            return  # nothing there; whatever else is wrong, bind will say
        if not stat.S_ISSOCK(mode):
            raise SourceError(f"cannot listen on {self._path}: something that is no socket is there; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink(missing_ok=True)
                return
            except OSError as error:
                raise SourceError(f"cannot listen on {self._path}: {error.strerror or error}") from error
        raise SourceError(f"cannot listen on {self._path}: another process does; is a second daemon running?")

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
        lines_by_uid: dict[int, list[bytes]] = {}
        with suppress(BlockingIOError):
            for _ in range(TURN_DATAGRAMS):
                data, ancillary, flags, _ = opened.recvmsg(DATAGRAM_MOST, _ANCILLARY_BYTES)
                uid = _sender(ancillary)
                if uid is None:
                    self._anonymous += 1
                else:
                    lines_by_uid.setdefault(uid, []).extend(self._lines(data, flags))
        for uid, lines in lines_by_uid.items():
            if lines:
                deliver(Chunk(str(self._path), lines, uid=uid))

    def _lines(self, data: bytes, flags: int) -> list[bytes]:
        lines = data.split(b"\n", DATAGRAM_LINES)
        rest = lines.pop() if len(lines) > DATAGRAM_LINES else b""
        if flags & socket.MSG_TRUNC and not rest and len(lines[-1]) <= LINE_MOST:
            lines.pop()  # it is not all there
        kept = [line for line in map(trim, lines) if line]
        if rest or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not kept:
            self._odd += 1
        return kept

    def status(self) -> SourceStatus:
        """Say where events are received, and how many datagrams were not what an app sends."""
        counts = (
            (self._anonymous, "without credentials dropped"),
            (self._odd, "too long, empty or with more than data"),
        )
        complaint = "; ".join(f"{count} datagrams {what}" for count, what in counts if count)
        return SourceStatus((str(self._path),), complaint=complaint)

    def close(self) -> None:
        """Close the socket and remove its file, if it is still ours. May be repeated."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Give the user id the kernel attached, and close any descriptor a sender did."""
    uid = None
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == _CREDENTIALS.size:
            uid = int(_CREDENTIALS.unpack(data)[1])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for (descriptor,) in struct.iter_unpack("i", data[: len(data) // 4 * 4]):
                os.close(descriptor)
    return uid
