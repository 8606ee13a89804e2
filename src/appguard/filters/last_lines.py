"""The last lines of a log, searched as one text by filters with `maxlines` above one.

What a match used leaves, so that it tells of one failure only; the lines it skipped (`<SKIPLINES>`) stay, they may
belong to another.
"""

from dataclasses import dataclass

from appguard.filters.dates import FoundDate
from appguard.filters.expression import Found
from appguard.filters.tags import plain_name


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its date, and that date."""

    text: str
    date: FoundDate | None


class LastLines:
    """Up to `most` lines."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: list[Line] = []

    def add(self, line: Line) -> str:
        """Add a line; give the text to be searched."""
        before = self._lines[1 - self._most :] if self._most > 1 else ()
        self._lines = [*before, line]
        return "".join(f"{each.text}\n" for each in self._lines)

    def take(self, found: Found | None) -> list[Line]:
        """Take out the lines that a match used, all if None, and give them."""
        if found is not None:
            return self._take_used(found)
        taken, self._lines = self._lines, []
        return taken

    def _take_used(self, found: Found) -> list[Line]:
        skipped = [found.span(group) for group in found.groupdict() if plain_name(group) == "skiplines"]
        begin, end = found.span()
        taken: list[Line] = []
        kept: list[Line] = []
        position = 0
        for line in self._lines:
            following = position + len(line.text) + 1
            is_used = position < end and following > begin
            is_skipped = any(first <= position and following <= last for first, last in skipped)
            (taken if is_used and not is_skipped else kept).append(line)
            position = following
        self._lines = kept
        return taken
