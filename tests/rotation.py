"""Logs that are written and rotated at the same time, in every way there is, and what of them a disk still holds.

One thread writes numbered lines, each at once, as an application does; another rotates without stopping it. A writer
goes on writing to its old file until it notices that it shall reopen its log. Each line has an address of its own, so
that a jail counts each line apart.
"""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemon import login_failure

SENTINEL = "203.0.113.99"
PACE = 0.004  # seconds between the lines
APART = 0.35  # seconds between rotations
LINE = re.compile(rb'"source_ip":"20\.(\d+)\.(\d+)\.(\d+)"')


def address_of(number: int) -> str:
    """Give the address of a line."""
    return f"20.{number >> 16}.{number >> 8 & 255}.{number & 255}"


@dataclass(slots=True)
class Generation:
    """The lines written to one file, by number, and when it was there; `gone_at` is when its name was taken from it."""

    begun_at: float
    lines: list[int] = field(default_factory=list[int])
    gone_at: float = float("inf")


class Rotated:
    """A log that is written and rotated until stopped. `begin` is whether it is there from the start."""

    def __init__(self, directory: Path, rotate: Callable[["Rotated"], None], *, begin: bool = True) -> None:
        self.path = directory / "app.log"
        self.generations: list[Generation] = []
        self.rotations = 0
        self._rotate = rotate
        self._written = 0
        self._reopen = threading.Event()
        self._stop = threading.Event()
        self._turns = threading.Semaphore(0)
        self._form = login_failure(SENTINEL).to_line()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._turn)]
        if begin:
            self.begin()

    def begin(self) -> None:
        """Make the log, and begin to write to it; it is rotated as soon as that is allowed."""
        self.path.parent.mkdir(exist_ok=True)
        self._rotate(self)
        for thread in self._threads:
            thread.start()

    @property
    def has_begun(self) -> bool:
        """Say whether it is written."""
        return self._threads[0].ident is not None

    def stop(self) -> None:
        """End writing and rotating; it may end without a log, where it was renamed and is not yet made again."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        while not self._stop.is_set():
            self._reopen.clear()
            with self.path.open("ab", buffering=0) as log:
                generation = Generation(time.monotonic())
                self.generations.append(generation)
                while not self._reopen.is_set() and not self._stop.wait(PACE):
                    self._line(log.fileno(), generation)

    def _line(self, log: int, generation: Generation) -> None:
        number, self._written = self._written, self._written + 1
        generation.lines.append(number)
        os.write(log, self._form.replace(SENTINEL, address_of(number)).encode() + b"\n")

    def _turn(self) -> None:
        while not self._stop.wait(APART):
            if self._turns.acquire(blocking=False):
                self._rotate(self)
                self.rotations += 1

    def allow(self, turns: int) -> None:
        """Allow some more rotations."""
        self._turns.release(turns)

    def reopen(self) -> None:
        """Tell the writer to open the log by its name again, and wait until it has."""
        before = len(self.generations)
        if self.generations:
            self.generations[-1].gone_at = time.monotonic()
        self._reopen.set()
        while len(self.generations) == before and not self._stop.wait(PACE):
            pass

    def shift(self, keep: Callable[[Path, Path], object]) -> None:
        """Number the old files up, and put the log in place of the first."""
        for number in range(self.rotations, 0, -1):
            old = Path(f"{self.path}.{number}")
            if old.exists():
                old.rename(f"{self.path}.{number + 1}")
        keep(self.path, Path(f"{self.path}.1"))

    @property
    def written(self) -> set[int]:
        """Give the numbers of all lines."""
        return set(range(self._written))

    def on_disk(self) -> set[int]:
        """Give the numbers of the lines that some file still holds."""
        files = [path for path in self.path.parent.iterdir() if path.is_file() and not path.is_symlink()]
        found = (LINE.finditer(path.read_bytes()) for path in files)
        return {int(a) << 16 | int(b) << 8 | int(c) for each in found for a, b, c in (one.groups() for one in each)}


def rename_create(log: Rotated) -> None:
    """Rename; the writer creates, and goes on writing to the old file until it does."""
    if log.path.exists():
        log.shift(lambda path, old: path.rename(old))
        log.reopen()


def copytruncate(log: Rotated) -> None:
    """Copy, then truncate under the writer."""
    if log.path.exists():
        log.shift(shutil.copy)
        os.truncate(log.path, 0)


def delete_create(log: Rotated) -> None:
    """Delete; the writer creates: often with the same inode."""
    if log.path.exists():
        log.path.unlink()
        log.reopen()


def retarget(log: Rotated) -> None:
    """Let the symlink lead to a new file, which the writer makes."""
    link = log.path.with_name("link.tmp")
    link.symlink_to(f"target-{log.rotations}")
    link.rename(log.path)
    if log.generations:
        log.reopen()


def dated(log: Rotated) -> None:
    """Begin a new file with another date in its name."""
    log.path = log.path.with_name(f"app-202611{log.rotations + 1:02}.log" if log.rotations < 29 else log.path.name)
    if log.generations:
        log.reopen()


ROTATIONS: Mapping[str, Callable[[Rotated], None]] = {
    each.__name__: each for each in (rename_create, copytruncate, delete_create, retarget, dated)
}
