"""The other files in a log's directory: where the earlier generations of the log are to be found.

A generation is recognised by its inode together with its content (rename rotation), or by its content alone
(`copytruncate` makes a copy). Only files of the log's own owner are opened.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from appguard.sources.generation import Mark
from appguard.sources.opening import open_sibling

ENTRIES_MOST = 4096  # of a directory; the owner of a directory decides how many there are
ALIKE_MOST = 64  # files opened in search of a copy
YOUNGER_MOST = 28  # less than a log may have open
LOOKS_MOST = 3
_log = logging.getLogger(__name__)
_TURNED = re.compile(r"[.-](?=\d[\w.-]*$|old$)")
_DATED = re.compile(r"(.+)[.-](?:\d{8}|20\d\d-[01]\d|\d\d-\d\d-20\d\d)(?!\d)[\w-]*(?:\.\d+)?(\.\w+)")
_PACKED = re.compile(r"\.(gz|bz2|xz|zst|lz4|Z)$")


def rotated_from(name: str) -> list[str]:
    """Give the logs whose rotation may have made a name.

    That is `x.log` for `x.log.1`, `x.log-20261120`, `x-20261120.log`, `x.2026-11-20.log`, `x-2026-11-20.0.log`.
    """
    return [name[: found.start()] for found in _TURNED.finditer(name)] + list(filter(None, [undated(name)]))


def undated(name: str) -> str:
    """Give a name without the date in front of its ending; nothing if it has none."""
    dated = _DATED.fullmatch(name)
    return dated[1] + dated[2] if dated else ""


def is_packed(name: str) -> bool:
    """Say whether a name is that of a compressed file."""
    return _PACKED.search(name) is not None


def unpacked(name: str) -> str:
    """Give the name a file had before it was compressed."""
    return _PACKED.sub("", name)


class Siblings:
    """The files beside a log, its own included, as they were when this was made or last found changed."""

    def __init__(self, path: str, owner: int) -> None:
        self.path = os.path.realpath(path)
        self._directory, self._log = Path(self.path).parent, Path(self.path).name
        self._owner = owner
        self._entries = self._list()

    def _list(self) -> list[tuple[str, int]]:
        with suppress(OSError), os.scandir(self._directory) as entries:
            return [(entry.name, entry.inode()) for entry in islice(entries, ENTRIES_MOST)]
        return []

    def have_changed(self) -> bool:
        """Look again; say whether earlier files of the log have other names now, as if they were just being rotated."""
        before, self._entries = self._rotated(), self._list()
        return before != self._rotated()

    def _rotated(self) -> set[tuple[str, int]]:
        return {entry for entry in self._entries if self._is_rotated(entry[0])}

    def find(self, mark: Mark) -> int | None:
        """Open the file a mark was made in, else one with the same content up to the mark, else a copy it outgrew."""
        for _ in range(LOOKS_MOST):
            descriptor = self._find(mark)
            if descriptor is not None or not self.have_changed():
                return descriptor
        return None

    def _find(self, mark: Mark) -> int | None:
        names = [name for name, inode in self._entries if inode == mark.inode]
        if not mark.offset:  # nothing was read of it: only the name can say that it is a generation of this log
            names = [name for name in names if name == self._log or self._is_rotated(name)]
            return self._first(names, mark.is_of)  # and it may be another file's by now
        names += self._alike()
        descriptor = self._first(names, mark.fits)
        if descriptor is None:
            descriptor = self._first(filter(self._is_rotated, names), mark.outgrew)
        return descriptor

    def _first(self, names: Iterable[str], is_it: Callable[[int], bool]) -> int | None:
        for name in names:
            descriptor = self._open(name)
            if descriptor is not None and is_it(descriptor):
                return descriptor
            if descriptor is not None:
                os.close(descriptor)
        return None

    def _is_rotated(self, name: str) -> bool:
        return self._log in rotated_from(name)

    def younger(self, than_ns: int) -> list[int]:
        """Open the rotated files of the log that were last written at `than_ns` or later, oldest first."""
        for _ in range(LOOKS_MOST):
            opened = self._younger(than_ns)
            if not self.have_changed():
                return opened
            for descriptor in opened:
                os.close(descriptor)
        return self._younger(than_ns)

    def _younger(self, than_ns: int) -> list[int]:
        names = [name for name, _ in self._entries if self._is_rotated(name) and not is_packed(name)]
        names.sort(key=lambda name: (len(name), name), reverse=True)  # of the same time, x.log.10 is older than x.log.9
        names.sort(key=self._written_ns)
        names = [name for name in names if self._written_ns(name) >= than_ns]
        if len(names) > YOUNGER_MOST:
            _log.warning("%r was rotated %d times while it was not read: lines were missed", self.path, len(names))
        opened = (self._open(name) for name in names[-YOUNGER_MOST:])
        return [descriptor for descriptor in opened if descriptor is not None]

    def _alike(self) -> list[str]:
        stem = self._log.partition(".")[0]
        names = [name for name, _ in self._entries if name.startswith(stem) and not is_packed(name)]
        return sorted(names, key=self._written_ns, reverse=True)[:ALIKE_MOST]

    def _written_ns(self, name: str) -> int:
        with suppress(OSError):
            return (self._directory / name).lstat().st_mtime_ns
        return 0

    def _open(self, name: str) -> int | None:
        return open_sibling(str(self._directory / name), self._owner)
