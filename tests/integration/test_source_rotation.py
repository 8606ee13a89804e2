"""The file source and rotation: whatever is done to a log, each of its lines is delivered once and in order."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from appguard.sources.file import FileSource
from appguard.sources.siblings import rotated_from
from tests.integration.reading import STRANGER, Kept, open_files, running
from tests.lab import has_user, wait_until

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")

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
    source = FileSource("log", [str(log)], {}, use_inotify=use_inotify, poll_every=1.0 if use_inotify else 0.03)
    with closing(Writer(log, kept)) as writer, running(source, kept) as run:
        writer.write(1)
        writer.await_reader()
        for count in (40, 1, 3, 200, 30, 30, 30):
            writer.write(count)
            ROTATIONS[rotation](writer)
        writer.write(10)
        kept.wait_for(writer.written)
        assert (run.status().behind, run.status().complaint) == (0, "")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rotation", ["rename_create", "rename_late", "copytruncate"])
def test_a_restart_anywhere(log: Path, monkeypatch: pytest.MonkeyPatch, rotation: str, seed: int) -> None:
    """However often the reader is killed, and whatever is written and rotated meanwhile, no line is lost or doubled."""
    for most in ("CHUNK_BYTES", "BYTES_FIRST"):
        monkeypatch.setattr(f"appguard.sources.pace.{most}", 1000)  # so that it is killed in the middle of files
    chance = random.Random(seed)
    kept = Kept()
    with closing(Writer(log)) as writer:
        writer.write(20)
        for _ in range(12):
            read_some(log, kept, chance.randint(0, 8), len(writer.written))
            for _ in range(chance.randint(0, 3)):
                writer.write(chance.randint(0, 60))
                ROTATIONS[rotation](writer)
            writer.write(chance.randint(0, 60))
        with running(FileSource("log", [str(log)], kept.positions), kept):
            kept.wait_for(writer.written)


def read_some(log: Path, kept: Kept, chunks: int, lines: int) -> None:
    """Read with a new source until it has so many more chunks, or so many lines in all."""
    goal = len(kept.chunks) + chunks
    with running(FileSource("log", [str(log)], kept.positions), kept):
        wait_until(lambda: len(kept.chunks) >= goal or len(kept.lines()) >= lines, 10, "more chunks")


def read_until(log: Path, kept: Kept, expected: list[bytes]) -> None:
    """Read with a new source until it has these lines, and no others."""
    with running(FileSource("log", [str(log)], kept.positions), kept):
        kept.wait_for(expected)


def append(path: Path, data: bytes) -> None:
    """Write to the end of a file, opened for this alone."""
    with path.open("ab") as writer:
        writer.write(data)


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
    with running(FileSource("log", [str(log)], {}, use_inotify=False, poll_every=0.2), kept):
        kept.wait_for([b"old"])
        log.write_bytes(b"new 1\nnew 2\nnew 3\n")
        kept.wait_for([b"old", b"new 1", b"new 2", b"new 3"])


def test_a_hole_is_no_part_of_a_line(log: Path) -> None:
    """A writer without O_APPEND leaves a hole of any size in its truncated log; the line behind it comes out whole."""
    kept = Kept()
    with log.open("wb", buffering=0) as writer, running(FileSource("log", [str(log)], {}), kept):
        writer.write(b"before\n")
        kept.wait_for([b"before"])
        os.truncate(log, 0)
        writer.seek(3_000_000)
        writer.write(b"behind")
        writer.write(b" the hole\nand on\n")
        kept.wait_for([b"before", b"behind the hole", b"and on"])


def test_an_unfinished_line_waits_for_its_end(log: Path) -> None:
    """A line half written is not delivered, across restarts and a rotation, until its end is there."""
    kept = Kept()
    log.write_bytes(b"one\ntw")
    read_until(log, kept, [b"one"])
    log.rename(f"{log}.1")
    log.write_bytes(b"three\n")
    append(Path(f"{log}.1"), b"o\n")
    read_until(log, kept, [b"one", b"two", b"three"])


def test_a_line_never_finished_is_delivered_in_the_end(log: Path) -> None:
    """What the old file ends with comes out when the old file has been quiet for long enough, and once only."""
    kept = Kept()
    log.write_bytes(b"one\nthe writer died he")
    with running(FileSource("log", [str(log)], {}, quiet_after=0.05, poll_every=0.02), kept):
        kept.wait_for([b"one"])
        log.rename(f"{log}.1")
        log.write_bytes(b"two\n")
        kept.wait_for([b"one", b"two", b"the writer died he"])
    append(log, b"three\n")
    read_until(log, kept, [b"one", b"two", b"the writer died he", b"three"])


def test_a_late_writer_is_heard_until_it_is_quiet(log: Path) -> None:
    """Lines written to the renamed file come out once, and before what was written to the new file after them."""
    kept = Kept()
    new = [b"new %d" % number for number in range(300)]
    with closing(Writer(log)) as writer, running(FileSource("log", [str(log)], {}), kept):
        writer.write(5)
        kept.wait_for(writer.written)
        log.rename(f"{log}.1")
        for line in new:
            writer.write(1)
            append(log, line + b"\n")
        wait_until(lambda: len(kept.lines()) >= 605, 10, lambda: f"605 lines: {kept.lines()}")
    found = kept.lines()
    assert [line for line in found if line not in new] == writer.written
    assert [line for line in found if line in new] == new
    assert all(found.index(late) < found.index(line) for late, line in zip(writer.written[5:], new, strict=True))


def test_a_copy_somebody_made_is_not_a_generation(log: Path) -> None:
    """A copy under the name of a rotated file, newer than the log itself, does not give its lines again."""
    kept = Kept()
    log.write_bytes(b"one\n")
    with running(FileSource("log", [str(log)], {}), kept):
        kept.wait_for([b"one"])
        shutil.copy(log, f"{log}.20261120")
        log.rename(f"{log}.1")
        log.write_bytes(b"two\n")
        kept.wait_for([b"one", b"two"])
        append(log, b"three\n")
        kept.wait_for([b"one", b"two", b"three"])


def test_a_log_with_a_date_in_its_name_is_read_though_an_old_one_has_none(log: Path) -> None:
    """Where an app has begun to date its logs, what it left behind is not what they were rotated from."""
    kept = Kept()
    dated = [log.with_name(f"{log.stem}-2026-11-{day}{log.suffix}") for day in (19, 20)]
    log.touch()
    os.utime(log, (0, 0))
    dated[0].write_bytes(b"one\n")
    os.utime(dated[0], (1000, 1000))
    with running(FileSource("log", [f"{log.parent}/*{log.suffix}"], {}, poll_every=0.02), kept):
        kept.wait_for([b"one"])
        append(dated[0], b"two\n")
        kept.wait_for([b"one", b"two"])
        dated[1].write_bytes(b"three\n")
        kept.wait_for([b"one", b"two", b"three"])


def test_a_dated_file_that_is_read_as_its_log_is_not_read_as_another(log: Path) -> None:
    """A writer that goes on for hours with what was renamed is heard by the log's own name."""
    kept = Kept()
    dated = log.with_name(f"{log.stem}-2026-11-20{log.suffix}")
    log.write_bytes(b"one\n")
    source = FileSource("log", [f"{log.parent}/*{log.suffix}"], {}, poll_every=0.02)
    with running(source, kept):
        kept.wait_for([b"one"])
        log.rename(dated)
        log.touch()
        os.utime(log, (0, 0))
        append(dated, b"two\n")
        kept.wait_for([b"one", b"two"])
        assert source.status().origins == (str(log),)
        assert source.status().complaint == ""
        append(log, b"three\n")
        kept.wait_for([b"one", b"two", b"three"])


