"""`copytruncate` at every point of a reader's life: what a file still holds is delivered, and nothing twice."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.reading import Kept, ReadBySteps
from tests.lab import wait_until

LINE = b"%06d and what else there is to be said of it, which is all the same for each of them"


class Copied:
    """A log that is written and rotated at exact points, and its reader, that goes on only when told to."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.kept = Kept()
        self.written: list[bytes] = []
        self.is_copied = False
        self.write(3)
        self.reader = ReadBySteps(log, self.kept)
        self.reader.read_all(3)

    def write(self, count: int) -> None:
        """Append some lines."""
        lines = [LINE % (len(self.written) + number) for number in range(count)]
        self.written += lines
        with self.log.open("ab") as writer:
            writer.writelines(line + b"\n" for line in lines)

    def copy(self) -> None:
        """Number the old copies up, and make a new one."""
        for number in range(len(list(self.log.parent.iterdir())), 0, -1):
            if Path(f"{self.log}.{number}").exists():
                Path(f"{self.log}.{number}").rename(f"{self.log}.{number + 1}")
        shutil.copy(self.log, f"{self.log}.1")
        self.is_copied = True

    def truncate(self) -> None:
        """Truncate the log, whose copy is made first."""
        if not self.is_copied:
            self.copy()
        os.truncate(self.log, 0)
        self.is_copied = False

    def kill(self) -> None:
        """End the reader, and let another go on from its last position."""
        self.reader.close()
        self.reader.start()

    def on_disk(self) -> list[bytes]:
        """Give the lines that some file still holds."""
        return sorted({line for path in self.log.parent.iterdir() for line in path.read_bytes().splitlines()})

    def finish(self) -> None:
        """Let the reader read all there is, and assert that it has delivered what the disk holds, once."""
        disk = set(self.on_disk())
        wait_until(lambda: not self.reader.read() and disk <= set(self.kept.lines()), 10, self._missing)
        assert len(self.kept.lines()) == len(set(self.kept.lines()))
        assert self.kept.lines() == sorted(self.kept.lines())

    def _missing(self) -> str:
        return f"{sorted(set(self.on_disk()) - set(self.kept.lines()))} on the disk, but not delivered"


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    """Give a log of three lines, which are read."""
    (tmp_path / "logs").mkdir()
    found = Copied(tmp_path / "logs" / "access.log")
    with closing(found.reader):
        yield found


@pytest.fixture(params=[False, True], ids=["runs", "killed"])
def interrupt(request: pytest.FixtureRequest, copied: Copied) -> Callable[[], None]:
    """Give what happens to the reader at the worst moment."""
    return copied.kill if request.param else lambda: None


def test_a_generation_between_two_looks(copied: Copied, interrupt: Callable[[], None]) -> None:
    """Lines that came after one truncation and went with the next, all before the reader looked again, are read."""
    copied.truncate()
    interrupt()
    copied.reader.read()  # it begins the log anew, which is empty
    copied.write(5)
    copied.truncate()
    copied.write(1)
    copied.finish()
    assert copied.kept.lines() == copied.written


def test_a_line_read_between_copy_and_truncation(copied: Copied, interrupt: Callable[[], None]) -> None:
    """A copy that lacks the last line read is known for what it is, so that the copies after it are found."""
    copied.copy()
    copied.write(1)
    copied.reader.read_all(4)
    copied.truncate()
    copied.write(5)
    interrupt()
    copied.truncate()
    copied.write(1)
    copied.finish()
    assert copied.kept.lines() == copied.written


@pytest.mark.parametrize("grows", [0, 2])
def test_started_between_copy_and_truncation(copied: Copied, grows: int) -> None:
    """A copy just made, of a log that was not begun yet, is not read beside the log; but if the log is lost first."""
    copied.truncate()
    copied.write(5)
    copied.copy()
    copied.kill()
    copied.reader.read_all(8)
    copied.write(grows)
    copied.reader.read_all(8 + grows)
    copied.truncate()
    copied.write(1)
    copied.finish()
    assert copied.kept.lines() == copied.written


def test_a_copy_known_only_after_the_truncation(copied: Copied) -> None:
    """A copy passed over for being one of the log itself is read if the log is truncated before it was read."""
    copied.truncate()
    copied.write(5)
    copied.copy()
    copied.reader.read()  # it begins the log anew, and sees its first lines
    copied.truncate()
    copied.write(1)
    copied.finish()
    assert copied.kept.lines() == copied.written


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_events(copied: Copied, seed: int) -> None:
    """Whatever is written, copied, truncated, read and killed in whatever order, what the disk holds comes once."""
    copied.reader.most = 1000  # so that it is killed in the middle of files
    chance = random.Random(seed)
    events: list[Callable[[], object]] = [
        *[lambda: copied.write(chance.randint(1, 12))] * 3,
        *[copied.reader.read] * 5,
        lambda: [copied.reader.read() for _ in range(10)],
        lambda: None if copied.is_copied else copied.copy(),
        *[copied.truncate] * 2,
        copied.kill,
        lambda: time.sleep(0.005),  # the clock of the file system goes on
    ]
    for _ in range(60):
        chance.choice(events)()
    if copied.is_copied:
        copied.truncate()
    copied.write(2)
    copied.finish()


def test_a_file_truncated_before_its_first_byte_was_read(tmp_path: Path) -> None:
    """What copytruncate takes from a log whose older files still come first is read from the copy."""
    log, kept, first = tmp_path / "access.log", Kept(), [b"a%06d" % number for number in range(200_000)]
    log.write_bytes(b"\n".join(first) + b"\n")
    with closing(ReadBySteps(log, kept)) as steps:
        steps.most = 100_000
        steps.read()
        log.rename(f"{log}.1")
        log.write_bytes(b"b\n")
        steps.read()
        Path(f"{log}.1").rename(f"{log}.2")
        shutil.copy(log, f"{log}.1")
        os.truncate(log, 0)
        log.write_bytes(b"c, which is longer\n")
        assert 0 < len(kept.lines()) < len(first)
        steps.read_all(len(first) + 2)
    assert kept.lines() == [*first, b"b", b"c, which is longer"]
