"""Writes event lines for the daemon and for people, and never blocks or fails the request that caused them.

A sink that is a file takes one `write` per line (O_APPEND: lines of several workers never mix). A socket takes one
datagram per line. What a full socket or a slow stderr cannot take at once waits in a bounded backlog that a short-lived
thread drains; what does not fit is dropped, counted and reported when the backlog is empty again. An event that a file
or socket refuses goes to the logger `appguard.events`, so that it is not lost.
"""

import atexit
import logging
import os
import socket
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from appguard.event import Event
from appguard.fork import in_every_child

EVENTS_SOCKET = "/run/appguard/events.sock"
STDERR = 2
BACKLOG_MOST = 1_000
SEND_TIMEOUT = 1.0  # seconds a backlog thread waits for room in the daemon's socket
CLOSE_TIMEOUT = 0.5  # seconds an ending app waits for its backlog

log = logging.getLogger("appguard.event_log")
events_logger = logging.getLogger("appguard.events")


class Sink(Protocol):
    """Where lines go. Called by the thread of the request; never waits."""

    @property
    def dropped(self) -> int:
        """Give the number of lines it took and lost."""
        ...

    def write(self, line: bytes) -> None:
        """Take one line; raise `OSError` if it cannot."""
        ...

    def close(self) -> None:
        """Close what is open. May be repeated; the next line opens it again."""
        ...


class Backlog:
    """A bounded queue drained by a thread that ends when the queue is empty; a sink for what may make one wait."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._begin()
        _backlogs.add(self)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._reported = 0
        self.dropped = 0

    def write(self, line: bytes, room: int | None = None) -> None:
        """Queue a line; drop and count it when so many are queued already (None: `BACKLOG_MOST`)."""
        if self._process != os.getpid():
            self._begin()  # forked: the thread stayed behind, and perhaps held the lock
        with self._lock:
            if len(self._lines) >= (BACKLOG_MOST if room is None else room):
                self.dropped += 1
                return
            self._lines.append(line)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._drain, name="appguard-events", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                self._thread = None

    def __bool__(self) -> bool:
        return bool(self._lines)

    def _drain(self) -> None:
        while line := self._next():
            failed = False
            try:
                self._write(line)
            except OSError:
                failed = True
            with self._lock:
                self._lines.popleft()
                self.dropped += failed
                untold = 0 if self._lines else self.dropped - self._reported
                self._reported += untold
            if untold:
                with suppress(Exception):  # the app's logging may raise anything, and this thread must go on
                    log.error("%d event lines were dropped: the event log could not take them in time", untold)

    def _next(self) -> bytes | None:
        with self._lock:
            if self._lines:
                return self._lines[0]
            self._thread = None
            return None

    def close(self) -> None:
        """Wait a moment for the queue to be drained."""
        thread = self._thread
        if thread is not None:
            thread.join(CLOSE_TIMEOUT)


_backlogs: weakref.WeakSet[Backlog] = weakref.WeakSet()


@atexit.register
def _close_backlogs() -> None:
    """Let a program that ends write what its threads still hold."""
    for backlog in list(_backlogs):
        backlog.close()


class FileSink:
    """Appends to a file; follows a rotation by looking at the inode at most once a second."""

    dropped = 0

    def __init__(self, path: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._file = -1
        self._inode = (0, 0)
        self._look_again = 0.0
        self._torn = False
        self._renew_lock()
        in_every_child(self, FileSink._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Append one line with one write."""
        with self._lock:
            self._append(line)

    def _append(self, line: bytes) -> None:
        now = self._monotonic()
        if self._file < 0 or now >= self._look_again:
            self._look_again = now + 1.0
            self._reopen()
        line = b"\n" + line if self._torn else line
        self._torn = os.write(self._file, line) != len(line)
        if self._torn:  # the next line ends this one first
            raise OSError(f"{self._path}: the line was cut short")

    def _reopen(self) -> None:
        with suppress(FileNotFoundError):
            there = Path(self._path).stat()
            if (there.st_dev, there.st_ino) == self._inode and self._file >= 0:
                return
        self._close()  # where the new one cannot be opened, nothing more is lost in a file that was taken away
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o640)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise OSError(f"{self._path}: not a regular file")
        self._file, self._inode = file, (status.st_dev, status.st_ino)
        self._closing = weakref.finalize(self, os.close, file)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        with self._lock:  # what a thread writes now would else go to whoever is given this descriptor next
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            self._closing()
            self._file = -1