@pytest.mark.parametrize(
    ("name", "is_rotated"),
    [
        ("app.log.1", True),
        ("app.log-20261120", True),
        ("app-20261120.log", True),
        ("app.2026-11-20.log", True),
        ("app-2026-11-20.0.log", True),
        ("app-2026-11-20-1.log", True),
        ("app.2026-11-20_13.12.log", True),
        ("app-2026-11.log", True),
        ("app-11-20-2026-1.log", True),
        ("app-1.log", False),
        ("app.1.log", False),
        ("app-2026-11-20.error.log", False),
        ("app-202611201.log", False),
        ("app-4821-01.log", False),
    ],
)
def test_names_of_rotated_files(name: str, is_rotated: bool) -> None:
    """Numbers behind a log and dates in it, with and without dashes, are rotations; another worker's log is none."""
    assert ("app.log" in rotated_from(name)) is is_rotated


@needs_users
def test_siblings_that_are_not_the_logs_are_left_alone(log: Path) -> None:
    """Neither a FIFO, nor a symlink, nor a file of another user is read for having the name of a rotated file."""
    kept = Kept()
    log.write_bytes(b"one\n")
    theirs = log.with_name("theirs")
    with running(FileSource("log", [str(log)], {}), kept):
        kept.wait_for([b"one"])
        os.mkfifo(f"{log}.5")
        theirs.write_bytes(b"theirs\n")
        os.chown(theirs, STRANGER, STRANGER)
        shutil.copy2(theirs, f"{log}.6")
        os.chown(f"{log}.6", STRANGER, STRANGER)
        Path(f"{log}.7").symlink_to("elsewhere")
        log.with_name("elsewhere").write_bytes(b"elsewhere\n")
        log.rename(f"{log}.1")
        log.write_bytes(b"two\n")
        kept.wait_for([b"one", b"two"])
        append(log, b"three\n")
        kept.wait_for([b"one", b"two", b"three"])


