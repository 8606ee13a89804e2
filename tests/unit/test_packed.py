"""Finished logs for replay: whatever packed them, their lines are the same."""

import bz2
import gzip
import lzma
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from appguard.errors import SourceError
from appguard.sources.base import LINE_MOST
from appguard.sources.packed import read_lines

CHANCE = random.Random(1)
LINES = [b"line %d \xff%s" % (number, b"%x" % CHANCE.getrandbits(1 + number * 31 % 900)) for number in range(20_000)]
TEXT = b"\n".join(LINES)  # the last line has no end


def zstd(data: bytes) -> bytes:
    """Pack with the program."""
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "two members": lambda data: gzip.compress(data[:99_999]) + gzip.compress(data[99_999:]),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstd,
}


@pytest.mark.parametrize("packer", ["plain", *PACKERS])
def test_lines_are_those_that_were_packed(tmp_path: Path, packer: str) -> None:
    """Every form gives the same lines, recognised without a name that says so."""
    log = tmp_path / "access.log.1"
    log.write_bytes(PACKERS.get(packer, bytes)(TEXT))
    assert list(read_lines(log)) == LINES


@pytest.mark.parametrize("packer", PACKERS)
def test_a_damaged_file_is_an_error_behind_its_good_lines(tmp_path: Path, packer: str) -> None:
    """A file cut short gives what is whole in it, and then says that and where something is wrong."""
    log = tmp_path / "access.log.1"
    packed = PACKERS[packer](TEXT * 3)
    log.write_bytes(packed[: len(packed) * 3 // 4])
    found: list[bytes] = []
    with pytest.raises(SourceError, match=r"access\.log\.1 cannot be read: \S"):
        found.extend(read_lines(log))
        raise AssertionError("no error")
    some = read_lines(log)
    assert [next(some) for _ in range(3)] == LINES[:3]


def test_long_lines_are_cut_and_missing_files_named(tmp_path: Path) -> None:
    """The bounds of lines hold here too; a file that is not there is an error that names it."""
    log = tmp_path / "x.gz"
    log.write_bytes(gzip.compress(b"y" * 10_000_000 + b"\nnext\n"))
    assert list(read_lines(log)) == [b"y" * LINE_MOST, b"next"]
    with pytest.raises(SourceError, match="missing cannot be read: No such file"):
        next(read_lines(tmp_path / "missing"))


def test_without_the_program_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zstd file where zstd is not installed names the program."""
    log = tmp_path / "x.zst"
    log.write_bytes(zstd(TEXT))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="install zstd"):
        next(read_lines(log))
