"""`events.sock`: a unix datagram socket the apps of this host write their event lines to.

The kernel says who sent a datagram (SO_PASSCRED); one without credentials is dropped. The kernel lets only a few
datagrams wait (net.unix.max_dgram_qlen) and holds up or refuses further senders meanwhile; a larger receive buffer does
not change that.
"""

import socket
import stat
from contextlib import suppress
from pathlib import Path

from appguard.errors import SourceError
from appguard.sources.base import LINE_MOST
from appguard.sources.datagrams import Datagram, DatagramSource, Said
from appguard.sources.lines import trim

DATAGRAM_LINES = 4  # an app sends one
UNKNOWN = "without credentials dropped"


class UnixPlace:
    """A unix datagram socket's file; `mode` are its rights. Everybody the kernel vouches for may send."""

    def __init__(self, path: str | Path, mode: int) -> None:
        self.origin = str(path)
        self._path = Path(path)
        self._mode = mode
        self._inode = 0

    def open(self) -> socket.socket:
        """Bind the socket, in the place of one that nobody listens on any more. Raise `SourceError`."""
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
        return opened

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

    def admits(self, uid: int | None, address: object) -> bool:
        """Say whether the kernel vouches for the sender."""
        return uid is not None

    def close(self) -> None:
        """Remove the socket's file, if it is still ours."""
        with suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()


class EventSocket(DatagramSource):
    """Receives event lines on a unix datagram socket."""

    def __init__(self, name: str, path: str | Path, mode: int = 0o666) -> None:
        super().__init__(name, UnixPlace(path, mode), read_events, UNKNOWN)


def read_events(datagram: Datagram) -> Said:
    """Give the lines an app sent."""
    lines = datagram.data.split(b"\n", DATAGRAM_LINES)
    rest = lines.pop() if len(lines) > DATAGRAM_LINES else b""
    if not datagram.is_whole and not rest and len(lines[-1]) <= LINE_MOST:
        lines.pop()  # it is not all there
    kept = [line for line in map(trim, lines) if line]
    return Said(kept, is_odd=bool(rest) or not datagram.is_whole or not kept)