def test_too_many_generations_are_given_up_aloud(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who rotates without end cannot use up the daemon's descriptors: the oldest files are given up, and it is said."""
    monkeypatch.setattr("appguard.sources.tail.UNREAD_MOST", 3)
    kept = Kept()
    log.write_bytes(b"0\n")
    read_until(log, kept, [b"0"])
    for number in range(1, 7):
        log.rename(f"{log}.{10 - number}")
        log.write_bytes(b"%d\n" % number)
        os.utime(log, (number + 2_000_000_000, number + 2_000_000_000))
    read_until(log, kept, [b"0", b"4", b"5", b"6"])
    assert "rotated faster than it can be read" in caplog.text


def test_old_files_are_closed(log: Path) -> None:
    """A rotated file is let go when it is quiet, a deleted one too, so that the disk gets its space back."""
    kept = Kept()
    log.write_bytes(b"one\n")
    before = open_files()
    with running(FileSource("log", [f"{log}*"], {}, quiet_after=0.05, poll_every=0.02), kept) as run:
        kept.wait_for([b"one"])
        one_open = open_files()
        log.rename(f"{log}.1")
        log.write_bytes(b"two\n")
        wait_until(lambda: len(kept.lines()) == 2 and open_files() == one_open, 10, "one file open")
        log.unlink()
        wait_until(lambda: open_files() == one_open - 1, 10, "no file open")
        wait_until(lambda: not run.status().origins, 10, "nothing followed")
        log.write_bytes(b"three\n")
        kept.wait_for([b"one", b"two", b"three"])
    assert open_files() == before


@pytest.mark.parametrize("quiet_after", [0.02, 60])
def test_a_symlink_turned_back(log: Path, quiet_after: float) -> None:
    """A file read before is continued, not begun anew, when the path leads to it again, also if it was closed."""
    kept, written = Kept(), list[bytes]()
    files = [log.with_name("even"), log.with_name("odd")]
    log.symlink_to(files[0])
    with running(FileSource("log", [str(log)], {}, poll_every=0.02, quiet_after=quiet_after), kept) as run:
        run.wait_for_complaint("is not there")
        one_open = open_files() + 1
        for number in range(8):
            append(files[number % 2], b"%d\n" % number)
            log.unlink()
            log.symlink_to(files[number % 2])
            written.append(b"%d" % number)
            kept.wait_for(written)
            wait_until(lambda: quiet_after > 1 or open_files() == one_open, 10, "one file open")


@pytest.mark.parametrize(
    "position", ["no json", "{}", "[[1]]", '[["1",0,"",false]]', '[[1,-1,"",false]]', "[" * 100_000]
)
def test_a_damaged_position_is_none(log: Path, caplog: pytest.LogCaptureFixture, position: str) -> None:
    """A position that is none is reported, and the file read from its beginning."""
    kept = Kept()
    kept.positions[str(log)] = position
    log.write_bytes(b"one\n")
    read_until(log, kept, [b"one"])
    assert "is damaged" in caplog.text


def test_a_position_kept_by_an_earlier_version_is_carried_over(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A position of marks alone, without the digest of the first line, is continued like any other."""
    kept = Kept()
    log.write_bytes(b"one\n")
    read_until(log, kept, [b"one"])
    marks = [mark[:4] for mark in json.loads(kept.positions[str(log)])["marks"]]
    kept.positions[str(log)] = json.dumps(marks)
    append(log, b"two\n")
    read_until(log, kept, [b"one", b"two"])
    assert "is damaged" not in caplog.text


def test_what_was_lost_is_said(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file read last is gone after a restart, the log says that lines may have been missed."""
    kept = Kept()
    log.write_bytes(b"one\n")
    read_until(log, kept, [b"one"])
    log.unlink()
    log.write_bytes(b"two\n")
    read_until(log, kept, [b"one", b"two"])
    assert "lines at its end may have been missed" in caplog.text
