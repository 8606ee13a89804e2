"""What a daemon stands on: its directories, enough file descriptors, and a log that never makes it wait."""

import logging
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from appguard.errors import ConfigError
from appguard.event_log import Backlog, write_stderr

WARNINGS_MOST = 100_000  # lines that may wait before a warning is dropped too


class StderrHandler(logging.Handler):
    """Logs to standard error from a thread: whoever reads it may stop, and the loop must not."""

    def __init__(self) -> None:
        super().__init__()
        self._backlog = Backlog(write_stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; what finds no room is dropped and counted. What is found must leave room for the bans."""
        room = WARNINGS_MOST if record.levelno >= logging.WARNING else None
        self._backlog.put(f"{self.format(record)}\n".encode(errors="backslashreplace"), room)


def allow_many_files() -> None:
    """Use all file descriptors we may: every log has several files, and every one is kept open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
