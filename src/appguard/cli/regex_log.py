"""What the verb `regex` reads: a log, the journal, or a line; and how much of it is read already."""

import shlex
import stat
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import click

from appguard.cli.client import WrongInput
from appguard.config_sources import journalmatch
from appguard.errors import ConfigError
from appguard.sources.journal_once import read_journal
from appguard.sources.packed import read_lines

JOURNALS = ("journal", "systemd-journal")  # the second is fail2ban's word
BIG_BYTES = 4 * 1024 * 1024
PACKED = (".gz", ".bz2", ".xz", ".zst")

Timed = tuple[bytes, float]


@dataclass(frozen=True, slots=True)
class Log:
    """Where lines come from: what it is, as it is shown, the lines with their times, and how many bytes they are."""

    what: str
    shown: str
    lines: Iterable[Timed]
    size: int = 0


def is_journal(name: str) -> bool:
    """Say whether a name means the systemd journal."""
    return name in JOURNALS or name.startswith("journal:/")


def open_log(name: str, matches: tuple[str, ...], *, is_bare: bool) -> Log:
    """Give what LOG means; raise `ConfigError` where a path names no file. A text that is no path is a line."""
    now = time.time()
    if is_journal(name):
        entries = read_journal(matches, name.partition(":")[2])
        timed = ((entry.message if is_bare else entry.line, entry.time) for entry in entries)
        return Log("systemd journal", shlex.join(matches) or "all of it", timed)
    path = Path(name).expanduser()
    if _is_file(path):
        size = 0 if path.suffix in PACKED else path.stat().st_size
        return Log("log file", name, zip(read_lines(path), repeat(now), strict=False), size)
    if _is_path(name):
        raise ConfigError(f"{name} cannot be read: {_why_not(path)}")
    return Log("single line", name, [(line.encode(errors="surrogateescape"), now) for line in name.splitlines()])


def _is_path(name: str) -> bool:
    """Say whether a text looks like a path, and not like a line."""
    begins, ends = name.startswith(("/", "~/", "./", "../")), name.endswith((".log", ".txt", *PACKED))
    return (begins or ends) and not any(map(str.isspace, name))


def _why_not(path: Path) -> str:
    try:
        return "it is a directory" if stat.S_ISDIR(path.stat().st_mode) else "it is no regular file"
    except OSError as error:
        return str(error.strerror)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or path.is_fifo()
    except (OSError, ValueError):  # a line, too long for a path
        return False


@contextmanager
def progress(log: Log) -> Generator[Iterable[Timed]]:
    """Give the lines, and while they are read show how far that is, if somebody looks at it."""
    if log.size < BIG_BYTES or not sys.stderr.isatty():
        yield log.lines
        return
    with click.progressbar(length=log.size, label="Reading", file=sys.stderr, update_min_steps=BIG_BYTES // 8) as bar:

        def told() -> Iterator[Timed]:
            for line, at in log.lines:
                bar.update(len(line) + 1)
                yield line, at

        yield told()


def journal_matches(text: str) -> tuple[str, ...]:
    """Read what the journal is asked for; raise `CommandError`."""
    try:
        return journalmatch(text) if text.strip() else ()
    except ValueError as error:  # also a quote that does not end
        raise WrongInput(f"journalmatch: {error}") from error
