"""The file source and restarts: what was written and rotated before anything was saved, or has no successor yet."""

import json
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from appguard.sources.file import QUIET_AFTER, FileSource
from appguard.sources.generation import Mark
from appguard.sources.siblings import Siblings
from appguard.sources.tail import DONE_MOST, OPEN_MOST
from tests.integration.reading import Kept, running
from tests.lab import wait_until

SOON = 0.02


class Log:
    """A log that is written while nobody reads, and rotated by hand. Its source is a path or a glob."""

    def __init__(self, directory: Path, pattern: str) -> None:
        self.path = directory / "app.log"
        self.kept = Kept()
        self.written: list[bytes] = []
        self.quiet_after = QUIET_AFTER
        self._pattern = str(directory / pattern)

    def write(self, count: int, path: Path | None = None) -> None:
        """Write some lines to the log or to one of its earlier files."""
        lines = [b"line %d" % number for number in range(len(self.written), len(self.written) + count)]
        self.written += lines
        with (path or self.path).open("ab") as log:
            log.writelines(line + b"\n" for line in lines)

    def old(self, number: int) -> Path:
        """Give the path of an earlier file."""
        return Path(f"{self.path}.{number}")

    def shift(self) -> None:
        """Number the old files up, and put the log in place of the first; make no new one."""
        for number in range(99, 0, -1):
            if self.old(number).exists():
                self.old(number).rename(self.old(number + 1))
        self.path.rename(self.old(1))

    @contextmanager
    def read(self) -> Generator[None]:
        """Read from where the last chunk that was kept ended."""
        positions = self.kept.positions
        source = FileSource("files", [self._pattern], positions, poll_every=SOON, quiet_after=self.quiet_after)
        with running(source, self.kept):
            yield

    def read_all(self) -> None:
        """Read until all that was ever written is there, once and in order."""
        with self.read():
            self.kept.wait_for(self.written)

    def begin(self) -> None:
        """Run the source once, with no log there."""
        with self.read():
            wait_until(lambda: self.kept.positions, 10, "something kept")


