"""One generation of a log: a file it is or was written to, and how far that file has been read.

How far is an offset and the *seam*, the bytes right before it. Every read begins at the seam and is good only if the
seam is still there: a file that was truncated and written anew shows at once, also where it has already grown past the
offset. As long as nothing was read, because older files come first, the *head*, the first bytes there were, takes its
place. Across a restart the seam is kept as a digest, which tells a reused inode from the file that had it before, and
finds a file again that was renamed or copied meanwhile.
"""

import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from appguard.sources.base import LINE_MOST, Block
from appguard.sources.lines import split, trim

CHUNK_BYTES = 512 * 1024  # what is read at once, at most
SEAM_BYTES = 256
READ_LEAST = 2 * LINE_MOST  # so that one read has the seam and any line
HEAD_BYTES = 256  # by which a copy made before the last lines were read is known
MARKS_MOST = 64

_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: every chunk has a position


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a generation was read, as kept across a restart.

    `is_cut`: the offset is inside a line whose beginning was delivered. `head`: a digest of the first line.
    """

    inode: int
    offset: int = 0
    digest: str = ""
    is_cut: bool = False
    head: str = ""

    def is_of(self, descriptor: int) -> bool:
        """Say whether a file has the inode it was made in."""
        return os.fstat(descriptor).st_ino == self.inode

    def fits(self, descriptor: int) -> bool:
        """Say whether a file holds what was read, up to the offset."""
        return _digest(_seam(descriptor, self.offset)) == self.digest

    def outgrew(self, descriptor: int) -> bool:
        """Say whether a file is a copy that was made before all of this was written, and so holds nothing new."""
        is_shorter = os.fstat(descriptor).st_size < self.offset
        return is_shorter and _digest(_head(_seam(descriptor, HEAD_BYTES))) == self.head != ""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log was read, as kept across a restart: the marks of its generations, oldest first.

    Of those without a mark, the ones last written before `since_ns` are not to be read; None: it is not known. `owner`
    is the id of the user whose files they are; -1: it is not known.
    """

    marks: Sequence[Mark] = ()
    since_ns: int | None = None
    owner: int = -1


def position_text(position: Position) -> str:
    """Write the position of a chunk."""
    marks = [(mark.inode, mark.offset, mark.digest, mark.is_cut, mark.head) for mark in position.marks]
    return _encode({"marks": marks, "since_ns": position.since_ns, "owner": position.owner})


def parse_position(text: str) -> Position:
    """Read what `position_text` wrote, now or in an earlier version; raise `ValueError` for anything else."""
    found: object = json.loads(text)
    if not isinstance(found, dict):
        return Position(_marks(found))
    match cast("dict[str, object]", found):
        case {"marks": marks, "since_ns": int() | None as since_ns, "owner": int(owner)}:
            return Position(_marks(marks), since_ns, owner)
        case _:
            raise ValueError("not a position")


def _marks(found: object) -> list[Mark]:
    if not isinstance(found, list):
        raise ValueError("not a list")
    return [_mark(item) for item in cast("list[object]", found)[-MARKS_MOST:]]


def _mark(item: object) -> Mark:
    match item:
        case [int(inode), int(offset), str(digest), bool(is_cut), str(head)] if 0 <= offset < 2**63:
            return Mark(inode, offset, digest, is_cut, head)
        case [int(), int(), str(), bool()]:
            return _mark([*item, ""])  # as earlier versions kept it
        case _:
            raise ValueError(f"{item!r} is not a mark")


def _seam(descriptor: int, offset: int) -> bytes:
    start = max(0, offset - SEAM_BYTES)
    with suppress(OSError):  # a bad disk: then it fits nothing
        return os.pread(descriptor, offset - start, start)
    return b""


def _head(data: bytes) -> bytes:
    return data[:HEAD_BYTES].partition(b"\n")[0]


