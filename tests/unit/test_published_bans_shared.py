"""The published bans between many: hostile apps, threads, and forks in the middle of reading."""

import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import cast

import pytest

from appguard.address import parse_address
from appguard.stores.fact_lines import fact_line
from appguard.stores.local import AT_ONCE_MOST, COMPACT_AT_LEAST, RECHECK, PublishedBans, Publisher
from appguard.stores.published_table import PublishedTable
from tests.forked import forked
from tests.lab import has_user, wait_until
from tests.published import STRANGER, Reader, ban_of, fact_of, nothing_else

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")


def attack(directory: Path) -> dict[str, bool]:
    """Do to the daemon's files whatever an app's user may try; give what succeeded."""
    bans, word = directory / "bans", directory / "bans.seq"
    reading = [os.open(path, os.O_RDONLY) for path in (bans, word)]
    attempts: dict[str, Callable[[], object]] = {
        "write bans": lambda: os.open(bans, os.O_WRONLY | os.O_APPEND),
        "write word": lambda: os.open(word, os.O_RDWR),
        "truncate bans": lambda: os.truncate(bans, 0),
        "truncate word": lambda: os.truncate(word, 0),
        "truncate by descriptor": lambda: os.ftruncate(reading[1], 0),
        "write by descriptor": lambda: os.write(reading[1], b"12345678"),
        "reopen for writing": lambda: os.open(f"/proc/self/fd/{reading[1]}", os.O_RDWR),
        "map for writing": lambda: mmap.mmap(reading[1], 8, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "unlink": word.unlink,
        "rename away": lambda: bans.rename(directory / "other"),
        "rename over": lambda: word.rename(bans),
        "symlink": lambda: (directory / "bans.new").symlink_to("/dev/zero"),
        "create": lambda: os.open(directory / "bans.new", os.O_CREAT | os.O_WRONLY),
        "chmod": lambda: bans.chmod(0o666),
        "chmod directory": lambda: directory.chmod(0o777),
        "lease": lambda: fcntl.fcntl(reading[0], fcntl.F_SETLEASE, fcntl.F_RDLCK),
        "lock file against writers": lambda: fcntl.lockf(reading[0], fcntl.LOCK_EX | fcntl.LOCK_NB),
        "flock bans": lambda: fcntl.flock(reading[0], fcntl.LOCK_EX | fcntl.LOCK_NB),
        "flock word": lambda: fcntl.flock(reading[1], fcntl.LOCK_EX | fcntl.LOCK_NB),
    }
    succeeded: dict[str, bool] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            succeeded[name] = True
        except OSError:
            succeeded[name] = False
    return succeeded


@needs_users
def test_hostile_app_changes_nothing_and_delays_nobody(open_tmp_path: Path) -> None:
    """Whatever an app's user does to the files, stopped while it holds locks on them: the daemon and others go on."""
    publisher = Publisher(open_tmp_path)
    publisher.publish_all([ban_of("203.0.113.1")])
    reader = Reader(open_tmp_path)
    assert reader.is_banned("203.0.113.1")
    before = {file.name: file.read_bytes() for file in open_tmp_path.iterdir()}

    with forked(lambda: attack(open_tmp_path), STRANGER) as child:
        succeeded = cast("dict[str, bool]", child.answer())
        assert [name for name, worked in succeeded.items() if worked] == ["flock bans", "flock word"]
        os.kill(child.pid, signal.SIGSTOP)
        assert {file.name: file.read_bytes() for file in open_tmp_path.iterdir()} == before
        publisher.publish([fact_of("203.0.113.5")], nothing_else)
        assert reader.is_banned("203.0.113.5")
        publisher.publish_all([ban_of("203.0.113.6")])
        assert reader.is_banned("203.0.113.6")
        assert not reader.is_banned("203.0.113.5")
    reader.close()
    publisher.close()


def open_files() -> int:
    """Give how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def address_of(number: int) -> str:
    """Give an address for a number."""
    return f"10.0.{number >> 8}.{number & 255}"


def test_many_threads_read_while_bans_stream_in(publisher: Publisher, reader: Reader) -> None:
    """No thread ever misses a ban published before it asked, nor an old one while the files are written anew."""
    in_force = [ban_of("203.0.113.1"), ban_of(address_of(0))]
    publisher.publish_all(in_force)
    published, is_over, asked, missed = [0], threading.Event(), count(), list[str]()

    def read() -> None:
        while not is_over.is_set():
            newest = address_of(published[0])
            missed.extend(each for each in ("203.0.113.1", newest) if not reader.is_banned(each))
            if next(asked) % 100 == 0 and reader.snapshot().bans[0].key != "203.0.113.1":
                missed.append("some of a snapshot")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 3 * COMPACT_AT_LEAST):
            in_force.append(ban_of(address_of(number)))
            publisher.publish([fact_of(address_of(number))], in_force.copy)
            published[0] = number
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert missed == []
    assert next(asked) > 1_000


def test_file_read_anew_is_never_half_there(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """While one thread reads a new file whose word is not raised yet, others still have the bans of the old one."""
    others = b"".join(fact_line(fact_of(address_of(number))) for number in range(5_000))
    publisher.publish_all([ban_of("203.0.113.1")])
    is_over, missed = threading.Event(), list[bool]()

    def read() -> None:
        while not is_over.is_set():
            missed.extend([True] * (not reader.is_banned("203.0.113.1")))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            (tmp_path / "bans.new").write_bytes(others + fact_line(fact_of("203.0.113.1")))
            (tmp_path / "bans.new").replace(tmp_path / "bans")
            reader.monotonic += RECHECK
            assert reader.is_banned("203.0.113.1")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert missed == []


class Waiting(Reader):
    """An app that reads a new file only when it may."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.may_read = threading.Event()
        self.may_read.set()

    def _whole(self) -> PublishedTable:
        self.may_read.wait(10)
        return super()._whole()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_long_new_file_is_read_aside(publisher: Publisher, tmp_path: Path) -> None:
    """Requests go on with the old bans until a long new file is read, also in a child; then its bans count."""
    many = [ban_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(AT_ONCE_MOST // 30)]
    reader = Waiting(tmp_path)
    publisher.publish_all([*many, ban_of("203.0.113.1")])
    publisher.publish([fact_of("203.0.113.2")], nothing_else)
    assert all(map(reader.is_banned, ("203.0.113.1", "203.0.113.2")))
    reader.may_read.clear()
    publisher.publish_all([*many, ban_of("203.0.113.5")])
    lifts = reader.lifts
    for _ in range(3):
        reader.monotonic += RECHECK
        assert [reader.is_banned(f"203.0.113.{last}") for last in (1, 2, 5)] == [True, True, False]
    assert reader.lifts == lifts

    def in_child() -> object:
        before = [reader.is_banned(f"203.0.113.{last}") for last in (1, 5)]
        reader.may_read.set()
        wait_until(lambda: reader.is_banned("203.0.113.5"), 10, "not read in a child")
        return [*before, reader.is_banned("203.0.113.1")]

    with forked(in_child) as child:
        assert child.answer() == [True, False, False]
    reader.may_read.set()
    wait_until(lambda: reader.is_banned("203.0.113.5"), 10, "not read")
    assert [reader.is_banned(f"203.0.113.{last}") for last in (1, 2)] == [False, False]
    assert reader.lifts != lifts
    reader.close()


def test_long_file_read_aside_is_not_taken_after_a_close(publisher: Publisher, tmp_path: Path) -> None:
    """An app that closes its store while a thread reads has no bans of that file, and no file open, afterwards."""
    many = [ban_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(AT_ONCE_MOST // 30)]
    reader = Waiting(tmp_path)
    publisher.publish_all(many)
    assert reader.is_banned("10.0.0.1")
    reader.may_read.clear()
    publisher.publish_all(many)
    assert reader.is_banned("10.0.0.1")
    before = open_files()
    reader.close()
    reader.may_read.set()
    wait_until(lambda: all(thread.name != "appguard-bans" for thread in threading.enumerate()), 10, "still reading")
    assert reader.snapshot().bans[0].key == "10.0.0.0"
    reader.close()
    assert open_files() < before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_in_the_middle_of_reading(publisher: Publisher, reader: Reader) -> None:
    """A child forked while other threads read has all bans, hears of news, and waits for no lock of theirs."""
    publisher.publish_all([ban_of("203.0.113.1")])
    is_over, number = threading.Event(), 0

    def read_anew() -> None:
        while not is_over.is_set():
            reader.monotonic += RECHECK
            reader.snapshot()

    def ask() -> object:
        return [reader.is_banned("203.0.113.1"), reader.is_banned(address_of(number)), reader.is_banned("203.0.113.9")]

    threads = [threading.Thread(target=read_anew) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            publisher.publish([fact_of(address_of(number))], nothing_else)
            with forked(ask) as child:
                assert child.answer() == [True, True, False]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_child_and_parent_read_on_by_themselves(publisher: Publisher, reader: Reader) -> None:
    """After a fork both hear of news, and one that closes its store takes nothing from the other."""
    publisher.publish_all([ban_of("203.0.113.1")])
    assert reader.is_banned("203.0.113.1")
    reading, writing = os.pipe()

    def ask() -> object:
        os.read(reading, 1)
        answers = [reader.is_banned("203.0.113.5"), reader.is_banned("203.0.113.1")]
        reader.close()
        return answers

    with forked(ask) as child:
        publisher.publish([fact_of("203.0.113.5")], nothing_else)
        os.write(writing, b"x")
        assert child.answer() == [True, True]
        assert reader.is_banned("203.0.113.5")
        publisher.publish([fact_of("203.0.113.6")], nothing_else)
        assert reader.is_banned("203.0.113.6")
    os.close(reading)
    os.close(writing)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Neither writing anew nor reading anew leaves files open, and closing leaves none."""
    before = open_files()
    publisher, reader = Publisher(tmp_path), Reader(tmp_path)
    for _ in range(20):
        publisher.publish_all([ban_of("203.0.113.5")])
        assert reader.is_banned("203.0.113.5")
    assert open_files() == before + 4  # `bans` and `bans.seq` on each side
    reader.close()
    publisher.close()
    assert open_files() == before
    forgotten = PublishedBans(tmp_path)
    assert forgotten.get(parse_address("203.0.113.5")) is not None
    del forgotten
    assert open_files() == before


@needs_users
def test_many_users_read_while_bans_stream_in(open_tmp_path: Path) -> None:
    """Apps of six users each see every ban, through all new files, and none sees a ban that there never was."""
    bans = 3 * COMPACT_AT_LEAST
    publisher = Publisher(open_tmp_path)
    in_force = [ban_of("203.0.113.1")]
    publisher.publish_all(in_force)

    def address_of(number: int) -> str:
        return f"10.0.{number >> 8}.{number & 255}"

    def read() -> int:
        reader = PublishedBans(open_tmp_path)
        number = 0
        while number < bans:  # the test gives up sooner, should a ban never be seen
            assert reader.get(parse_address("203.0.113.1")) is not None
            assert reader.get(parse_address("10.9.9.9")) is None
            while number < bans and reader.get(parse_address(address_of(number))) is not None:
                number += 1
        return number

    with ExitStack() as stack:
        apps = [stack.enter_context(forked(read, uid)) for uid in range(STRANGER - 6, STRANGER)]
        for number in range(bans):
            in_force.append(ban_of(address_of(number)))
            publisher.publish([fact_of(address_of(number))], in_force.copy)
        assert [app.answer() for app in apps] == [bans] * 6
    publisher.close()
