"""Reads logs that are finished, compressed or not, line by line: for replay, which knows no positions and no rotation.

What a file is, its first bytes say, not its name. zstd has no reader in Python's own library before 3.14; the program
`zstd` unpacks it.
"""

import bz2
import gzip
import lzma
import shutil
import subprocess
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from appguard.errors import SourceError
from appguard.sources.lines import LineBuffer

BLOCK_BYTES = 256 * 1024
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC: Mapping[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def read_lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a log, each without its end and at most `LINE_MOST` bytes of it.

    Raise `SourceError`, also behind the lines before the place where a file is damaged.
    """
    buffer = LineBuffer()
    try:
        with _open(path) as read:
            while block := read(BLOCK_BYTES):
                yield from buffer.add(block)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        said = getattr(error, "strerror", None) or error
        raise SourceError(f"{path} cannot be read: {said}") from error
    yield from buffer.end()


@contextmanager
def _open(path: Path) -> Generator[Callable[[int], bytes]]:
    with path.open("rb") as plain:
        begin = plain.read(max(map(len, _MAGIC)))
    if begin.startswith(_ZSTD_MAGIC):
        with _unpack("zstd", path) as read:
            yield read
        return
    kind = next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), None)
    with kind(path) if kind else path.open("rb") as opened:
        yield opened.read


@contextmanager
def _unpack(program: str, path: Path) -> Generator[Callable[[int], bytes]]:
    """Give what reads a file that a program unpacks; raise `SourceError` if it is missing or fails."""
    found = shutil.which(program)
    if found is None:
        raise SourceError(f"{path} is packed with {program}, which is not installed: install {program}, or unpack it")
    with (
        path.open("rb") as packed,
        subprocess.Popen([found, "-dcq"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None and process.stderr is not None
        try:
            yield process.stdout.read
        except GeneratorExit:  # nobody wants the rest
            process.kill()
            raise
        if process.wait():
            raise SourceError(f"{path} cannot be read: {process.stderr.read(300).decode(errors='replace').strip()}")
