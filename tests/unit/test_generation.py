"""Reading one file of a log: whole lines in blocks of any size, and nothing that an earlier read left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from appguard.sources.base import Block
from appguard.sources.generation import SEAM_BYTES, TRUNCATED, Generation
from appguard.sources.lines import long_lines

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30)


@given(lines=LINES, most=st.integers(0, 14))
def test_long_lines_are_found(lines: list[bytes], most: int) -> None:
    """Of all lines, each of more bytes than are asked for is found at its end, and no other."""
    data, end, expected = Block.of(lines).data, -1, list[int]()
    for line in lines:
        end += len(line) + 1
        expected += [end] * (len(line) > most)
    assert list(long_lines(data, most)) == expected


@given(lines=LINES)
def test_lines_of_a_block_are_counted(lines: list[bytes]) -> None:
    """A block says how many lines it has without splitting them."""
    assert len(Block.of(lines)) == len(lines) == len(list(Block.of(lines)))


def readings(generation: Generation, most: int) -> Iterator[bytes]:
    """Give the lines of what can be read now."""
    while reading := generation.read(most):
        assert reading is not TRUNCATED
        generation.place = reading.place
        yield from reading.lines


def test_lines_are_whole_however_much_is_read_at_once(tmp_path: Path) -> None:
    """Blocks end at line ends; what is not a whole line yet waits for its end."""
    log = tmp_path / "log"
    lines = [b"%d" % number * (number % 7) for number in range(300)]
    for most in (1, 10, 5000, 1 << 18):
        log.write_bytes(Block.of(lines).data + b"not yet")
        generation = Generation(os.open(log, os.O_RDONLY))
        assert list(readings(generation, most)) == lines
        with log.open("ab") as writer:
            writer.write(b" ended\n")
        assert list(readings(generation, most)) == [b"not yet ended"]
        generation.close()


def test_what_an_earlier_read_left_is_not_taken_for_the_file(tmp_path: Path) -> None:
    """A file cut down to the first half of what stood before the place is truncated, whatever was read before."""
    log = tmp_path / "log"
    log.write_bytes(b"the same line\n" * 100)
    generation = Generation(os.open(log, os.O_RDONLY))
    assert len(list(readings(generation, 1 << 18))) == 100
    assert generation.read() is None
    os.truncate(log, 1400 - SEAM_BYTES // 2)
    assert generation.read() is TRUNCATED
    generation.close()
