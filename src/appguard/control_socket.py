"""The unix socket under the control API: who is at the other end, and what one peer may cost.

The server is uvicorn, as one task in the event loop it shares with the whole daemon; so nothing a peer does may take
long or grow. A connection carries one request and lives for 30 seconds, half a request or an unread answer included.
One user holds at most 32 connections of 1,024, so that it takes 32 users to keep root out. The kernel says who a peer
is (SO_PEERCRED, SO_PEERGROUPS: what it was when it connected); every request finds it at `request.state.peer`.
"""

import asyncio
import errno
import os
import socket
import stat
import struct
from array import array
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from appguard.errors import ConfigError

CONNECTIONS_MOST = 1024
CONNECTIONS_PER_USER = 32
EXCHANGE_SECONDS = 30.0
SO_PEERGROUPS = 59  # <asm-generic/socket.h>; Python has no name for it
PEERGROUPS_BYTES = 1024  # the most Python reads: 256 groups


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says: process, user, and all groups."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who is at the other end. Of a peer in more than 256 groups only the primary one is known."""
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups = array("I")
    with suppress(OSError):  # ERANGE: more groups than fit; fewer groups give fewer rights
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, PEERGROUPS_BYTES))
    return Peer(pid, uid, frozenset((gid, *groups)))


class _Exchange(H11Protocol):
    """One connection: notes who the peer is, and ends what takes too long or is too much."""

    peer: Peer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Note the peer; start the clock of the exchange."""
        super().connection_made(transport)
        self.peer = peer_of(transport.get_extra_info("socket"))
        self.app_state = {"peer": self.peer}  # each request's `request.state` is a copy of it
        self._end = self.loop.call_later(EXCHANGE_SECONDS, transport.abort)
        if sum(_uid(other) == self.peer.uid for other in self.connections) > CONNECTIONS_PER_USER:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._end.cancel()
        super().connection_lost(exc)


def _uid(connection: object) -> int | None:
    return connection.peer.uid if isinstance(connection, _Exchange) else None


class _Server(Server):
    """uvicorn inside a daemon that has signal handlers of its own, and without ten wake-ups a second."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the daemon."""
        yield

    async def main_loop(self) -> None:
        """Wait to be cancelled."""
        await self.on_tick(0)
        await asyncio.get_running_loop().create_future()

    async def end(self, listener: socket.socket) -> None:
        """Stop to listen, give requests under way a second, and close what is left."""
        try:
            if self.started:
                await self.shutdown([listener])
        finally:
            listener.close()
            for connection in tuple(self.server_state.connections):
                connection.transport.abort()


async def serve_on(path: Path, app: ASGIApp, ending: Callable[[], None] = lambda: None) -> None:
    """Serve an application on a unix socket until cancelled, then remove the socket file.

    `ending` is called first then, to let go of requests that wait for something. The file gets mode 0660 and the group
    of this process. Raise `ConfigError` if it cannot be made.
    """
    listener, inode = bound(path)
    server = _Server(
        Config(
            app,
            http=_Exchange,
            interface="asgi3",
            lifespan="off",
            ws="none",
            workers=1,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            headers=[("connection", "close")],
            log_config=None,
            log_level="error",  # its warnings are about what peers send: they could fill the log
            access_log=False,
            backlog=64,
            limit_concurrency=CONNECTIONS_MOST,
            timeout_graceful_shutdown=1,
        )
    )
    try:
        await server.serve([listener])
    finally:
        ending()
        _remove(path, inode)
        await server.end(listener)


def bound(path: Path) -> tuple[socket.socket, int]:
    """Bind without listening, and give the file's inode: nobody can connect until somebody listens."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        os.fchmod(listener.fileno(), 0o600)  # Linux creates the file with this mode, less the umask
        listener.bind(str(path))
        os.chown(path, -1, os.getegid(), follow_symlinks=False)
        path.chmod(0o660)
        return listener, path.lstat().st_ino
    except (OSError, ConfigError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"control socket {path}: {why}") from error


def _clear(path: Path) -> None:
    """Remove the socket file of a daemon that is gone; raise `ConfigError` for anything else that is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("there is a file that is no socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise ConfigError("another process listens there already")
    path.unlink()


def _remove(path: Path, inode: int) -> None:
    with suppress(OSError):  # already gone, or no longer ours to remove
        if path.lstat().st_ino == inode:
            path.unlink()
