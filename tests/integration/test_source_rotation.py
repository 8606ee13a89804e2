"""The file source and rotation: whatever is done to a log, each of its lines is delivered once and in order."""

import asyncio
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
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
        self.begun = 0  # the first line in the newest file
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
        self.begun = len(self.written)

    def await_reader(self) -> None:
        """Wait until something of the newest file is read, where afterwards nothing would lead to it."""
        kept = self._kept
        if kept is not None:
            wait_until(lambda: len(kept.lines()) > self.begun, 10, lambda: f"{len(kept.lines())} > {self.begun} lines")

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
    writer.await_reader()
    writer.shift(shutil.copy)
    os.truncate(writer.path, 0)
    writer.begun = len(writer.written)


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
    with closing(Writer(log, kept)) as writer:
        write_and_read(writer, kept, ROTATIONS[rotation], use_inotify)
    assert kept.lines() == writer.written


def write_and_read(writer: Writer, kept: Kept, rotate: Rotate, use_inotify: bool) -> None:
    """Write and rotate in a thread while a source reads, until it has as many lines as were written."""
    ended = threading.Event()

    def write() -> None:
        try:
            writer.write(1)
            writer.await_reader()
            for count in (40, 1, 3, 200, 30, 30, 30):
                writer.write(count)
                rotate(writer)
            writer.write(10)
        finally:
            ended.set()

    async def main() -> None:
        source = FileSource(
            "log", [str(writer.path)], {}, use_inotify=use_inotify, poll_every=1.0 if use_inotify else 0.03
        )
        async with running(source, kept):
            thread = threading.Thread(target=write)
            thread.start()
            await until(lambda: ended.is_set() and len(kept.lines()) >= len(writer.written), lambda: len(kept.lines()))
            thread.join()
        assert source.status().behind == 0

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rotation", ["rename_create", "rename_late", "copytruncate"])
def test_a_restart_anywhere(log: Path, monkeypatch: pytest.MonkeyPatch, rotation: str, seed: int) -> None:
    """However often the reader is killed, and whatever is written and rotated meanwhile, no line is lost or doubled."""
    monkeypatch.setattr("appguard.sources.generation.CHUNK_BYTES", 1000)  # so that it is killed in the middle of files
    chance = random.Random(seed)
    kept = Kept()

    async def main(writer: Writer) -> None:
        for _ in range(12):
            source = FileSource("log", [str(log)], kept.positions)
            goal = chance.randint(len(kept.chunks), len(kept.chunks) + 8)
            async with running(source, kept):
                await until(lambda: len(kept.chunks) >= goal or len(kept.lines()) == len(writer.written))
            for _ in range(chance.randint(0, 3)):
                writer.write(chance.randint(0, 60))
                ROTATIONS[rotation](writer)
            writer.write(chance.randint(0, 60))
        async with running(FileSource("log", [str(log)], kept.positions), kept):
            await until(lambda: len(kept.lines()) >= len(writer.written), lambda: len(kept.lines()))

    with closing(Writer(log)) as writer:
        writer.write(20)
        asyncio.run(main(writer))
        assert kept.lines() == writer.written


def read_until(log: Path, kept: Kept, expected: list[bytes], **options: float) -> None:
    """Read with a new source until it has these lines, and no others."""

    async def main() -> None:
        async with running(FileSource("log", [str(log)], kept.positions, **options), kept):
            await until(lambda: len(kept.lines()) >= len(expected), kept.lines)

    asyncio.run(main())
    assert kept.lines() == expected


def test_a_reused_inode_is_another_file(log: Path) -> None:
    """A file with the inode of the saved position, but other content, is read from its beginning."""
    kept = Kept()
    log.write_bytes(b"old 1\nold 2\n")
    inode = log.stat().st_ino
    read_until(log, kept, [b"old 1", b"old 2"])
    log.write_bytes(b"new 1 is longer than what was there\nnew 2\n")
    assert log.stat().st_ino == inode
    read_until(log, kept, [b"old 1", b"old 2", b"new 1 is longer than what was there", b"new 2"])


