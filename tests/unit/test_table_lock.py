"""The lock of a table: who has a seat, whose flags count, and whose do not."""

import mmap
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

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
        assert lock.do(0.0, lock.join, mmap.mmap(lock.file, mmap.PAGESIZE)) is None
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


def up(party: Party) -> Sequence[int]:
    """Give the places of the flags that are up."""
    return [place for place in range(FLAGS_AT, FLAGS.stop) if party.flags[place]]


def test_everybody_has_a_seat_of_his_own_while_there_are_any(party: Party) -> None:
    """Who comes when all are taken has none; a seat that was left is given to the next."""
    seated = [party.join() for _ in range(SEATS - 1)]
    assert [lock.mine for lock in seated] == [FLAGS_AT + seat for seat in range(1, SEATS)]
    assert all(lock.has_seat and lock.alone[lock.mine - FLAGS_AT] == sum(lock.alone) == 1 for lock in seated)
    late = party.join()
    assert not late.has_seat and late.do(0.0, up, party) == [FLAGS_AT]
    left = seated[20]
    party.leave(left)
    assert party.join().mine == left.mine
    assert not party.join().has_seat


def test_the_slow_way_is_shut_while_a_flag_of_the_living_is_up(party: Party) -> None:
    """Who goes it waits, and leaves nothing behind if the flag stays up."""
    one, other = party.join(), party.join()
    party.flags[one.mine] = 1
    assert other.do(0.05, up, party) is None
    assert up(party) == [one.mine]
    party.flags[one.mine] = 0
    assert other.do(0.0, up, party) == [FLAGS_AT]
    assert up(party) == []


def test_flags_of_the_dead_are_lowered(party: Party) -> None:
    """All at once, and none of the living; those who sit down later find theirs lowered too."""
    dead = [party.join() for _ in range(3)]
    one = party.join()
    for lock in dead:
        party.flags[lock.mine] = 1
        party.leave(lock)
    assert one.do(0.0, up, party) == [FLAGS_AT]
    party.flags[dead[0].mine] = 1
    assert party.join().mine == dead[0].mine
    assert up(party) == []


def test_the_flag_of_a_dead_holder_of_the_file_is_lowered_by_the_next(party: Party) -> None:
    """Nobody takes the quick way until then."""
    one = party.join()
    party.flags[FLAGS_AT] = 1
    assert party.flags[FLAGS] != one.alone
    assert one.do(0.0, up, party) == [FLAGS_AT]
    assert party.flags[FLAGS] == NOBODY


def test_one_at_a_time_goes_the_slow_way(party: Party) -> None:
    """Also if his work fails it is free afterwards."""
    one, other = party.join(), party.join()
    assert one.do(0.0, lambda: (other.do(0.0, up, party), up(party))) == (None, [FLAGS_AT])
    with pytest.raises(ZeroDivisionError):
        one.do(0.0, divmod, 1, 0)
    assert other.do(0.0, divmod, 7, 4) == (1, 3)