class SocketSink:
    """Sends each line as a datagram to the daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._process = 0
        self._backlog = Backlog(self._send_waiting)
        self._renew_lock()
        in_every_child(self, SocketSink._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    @property
    def dropped(self) -> int:
        """Give the number of lines that found no room in the backlog or the socket."""
        return self._backlog.dropped

    def write(self, line: bytes) -> None:
        """Send one line, or queue it when the daemon's socket is full."""
        if self._backlog:
            self._backlog.write(line)
            return
        try:
            with self._lock:
                self._send(line)
        except BlockingIOError:
            self._backlog.write(line)

    def _send(self, line: bytes) -> None:
        try:
            self._connected().send(line, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise
        except OSError:
            self._disconnect()
            self._connected().send(line, socket.MSG_DONTWAIT)  # a restarted daemon has a new socket

    def _connected(self) -> socket.socket:
        if self._socket is None or self._process != os.getpid():
            self._disconnect()
            self._socket, self._process = _connect(self._path), os.getpid()
            self._disconnecting = weakref.finalize(self, self._socket.close)
        return self._socket

    def _send_waiting(self, line: bytes) -> None:
        with _connect(self._path) as waiting:
            waiting.settimeout(SEND_TIMEOUT)
            waiting.send(line)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._disconnecting()
            self._socket = None

    def close(self) -> None:
        """Close the socket; the next line opens it again."""
        self._backlog.close()
        with self._lock:
            self._disconnect()


def _connect(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _write_stderr(line: bytes) -> None:
    os.write(STDERR, line)  # not sys.stderr: a thread stalled in it would hold its lock when the interpreter ends


class LoggerSink:
    """Gives lines to the standard logger `appguard.events`, for the app's own logging set-up."""

    dropped = 0

    def write(self, line: bytes) -> None:
        """Log one line."""
        events_logger.warning("%s", line.decode("ascii").rstrip("\n"))

    def close(self) -> None:
        """Nothing is open."""


class DefaultSink:
    """The daemon's socket while there is one, else the logger."""

    def __init__(self, path: str = EVENTS_SOCKET) -> None:
        self._path = path
        self._socket = SocketSink(path)
        self._logger = LoggerSink()

    @property
    def dropped(self) -> int:
        """Give the number of lines the socket lost."""
        return self._socket.dropped

    def write(self, line: bytes) -> None:
        """Write one line to whichever is there now."""
        (self._socket if Path(self._path).exists() else self._logger).write(line)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def open_sink(target: str) -> Sink:
    """Give the sink a setting names: a path, `stderr`, `logger`, `unix:/path`, or empty for the default."""
    if not target:
        return DefaultSink()
    if target == "stderr":
        return Backlog(_write_stderr)  # the terminal or pipe behind it may stall
    if target == "logger":
        return LoggerSink()
    return SocketSink(target.removeprefix("unix:")) if target.startswith("unix:") else FileSink(target)


class EventLog:
    """Where an app's events go."""

    def __init__(self, target: str = "") -> None:
        self.target = target
        self._sink = open_sink(target)
        self._complained = False

    def write(self, event: Event) -> None:
        """Write one event; never raises."""
        line = event.to_line().encode("ascii") + b"\n"
        with suppress(Exception):  # filters and handlers of the app's logging may raise anything; the request goes on
            try:
                self._sink.write(line)
                self._complained = False
            except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
                self._complain(error)
                LoggerSink().write(line)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            target = self.target or "default"
            log.error("event log %s cannot be written, events go to the logger: %s", target, error)

    @property
    def dropped(self) -> int:
        """Give the number of lines dropped because a backlog was full or its sink failed."""
        return self._sink.dropped

    def close(self) -> None:
        """Close what is open; the next event opens it again."""
        self._sink.close()