def test_a_truncated_file_that_has_grown_past_the_position(log: Path) -> None:
    """A file written anew is noticed also when it is already longer than what was read of the old one."""
    kept = Kept()
    log.write_bytes(b"old\n")

    async def main() -> None:
        async with running(FileSource("log", [str(log)], {}, use_inotify=False, poll_every=0.2), kept):
            await until(lambda: kept.lines() == [b"old"])
            log.write_bytes(b"new 1\nnew 2\nnew 3\n")
            await until(lambda: len(kept.lines()) >= 4)

    asyncio.run(main())
    assert kept.lines() == [b"old", b"new 1", b"new 2", b"new 3"]


def test_a_hole_is_no_part_of_a_line(log: Path) -> None:
    """A writer without O_APPEND leaves a hole of any size in its truncated log; the line behind it comes out whole."""
    kept = Kept()

    async def main() -> None:
        with log.open("wb", buffering=0) as writer:
            async with running(FileSource("log", [str(log)], {}), kept):
                writer.write(b"before\n")
                await until(lambda: kept.lines() == [b"before"])
                os.truncate(log, 0)
                writer.seek(3_000_000)
                writer.write(b"behind")
                writer.write(b" the hole\nand on\n")
                await until(lambda: len(kept.lines()) >= 3, kept.lines)

    asyncio.run(main())
    assert kept.lines() == [b"before", b"behind the hole", b"and on"]


def test_an_unfinished_line_waits_for_its_end(log: Path) -> None:
    """A line half written is not delivered, across restarts and a rotation, until its end is there."""
    kept = Kept()
    log.write_bytes(b"one\ntw")
    read_until(log, kept, [b"one"])
    with log.open("ab") as writer:
        log.rename(f"{log}.1")
        log.write_bytes(b"three\n")
        writer.write(b"o\n")
    read_until(log, kept, [b"one", b"two", b"three"])


def test_a_line_never_finished_is_delivered_in_the_end(log: Path) -> None:
    """What the old file ends with comes out when the old file has been quiet for long enough, and once only."""
    kept = Kept()
    log.write_bytes(b"one\nthe writer died he")

    async def main() -> None:
        source = FileSource("log", [str(log)], {}, quiet_after=0.05, poll_every=0.02)
        async with running(source, kept):
            await until(lambda: kept.lines() == [b"one"])
            log.rename(f"{log}.1")
            log.write_bytes(b"two\n")
            await until(lambda: len(kept.lines()) >= 3)

    asyncio.run(main())
    assert kept.lines() == [b"one", b"two", b"the writer died he"]
    with log.open("ab") as writer:
        writer.write(b"three\n")
    read_until(log, kept, [b"one", b"two", b"the writer died he", b"three"])


def test_old_files_are_closed(log: Path) -> None:
    """A rotated file is let go when it is quiet, a deleted one too, so that the disk gets its space back."""
    kept = Kept()
    log.write_bytes(b"one\n")

    async def main() -> None:
        source = FileSource("log", [f"{log}*"], {}, quiet_after=0.05, poll_every=0.02)
        async with running(source, kept):
            await until(lambda: kept.lines() == [b"one"])
            one_open = open_files()
            log.rename(f"{log}.1")
            log.write_bytes(b"two\n")
            await until(lambda: kept.lines() == [b"one", b"two"] and open_files() == one_open)
            log.unlink()
            await until(lambda: open_files() == one_open - 1)
            await until(lambda: source.status().origins == ())
            log.write_bytes(b"three\n")
            await until(lambda: len(kept.lines()) >= 3)

    before = open_files()
    asyncio.run(main())
    assert kept.lines() == [b"one", b"two", b"three"]
    assert open_files() == before


@pytest.mark.parametrize("quiet_after", [0.02, 60])
def test_a_symlink_turned_back(log: Path, quiet_after: float) -> None:
    """A file read before is continued, not begun anew, when the path leads to it again, also if it was closed."""
    kept = Kept()
    files = {False: log.with_name("even"), True: log.with_name("odd")}

    async def main() -> None:
        source = FileSource("log", [str(log)], {}, poll_every=0.02, quiet_after=quiet_after)
        async with running(source, kept):
            none_open = open_files()
            for number in range(8):
                target = files[number % 2 == 1]
                with target.open("ab") as writer:
                    writer.write(b"%d\n" % number)
                log.unlink(missing_ok=True)
                log.symlink_to(target)
                await until(lambda number=number: len(kept.lines()) > number, kept.lines)
                await until(lambda: quiet_after > 1 or open_files() == none_open + 1)

    asyncio.run(main())
    assert kept.lines() == [b"%d" % number for number in range(8)]
