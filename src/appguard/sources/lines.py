"""Bytes to whole lines, within bounds.

A line longer than `LINE_MOST` is given out as soon as that much of it is there, and what follows up to its end is
passed over without being kept: so a line of any length costs no memory, and reading can stop and go on inside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from appguard.sources.base import LINE_MOST, Block


@dataclass(frozen=True, slots=True)
class Split:
    """The lines at the beginning of some bytes, and how many bytes they were.

    `is_cut` says that the last line was cut, and that its rest is still to be passed over.
    """

    lines: Block
    consumed: int
    is_cut: bool


def split(data: bytes, is_cut: bool, most: int = LINE_MOST) -> Split:
    """Split bytes that begin at a line, or inside a line already cut.

    The NUL bytes that a file truncated under its writer has in front of a line are no part of it.
    """
    start = data.find(b"\n") + 1 if is_cut else 0
    if is_cut and not start:
        return Split(Block(), len(data), is_cut=True)
    end = data.rfind(b"\n") + 1
    lines = _trimmed(data[start:end], most)
    rest = data[end:].lstrip(b"\0")
    if len(rest) > most:
        return Split(Block(lines + rest[:most] + b"\n"), len(data), is_cut=True)
    return Split(Block(lines), len(data) - len(rest), is_cut=False)


def _trimmed(data: bytes, most: int) -> bytes:
    """Trim every line, without looking at each if there is no need to."""
    if b"\0" in data or any(long_lines(data, most)):
        return b"".join(trim(line, most) + b"\n" for line in data.split(b"\n")[:-1])
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data


def long_lines(data: bytes, most: int) -> Iterator[int]:
    """Give where each line of more than `most` bytes ends. The data end with a line's end."""
    begin, last = 0, len(data) - most  # a line that begins there or later is not so long
    while begin < last:
        end = data.rfind(b"\n", begin, begin + most + 1)
        if end < 0:
            end = data.find(b"\n", begin + most)
            yield end
        begin = end + 1


def trim(line: bytes, most: int = LINE_MOST) -> bytes:
    """Take the carriage return off a line, the NUL bytes in front of it, and what is too long."""
    return line.lstrip(b"\0").removesuffix(b"\r")[:most]


def one_line(message: bytes) -> bytes:
    """Make one line of a message: line ends in it become `#012`, as syslog writes them.

    Else whoever gets a line end into a message could begin a line of his own.
    """
    return trim(message.rstrip(b"\r\n").replace(b"\n", b"#012"))


class LineBuffer:
    """Makes lines of bytes that come in blocks; keeps the beginning of one line, of `most` bytes at most."""

    def __init__(self, most: int = LINE_MOST) -> None:
        self._most = most
        self._rest = b""
        self._is_cut = False

    def add(self, block: bytes) -> Block:
        """Give the lines that a block ends."""
        data = self._rest + block
        found = split(data, self._is_cut, self._most)
        self._rest, self._is_cut = data[found.consumed :], found.is_cut
        return found.lines

    def end(self) -> Block:
        """Give the line that was never ended, if there is one, and begin anew."""
        rest, self._rest, self._is_cut = trim(self._rest, self._most), b"", False
        return Block.of([rest] if rest else [])
