"""The lock of a table: who has a seat, whose flags count, and whose do not."""

import mmap
import os
import signal
from collections.abc import Generator, Sequence
from pathlib import Path
from threading import Semaphore

import pytest

from appguard.stores import table_lock
from appguard.stores.table_lock import FLAGS, FLAGS_AT, SEATS, TableLock

NOBODY = bytes(SEATS)


class Party:
    """Some who share a lock, each with the file opened for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self.flags = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._joined: list[TableLock] = []

    def join(self) -> TableLock:
        """Give the lock to one more."""
        lock = TableLock(os.open(self._path, os.O_RDWR))
        self._joined.append(lock)

        def join() -> bool:
            lock.join(mmap.mmap(lock.file, mmap.PAGESIZE))
            return True

        assert lock.do(0.0, join)
        return lock

    def leave(self, lock: TableLock) -> None:
        """Let one end, and with it all that keeps the file open."""
        self._joined.remove(lock)
        assert isinstance(lock.flags, mmap.mmap)
        lock.flags.close()
        os.close(lock.file)

    def close(self) -> None:
        """Let all end."""
        for lock in [*self._joined]:
            self.leave(lock)


@pytest.fixture
def party(tmp_path: Path) -> Generator[Party]:
    """Give a party of nobody yet."""
    found = Party(tmp_path / "table")
    yield found
    found.close()


def place_of(lock: TableLock) -> int:
    """Give the place of its flag."""
    assert lock.quick is not None
    return lock.quick[1]


def up(party: Party) -> Sequence[int]:
    """Give the places of the flags that are up."""
    return [place for place in range(FLAGS_AT, FLAGS.stop) if party.flags[place]]


def test_everybody_has_a_seat_of_his_own_while_there_are_any(party: Party) -> None:
    """Who comes when all are taken has none; a seat that was left is given to the next."""
    seated = [party.join() for _ in range(SEATS - 1)]
    assert [place_of(lock) for lock in seated] == [FLAGS_AT + seat for seat in range(1, SEATS)]
    for lock in seated:
        assert lock.quick is not None
        party.flags[place_of(lock)] = 1
        assert party.flags[FLAGS] == lock.quick[3]
        party.flags[place_of(lock)] = 0
    late = party.join()
    assert late.quick is None and late.do(0.0, lambda: up(party)) == [FLAGS_AT]
    left = place_of(seated[20])
    party.leave(seated[20])
    assert place_of(party.join()) == left
    assert party.join().quick is None


def test_the_slow_way_is_shut_while_a_flag_of_the_living_is_up(party: Party) -> None:
    """Who goes it waits, and leaves nothing behind if the flag stays up."""
    one, other = party.join(), party.join()
    party.flags[place_of(one)] = 1
    assert other.do(0.05, lambda: up(party)) is None
    assert up(party) == [place_of(one)]
    party.flags[place_of(one)] = 0
    assert other.do(0.0, lambda: up(party)) == [FLAGS_AT]
    assert up(party) == []


def test_flags_of_the_dead_are_lowered(party: Party) -> None:
    """All at once, and none of the living; those who sit down later find theirs lowered too."""
    dead = [party.join() for _ in range(3)]
    one = party.join()
    for lock in dead:
        party.flags[place_of(lock)] = 1
        party.leave(lock)
    assert one.do(0.0, lambda: up(party)) == [FLAGS_AT]
    party.flags[place_of(dead[0])] = 1
    assert place_of(party.join()) == place_of(dead[0])
    assert up(party) == []


def test_the_flag_of_a_dead_holder_of_the_file_is_lowered_by_the_next(party: Party) -> None:
    """Nobody takes the quick way until then."""
    one = party.join()
    party.flags[FLAGS_AT] = 1
    assert one.quick is not None and party.flags[FLAGS] != one.quick[3]
    assert one.do(0.0, lambda: up(party)) == [FLAGS_AT]
    assert party.flags[FLAGS] == NOBODY


def test_one_at_a_time_goes_the_slow_way(party: Party) -> None:
    """Also if his work fails it is free afterwards."""
    one, other = party.join(), party.join()
    assert one.do(0.0, lambda: (other.do(0.0, lambda: up(party)), up(party))) == (None, [FLAGS_AT])
    with pytest.raises(ZeroDivisionError):
        one.do(0.0, lambda: divmod(1, 0))
    assert other.do(0.0, lambda: divmod(7, 4)) == (1, 3)


def test_nobody_loses_his_seat_by_his_own_flag(party: Party) -> None:
    """Though to the kernel what he has himself is free for him."""
    one = party.join()
    party.flags[place_of(one)] = 1
    assert one.do(0.0, lambda: up(party)) is None
    assert place_of(party.join()) != place_of(one)


@pytest.mark.parametrize("what", ["ORDERLY", "Lock"])
def test_without_a_fence_everybody_goes_the_slow_way(party: Party, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """On a processor that may put off what it stores, or where locks of threads are something else than Python's."""
    monkeypatch.setattr(table_lock, what, () if what == "ORDERLY" else Semaphore)
    one, other = party.join(), party.join()
    assert one.quick is other.quick is None
    assert one.do(0.0, lambda: (other.do(0.0, lambda: up(party)), up(party))) == (None, [FLAGS_AT])
    assert other.do(0.0, lambda: up(party)) == [FLAGS_AT]


def test_exceptions_of_signal_handlers_are_not_taken_for_answers_of_the_kernel(party: Party) -> None:
    """A `TimeoutError` is an `OSError`; it comes out, and nothing of the lock is left taken."""
    one, other = party.join(), party.join()
    party.flags[place_of(other)] = 1

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for number in range(300):
            with pytest.raises(TimeoutError):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number))
                one.do(1.0, lambda: up(party))
    finally:
        signal.signal(signal.SIGALRM, before)
    party.flags[place_of(other)] = 0
    assert other.do(0.0, lambda: up(party)) == [FLAGS_AT]
