"""What a daemon stands on: its directories, enough file descriptors, and what never makes it wait: log and garbage."""

import gc
import logging
import os
import resource
import select
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from appguard.errors import ConfigError
from appguard.event_log import STDERR, Backlog

KEPT_MOST = 16 * 1024 * 1024  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
WARNINGS_MOST = 100_000  # lines that may wait before a warning is dropped too


class StderrHandler(logging.Handler):
    """Logs to standard error, where it has no room from a thread: whoever reads it may stop, and the loop must not.

    To start a thread costs more than to find a failure and to ban for it.
    """

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._backlog = Backlog(self._write)
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or queue it behind others; what finds no room is dropped and counted.

        What is found must leave room for the bans.
        """
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if self._has_room(line):
            with suppress(OSError):  # nobody reads any more
                self._write(line)
            return
        self._backlog.write(line, WARNINGS_MOST if record.levelno >= logging.WARNING else None)

    def _has_room(self, line: bytes) -> bool:
        """Say whether a line can be written at once: a pipe that is ready takes so many bytes whole."""
        if self._backlog or len(line) > select.PIPE_BUF:
            return False
        return [event for _, event in self._room.poll(0)] == [select.POLLOUT]

    def _write(self, line: bytes) -> None:
        os.write(self._descriptor, line)


def allow_many_files() -> None:
    """Use all file descriptors we may: every log has several files, and every one is kept open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def settle_memory() -> None:
    """Have memory take little time.

    Circular garbage is looked for seldom: there is hardly any, and each time all that jails have counted is walked.
    What is freed is kept, some of it: the memory of each block of lines would else go back to the system every time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with suppress(ImportError, OSError, AttributeError):  # a Python without ctypes, a C library that is not glibc
        mallopt = import_module("ctypes").CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_MOST)
        mallopt(M_MMAP_THRESHOLD, KEPT_MOST)


@contextmanager
def here_to_stay() -> Generator[None]:
    """Look for no garbage while many things are made that stay, nor among them later: it would stop everything."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def make_directories(modes: Mapping[Path, int]) -> None:
    """Make what a service manager would have made; raise `ConfigError`."""
    for path, mode in modes.items():
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be made: {error.strerror}; make it for the daemon: install -d -m {mode:o} "
                f"-o {os.geteuid()} -g {os.getegid()} {path}"
            ) from error