def _digest(seam: bytes) -> str:
    return blake2b(seam, digest_size=12).hexdigest() if seam else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading stands in an open file."""

    offset: int = 0
    seam: bytes = b""
    is_cut: bool = False
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class Reading:
    """Whole lines read, and the place behind them. No lines: only bytes that were passed over."""

    lines: Block
    place: Place


class _ReadInto(threading.local):
    """What all files of a thread are read into: memory that is new for each read costs twice as much as the read."""

    def __init__(self) -> None:
        self.buffer = bytearray(CHUNK_BYTES)
        self.view = memoryview(self.buffer)


_read_into = _ReadInto()

TRUNCATED = Reading(Block(), Place())  # what was read before is gone


class Generation:
    """An open file of a log. It owns the descriptor; `place` is where the next read begins.

    `is_proven`: that no lines came before its first that only a copy holds now.
    """

    def __init__(self, descriptor: int, mark: Mark | None = None, now: float = 0.0) -> None:
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.owner = status.st_uid
        self.place = Place()
        self.moved_at = now
        self.complaint = ""
        self.is_proven = False
        self.begun_ns = status.st_mtime_ns  # a copy of what is lost before it was read is younger
        self._head = b""
        self._descriptor = descriptor
        if mark:
            self.resume(mark)

    def resume(self, mark: Mark) -> None:
        """Continue at a mark that fits the file, or outgrew it."""
        offset = min(mark.offset, self.status.st_size)
        head = _head(_seam(self._descriptor, HEAD_BYTES))
        self.place = Place(offset, _seam(self._descriptor, offset), mark.is_cut, head)
        self.is_proven = offset > 0

    def read(self, most: int = CHUNK_BYTES) -> Reading | None:
        """Read the next whole lines; None if there is none yet, `TRUNCATED` if the file lost what was read before.

        They are at most `most` bytes, or one line.
        """
        data = self._data(most)
        if data is None:
            return TRUNCATED
        found = split(data, self.place.is_cut)
        return (
            Reading(found.lines, self._behind_bytes(data[: found.consumed], found.is_cut)) if found.consumed else None
        )

    def note_head(self) -> None:
        """Remember the first bytes, to notice if they are lost before they were read."""
        if not self.place.offset and not self._head:
            with suppress(OSError):  # a bad disk: reading will say so
                self._head = os.pread(self._descriptor, SEAM_BYTES, 0)

    def begin_anew(self) -> None:
        """Read a truncated file from its beginning."""
        self.place, self._head, self.is_proven = Place(), b"", False
        self.begun_ns = self.status.st_mtime_ns

    def rest(self) -> Reading | None:
        """Read the line that was never ended, once nobody writes to the file any more."""
        data = self._data()
        return Reading(Block.of([trim(data)]), self._behind_bytes(data, is_cut=False)) if data else None

    def _data(self, most: int = CHUNK_BYTES) -> bytes | None:
        """Give what follows the seam, up to a line's end if there is one; None if the seam is gone."""
        seam, buffer = self.place.seam, _read_into.buffer
        wanted = _read_into.view[: max(most, READ_LEAST)]
        try:
            size = os.preadv(self._descriptor, [wanted], self.place.offset - len(seam))
        except OSError as error:
            self.complaint = f"cannot be read: {error.strerror}"
            return b""
        self.complaint = ""
        if not buffer.startswith(seam or self._head, 0, size):
            return None
        last = min(size, len(seam) + most)
        end = buffer.rfind(b"\n", len(seam), last) + 1 or buffer.find(b"\n", last, size) + 1 or size
        return _read_into.view[len(seam) : end].tobytes()

    def _behind_bytes(self, data: bytes, is_cut: bool) -> Place:
        self._head = b""
        seam = (self.place.seam + data[-SEAM_BYTES:])[-SEAM_BYTES:]
        head = self.place.head if self.place.offset else _head(data)
        return Place(self.place.offset + len(data), seam, is_cut, head)

    @property
    def mark(self) -> Mark:
        """Give how far the file was read, to be kept."""
        place = self.place
        return Mark(self.identity[1], place.offset, _digest(place.seam), place.is_cut, _digest(place.head))

    @property
    def status(self) -> os.stat_result:
        """Give what the system says of the file now."""
        return os.fstat(self._descriptor)

    @property
    def behind(self) -> int:
        """Give the number of bytes not yet read."""
        return max(0, self.status.st_size - self.place.offset)

    def holds(self, mark: Mark) -> bool:
        """Say whether this is the file of a mark."""
        return mark.inode == self.identity[1] and mark.fits(self._descriptor)

    def copies(self, mark: Mark) -> bool:
        """Say whether this is a copy of the file of a mark."""
        return mark.offset > 0 and mark.fits(self._descriptor)

    def begins_with(self, other: "Generation") -> bool:
        """Say whether another file is this one, or a copy of it, perhaps still being made."""
        size = other.status.st_size
        ends = (min(size, SEAM_BYTES), size)
        is_copy = all(_seam(self._descriptor, end) == _seam(other._descriptor, end) for end in ends)
        return self.identity == other.identity or (size > 0 and is_copy)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
