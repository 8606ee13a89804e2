"""The file source and rotation: whatever is done to a log, each of its lines is delivered once and in order."""

import asyncio
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from appguard.sources.file import FileSource
from tests.integration.reading import Kept, open_files, running, until
from tests.lab import wait_until

Rotate = Callable[["Writer"], None]


class Writer:
    """An application that writes numbered lines to its log, and rotates it."""

    def __init__(self, path: Path, kept: Kept | None = None) -> None:
        self.path = path
        self.written: list[bytes] = []
        self._kept = kept
        self._target = 0
        self._file = path.open("ab", buffering=0)

    def write(self, count: int) -> None:
        """Write some lines, each at once."""
        for _ in range(count):
            line = b"%d %s" % (len(self.written), b"x" * (len(self.written) * 7 % 90))
            self.written.append(line)
            self._file.write(line + b"\n")

    def reopen(self) -> None:
        """Open the log by its name, as on SIGUSR1."""
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def await_reader(self) -> None:
        """Wait until the newest file is being read, where it could not be found afterwards."""
        kept, newest = self._kept, self.written[-1]
        if kept is not None:
            wait_until(lambda: newest in kept.lines()[-500:], 10, "the newest line")

    def shift(self, keep: Callable[[Path, Path], object]) -> None:
        """Number the old files up, as logrotate does, and put the log in place of the first."""
        numbers = sorted((int(old.suffix[1:]) for old in self.path.parent.glob(f"{self.path.name}.*")), reverse=True)
        for number in numbers:
            Path(f"{self.path}.{number}").rename(f"{self.path}.{number + 1}")
        keep(self.path, Path(f"{self.path}.1"))

    def close(self) -> None:
        """Close the log."""
        self._file.close()


def rename_create(writer: Writer) -> None:
    """Rename, then create."""
    writer.shift(lambda path, old: path.rename(old))
    writer.reopen()


def rename_late(writer: Writer) -> None:
    """Rename, create, and write on to the old file until told to reopen, as nginx does."""
    writer.shift(lambda path, old: path.rename(old))
    writer.path.touch()
    writer.write(3)
    writer.reopen()


def copytruncate(writer: Writer) -> None:
    """Copy, then truncate under the writer."""
    writer.shift(shutil.copy)
    os.truncate(writer.path, 0)


def delete_create(writer: Writer) -> None:
    """Delete, then create: often with the same inode."""
    writer.await_reader()
    writer.path.unlink()
    writer.reopen()


def retarget(writer: Writer) -> None:
    """Write to a new file and let the symlink lead to it."""
    writer.await_reader()
    number = len(list(writer.path.parent.iterdir()))
    link = writer.path.with_name("link.tmp")
    link.symlink_to(f"target-{number}")
    link.rename(writer.path)
    writer.reopen()


ROTATIONS: Mapping[str, Rotate] = {
    rotate.__name__: rotate for rotate in (rename_create, rename_late, copytruncate, delete_create, retarget)
}


@pytest.fixture(params=[True, False], ids=["inotify", "polling"])
def use_inotify(request: pytest.FixtureRequest) -> bool:
    """Say how the source learns of changes."""
    return bool(request.param)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Give the path of a log in a directory of its own."""
    (tmp_path / "logs").mkdir()
    yield tmp_path / "logs" / "access.log"


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_every_line_once_and_in_order(log: Path, rotation: str, use_inotify: bool) -> None:
    """While an application writes and rotates at full speed, nothing is lost, doubled or out of order."""
    kept = Kept()
    writer = Writer(log, kept)
    ended = threading.Event()

    def write() -> None:
        try:
            for count in (40, 1, 3, 200, 30, 30, 30):
                writer.write(count)
                ROTATIONS[rotation](writer)
            writer.write(10)
        finally:
            ended.set()

    async def main() -> None:
        source = FileSource("log", [str(log)], {}, use_inotify=use_inotify, poll_every=1.0 if use_inotify else 0.03)
        async with running(source, kept):
            thread = threading.Thread(target=write)
            thread.start()
            await until(lambda: ended.is_set() and len(kept.lines()) >= len(writer.written), lambda: len(kept.lines()))
            thread.join()
        assert source.status().behind == 0

    asyncio.run(main())
    writer.close()
    assert kept.lines() == writer.written
