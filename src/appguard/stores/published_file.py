"""The file of published bans as the daemon writes it: a new one beside the old, at once or by a thread."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock, Thread

from appguard.ban import Ban, Fact
from appguard.stores.fact_lines import fact_line

HEADER = b"appguard-bans 1\n"
WRITTEN_AT_ONCE = 1_000  # lines


def new_file(path: Path) -> int:
    """Make a new file at a path, in place of whatever is there, and give it open; raise `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(file, 0o644)
        write_all(file, HEADER)
    except OSError:
        os.close(file)
        raise
    return file


def write_all(file: int, data: bytes) -> None:
    """Write all of some data; raise `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def lines_of(bans: Sequence[Ban]) -> bytes:
    """Give bans as lines."""
    return b"".join(fact_line(Fact(ban.network, ban.version, ban)) for ban in bans)


class Rewriting:
    """A new file that a thread fills with the bans that `bans` gives; `add` is what changes meanwhile.

    Either `finish` or `drop` is called at last. Raises `OSError` if the file or the thread cannot be made.
    """

    def __init__(self, path: Path, bans: Callable[[], Sequence[Ban]]) -> None:
        self._bans = bans
        self._file = new_file(path)
        self._lock = Lock()
        self._added: list[bytes] = []
        self._error: Exception | None = None
        self._number = 0
        self._is_dropped = False
        self.is_over = False
        try:
            Thread(target=self._run, name="appguard-publishing", daemon=True).start()
        except RuntimeError as error:  # no more threads: the caller tries again, without one
            os.close(self._file)
            raise OSError(str(error)) from error

    def _run(self) -> None:
        try:
            bans = self._bans()
            self._number = len(bans)
            for first in range(0, len(bans), WRITTEN_AT_ONCE):
                if self._is_dropped:
                    break
                write_all(self._file, lines_of(bans[first : first + WRITTEN_AT_ONCE]))
        except Exception as error:  # noqa: BLE001 - whatever it is, `finish` says it
            self._error = error
        with self._lock:
            self.is_over = True
            if self._is_dropped:
                os.close(self._file)

    def add(self, lines: bytes) -> None:
        """Have lines stand after the bans."""
        self._added.append(lines)

    def finish(self) -> tuple[int, int]:
        """Give the whole file, open, and the number of bans, when the thread is over; raise `OSError`."""
        try:
            if self._error is not None:
                raise OSError(str(self._error)) from self._error
            write_all(self._file, b"".join(self._added))
        except OSError:
            os.close(self._file)
            raise
        return self._file, self._number

    def drop(self) -> None:
        """Have no new file."""
        with self._lock:
            self._is_dropped = True
            if self.is_over:
                os.close(self._file)
