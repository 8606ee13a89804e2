"""The published bans as a reader keeps them: of each host, where in the file its newest line begins.

Theory of operation. The file is kept open, so the lines stay where they are as long as this table does, also when the
daemon has put another file in its place. So a host costs no object but 15 bytes: a slot of four bytes in an open hash
table says where its line begins, with seven slots for every four hosts; and of a filter, eight bytes for every
host, one holds its mark, seven bits of its hash, or says that several hosts meet there. Of the addresses that are not
banned all but one in a hundred are told by that byte; for the others a line is read. Networks that are no hosts are
few, and are kept as bans.

Python's hash of texts differs in every process, so nobody can choose addresses that meet in one slot.
"""

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from appguard.address import Address, NetworkMap, code_of, codes_of
from appguard.ban import Ban
from appguard.stores.fact_lines import LINE_MOST, parse_fact

PIECE = 1 << 20
MARKS_PER_LINE = 8
SLOTS_PER_LINE = 1.75
LINES_SPARE = 1_000  # for what is appended while there are few lines
CROWDED, FULL = 0.8, 0.9  # parts of the slots
SEVERAL = 1  # no mark, but the sign that hosts with different marks meet
OFFSET_MOST = 2**32 - 2 * PIECE  # places have four bytes
MADE_MOST = 4_096  # clients that ask again and again
_KEY = re.compile(rb"^[+-]\t([^\t\n]*)", re.MULTILINE)


class PublishedTable:
    """What stands in one published file, which is closed when this table goes; -1 for nothing.

    `read_on` is called by one thread at a time, `find` by any. Raises `OSError` if the file cannot be
    read. `inode` is what the file is known by.
    """

    def __init__(self, file: int = -1) -> None:
        self.file = file
        self.inode = inode_of(os.fstat(file)) if file >= 0 else (0, 0)
        self._offset = 0  # of the first line that was not whole
        self._rest = b""
        lines = self._count_lines() + LINES_SPARE
        self.width, self._size = MARKS_PER_LINE * lines, int(SLOTS_PER_LINE * lines)
        self.marks = bytearray(self.width)
        self._places = array("I", [0]) * self._size
        self._used = 0
        self._made: dict[str, tuple[int, int, Ban | None]] = {}  # slot, place and what is told there
        self._networks: NetworkMap[Ban] = NetworkMap()
        self.version_at_most = 4  # of addresses about which an empty slot says all: none while there are networks
        self.lifts = 0

    def _count_lines(self) -> int:
        lines = offset = 0
        while data := self._read(offset):
            offset += len(data)
            lines += data.count(b"\n")
        return lines

    def _read(self, offset: int) -> bytes:
        return os.pread(self.file, PIECE, offset) if self.file >= 0 else b""

    @property
    def is_crowded(self) -> bool:
        """Say whether so much was appended that the file should be read anew."""
        return self._used > self._size * CROWDED

    def read_on(self) -> None:
        """Take over what is new in the file, as far as its lines are whole; one that is no fact is passed over."""
        while (data := self._read(self._offset + len(self._rest))) and self._offset < OFFSET_MOST:
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            self._take(data[:end])
            self._offset += end
            self._rest = data[end:]

    def _take(self, block: bytes) -> None:
        lines = block.split(b"\n")[:-1]
        found = _KEY.findall(block)
        if len(found) < len(lines):  # as where the file begins
            found = [key[1] if (key := _KEY.match(line)) else b"" for line in lines]
        keys = b"\n".join(found).decode("latin-1").split("\n")
        places = accumulate(map((1).__add__, map(len, lines)), initial=self._offset)
        self._take_keys(keys, places)
        self.lifts += block.count(b"\n-\t") + block.startswith(b"-\t")

    def _take_keys(self, keys: Sequence[str], places: Iterable[int]) -> None:
        """Note where the newest line of each key begins."""
        marks, slots, width, size = self.marks, self._places, self.width, self._size
        used, most = self._used, self._size * FULL
        for key, code, place in zip(keys, codes_of(keys), places, strict=False):
            if "/" in key and not key.endswith("/64"):
                self._take_network(place)
                continue
            where, mark = code % width, code >> 23 | 128
            found = marks[where]
            slot = self._slot_of(key, code) if found and found in (mark, SEVERAL) else -1
            if slot < 0:
                if not key or used >= most:
                    continue
                used += 1
                slot = code % size
                while slots[slot]:
                    slot = (slot + 1) % size
            slots[slot] = place  # before the mark: another thread may be looking
            marks[where] = SEVERAL if found and found != mark else mark
        self._used = used

    def _slot_of(self, key: str, code: int) -> int:
        """Give the slot of a host, -1 if it has none."""
        slot = code % self._size
        while place := self._places[slot]:
            if self._key_at(place) == key:
                return slot
            slot = (slot + 1) % self._size
        return -1

    def _take_network(self, place: int) -> None:
        fact = parse_fact(self._line_at(place))
        if fact is not None and fact.ban is not None:
            self._networks.add(fact.network, fact.ban)
        elif fact is not None:
            self._networks.remove(fact.network)
        self.version_at_most = 0 if self._networks else 4

    def find(self, address: Address, now: float) -> Ban | None:
        """Give the ban in force that holds the address."""
        ban = self._host(address.text, address.code)
        if ban is not None and ban.in_force(now):
            return ban
        if address.version <= self.version_at_most:
            return None
        ban = self._host(address.slash64, code_of(address.slash64)) if address.version == 6 else None
        if ban is not None and ban.in_force(now):
            return ban
        return next((ban for ban in self._networks.holding(address) if ban.in_force(now)), None)

    def _host(self, key: str, code: int) -> Ban | None:
        made = self._made.get(key)
        if made is not None and self._places[made[0]] == made[1]:
            return made[2]
        if self.marks[code % self.width] not in (SEVERAL, code >> 23 | 128):
            return None
        slot = self._slot_of(key, code)
        if slot < 0:
            return None
        place = self._places[slot]
        ban = self._ban_at(place)
        if len(self._made) >= MADE_MOST:
            self._made = {}
        self._made[key] = slot, place, ban
        return ban

    def _ban_at(self, place: int) -> Ban | None:
        fact = parse_fact(self._line_at(place))
        return fact.ban if fact else None

    def _key_at(self, place: int) -> str:
        return self._line_at(place).partition(b"\t")[2].partition(b"\t")[0].decode("latin-1")

    def _line_at(self, place: int) -> bytes:
        try:
            found = os.pread(self.file, LINE_MOST, place) if self.file >= 0 else b""
        except OSError:  # in memory (`/run`) it cannot fail; what cannot be read bans nobody
            return b""
        return found.partition(b"\n")[0]

    def __iter__(self) -> Iterator[Ban]:
        places = sorted(filter(None, self._places))
        yield from (ban for ban in map(self._ban_at, places) if ban is not None)
        yield from (ban for _, ban in self._networks)

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


def inode_of(status: os.stat_result) -> tuple[int, int]:
    """Give what a file is known by while it is open somewhere."""
    return status.st_dev, status.st_ino