@pytest.fixture(params=["app.log", "*.log"], ids=["path", "glob"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    """Give a log that is not there yet."""
    return Log(tmp_path, str(request.param))


def test_a_renamed_log_without_successor_is_read_on(log: Log) -> None:
    """A restart between rename and creation reads what was written until then, and then the successor."""
    log.write(3)
    log.read_all()
    log.write(2)
    log.shift()
    log.read_all()
    log.write(1, log.old(1))
    with log.read():
        log.kept.wait_for(log.written)
        log.write(1, log.old(1))
        log.kept.wait_for(log.written)
        log.write(4)
        log.kept.wait_for(log.written)
    log.read_all()


def test_all_renamed_while_nobody_read(log: Log) -> None:
    """Files that came and went while nobody read are read also where the log itself is not there."""
    log.write(3)
    log.read_all()
    for _ in range(3):
        log.write(2)
        log.shift()
    log.read_all()


def test_many_renamed_while_nobody_read(log: Log) -> None:
    """Of more files than are kept open or remembered each is read once, also when the log comes back or none does."""
    log.write(3)
    log.read_all()
    for _ in range(OPEN_MOST + DONE_MOST + 4):
        log.write(2)
        log.shift()
    log.read_all()
    log.read_all()
    with log.read():
        log.write(1)
        log.kept.wait_for(log.written)


def test_rotated_before_anything_of_it_was_saved(log: Log) -> None:
    """Of a log that came after its source was first followed, earlier files count, however soon it was rotated."""
    log.begin()
    for _ in range(3):
        log.write(2)
        log.shift()
    log.write(1)
    log.read_all()


def test_killed_before_anything_of_it_was_saved(log: Log) -> None:
    """What was read, but not saved when the daemon was killed, is read again although it was rotated meanwhile."""
    log.begin()
    before = dict(log.kept.positions)
    log.write(2)
    log.read_all()
    log.kept.positions = before
    log.kept.chunks.clear()
    log.shift()
    log.write(2)
    log.read_all()


def test_an_unread_file_is_known_by_more_than_the_name_it_had(log: Log) -> None:
    """Files renamed between a look at their names and their opening are not taken for each other."""
    log.write(1)
    log.shift()
    log.write(1)
    siblings = Siblings(str(log.path), os.geteuid())
    unread = Mark(log.old(1).stat().st_ino)
    log.shift()
    found = siblings.find(unread)
    assert found is not None and os.fstat(found).st_ino == unread.inode
    os.close(found)


def test_the_first_time_earlier_files_are_not_read(log: Log) -> None:
    """Files rotated before a source was followed for the first time stay unread, now and later."""
    log.write(2)
    log.shift()
    os.utime(log.old(1), (1, 1))
    log.written.clear()
    log.write(3)
    log.read_all()
    log.write(1)
    log.read_all()
    log.shift()
    log.write(1)
    log.read_all()


def test_what_followed_a_file_that_is_gone(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file read before is gone, those that came after it are read all the same, and its loss is said."""
    log.write(3)
    log.read_all()
    log.shift()
    log.write(2)
    log.shift()
    log.write(1)
    log.old(2).unlink()
    with caplog.at_level(logging.WARNING):
        log.read_all()
    assert "the file read before is gone" in caplog.text


def test_a_late_writer_hides_no_file(log: Log) -> None:
    """A file that came and went is read also if the one before it was written to afterwards."""
    log.write(3)
    log.read_all()
    log.shift()
    log.write(2)
    log.shift()
    early = log.old(2).stat().st_mtime + 1
    os.utime(log.old(1), (early, early))
    late = early + 1
    log.write(1)
    with log.old(2).open("ab") as old:
        old.write(b"late\n")
    os.utime(log.old(2), (late, late))
    with log.read():
        wait_until(lambda: len(log.kept.lines()) > len(log.written), 10, lambda: str(log.kept.lines()))
    assert sorted(log.kept.lines()) == sorted([*log.written, b"late"])


def test_a_file_that_comes_back_is_not_read_again(log: Log) -> None:
    """A log that was moved away and back while the daemon was restarted goes on where it was."""
    log.write(3)
    log.read_all()
    away = log.path.parent.parent / "away"
    log.path.rename(away)
    with log.read():
        pass
    log.begin()
    away.rename(log.path)
    log.write(2)
    log.read_all()


@pytest.mark.parametrize("is_new", [False, True], ids=["vanished", "came again"])
def test_a_log_that_got_the_name_of_another_log(tmp_path: Path, is_new: bool) -> None:
    """A log renamed to what a glob takes for another log, while nobody read, is read on, and by one of them only."""
    log = Log(tmp_path, "*.log")
    other = tmp_path / "b.log"
    log.write(3)
    log.read_all()
    log.path.rename(other)
    log.write(2, other)
    if is_new:
        log.write(1)
    with log.read():
        log.kept.wait_for(log.written)
        log.write(2, other)
        log.kept.wait_for(log.written)
    log.write(2, other)
    log.read_all()


def test_a_file_of_which_two_positions_tell(tmp_path: Path) -> None:
    """A file of which the positions of two logs tell is read on as the log whose name it has."""
    log = Log(tmp_path, "app.log")
    log.write(3)
    log.read_all()
    gone = str(log.path)
    log.path = log.path.rename(log.path.with_name("b.log"))
    log.kept.positions[str(log.path)] = log.kept.positions[gone]
    log.write(2)
    with running(FileSource("files", [str(log.path)], log.kept.positions, poll_every=SOON), log.kept):
        log.kept.wait_for(log.written)
    log.write(2)
    with running(FileSource("files", [str(log.path.with_name("*"))], log.kept.positions, poll_every=SOON), log.kept):
        log.kept.wait_for(log.written)
        log.write(2)
        log.kept.wait_for(log.written)


def test_a_file_that_did_not_stay_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a glob found while others were renamed, and that went before it was read, is no log any more."""
    path, kept = tmp_path / "app.log", Kept()

    def have_changed(_: Siblings) -> bool:
        return True

    with running(FileSource("files", [str(tmp_path / "*.log")], {}, poll_every=SOON), kept) as run:
        with monkeypatch.context() as renamed:
            renamed.setattr(Siblings, "have_changed", have_changed)
            path.write_bytes(b"1\n")
            wait_until(lambda: run.status().origins, 10, "the file found")
            path.unlink()
        wait_until(lambda: run.status().origins == (), 10, lambda: str(run.status()))
    assert kept.lines() == []


def test_a_file_that_became_another_log_while_it_was_read(tmp_path: Path) -> None:
    """A log renamed to what a glob takes for another log is not read again once it is quiet, nor after a restart."""
    log = Log(tmp_path, "*.log")
    log.quiet_after = 5 * SOON
    renamed = [tmp_path / f"b{number}.log" for number in range(3)]
    with log.read():
        for other in renamed:
            log.write(3)
            log.kept.wait_for(log.written)
            log.path.rename(other)
            log.write(1)
            wait_until(partial(log.kept.positions.get, str(other)), 10, "the renamed log kept as its own")
        log.kept.wait_for(log.written)
    for other in renamed:
        log.write(2, other)
        log.read_all()
    log.write(2)
    log.read_all()


def test_an_earlier_position_of_a_renamed_log_is_kept_for_its_successor(tmp_path: Path) -> None:
    """What an earlier version kept does not say whose the files are: an unread one is found when the log is back."""
    log = Log(tmp_path, "app.log")
    log.write(2)
    log.kept.positions[str(log.path)] = json.dumps([[log.path.stat().st_ino, 0, "", False]])
    log.shift()
    with running(FileSource("files", [str(log.path)], log.kept.positions, poll_every=SOON), log.kept) as run:
        run.wait_for_complaint("is not there")
        log.write(1)
        log.kept.wait_for(log.written)
