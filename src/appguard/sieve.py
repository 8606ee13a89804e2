"""Stage 1 of matching: finds in a block of lines those that some expression may match, and splits no other.

Theory of operation. Each expression has sets of literals (`filters/literals.py`); a line without any of one of these
sets is not matched by it. Which set is the rarest is counted in the first block, and again from time to time, because
logs differ. The chosen texts of all expressions are searched for at once, by Hyperscan or, where that is not installed,
by `re`; of texts that begin alike their beginnings, if these find no more. Where most lines are candidates the search
is in vain, and for some blocks every line is one. Always one is a line longer than half of what is looked at of it,
because filters care whether a line was cut, and one with an escape sequence, because that may stand in the middle of a
literal.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from appguard.filters.literals import ANY, Literals, any_of
from appguard.sources.lines import long_lines

try:
    hyperscan: Any = import_module("hyperscan")
except ImportError:  # there is none for this processor, or it was not wanted
    hyperscan = None

SAMPLE = 1 << 16  # bytes of a block in which literals are counted
CHOICE_LASTS = 1 << 26  # bytes
DENSE = 0.4  # candidates per line from which on searching costs more than it saves
SPARSE_BYTES = 4096  # fewer candidates than one in so many bytes are sparse, however long the lines are
REST = 16  # blocks
BEGINNINGS = (3, 4)  # letters
ESCAPE = b"\x1b"

Search = Callable[[bytes], Iterable[int]]  # gives the places of literals and escape sequences, in order


class Sieve:
    """Knows what the lines of some expressions hold.

    `needs` has the sets of each expression; if one has none, every line is a candidate. `line_most` is the number of
    bytes that are looked at of a line. `search` makes a search of texts; the default chooses. `is_open`: the last
    candidates were all lines of their block.
    """

    def __init__(
        self,
        needs: Sequence[Sequence[Literals]],
        line_most: int,
        search: Callable[[Literals], Search] | None = None,
    ) -> None:
        self._needs = needs if needs and all(needs) else ()
        self._line_most = line_most
        self._new_search = search or search_for
        self._chosen: Literals = ANY
        self._searched: Literals = ANY  # these, or their beginnings
        self._search: Search | None = None
        self._choice_left = 0  # bytes
        self._rest_left = 0  # blocks
        self.is_open = True

    def candidates(self, block: bytes) -> list[bytes]:
        """Give the lines of a block that may match, without their ends, in order. The block ends with a line's end."""
        is_searched = bool(self._needs) and not self._rest_left
        self._rest_left -= bool(self._rest_left)
        if is_searched:
            self._choose(block)
        self.is_open = not is_searched or self._search is None
        if self._search is None or self.is_open:
            return self._all(block)
        found = self._lines(block, self._places(block, self._search))
        if len(found) > max(1, len(block) // SPARSE_BYTES) and len(found) > DENSE * block.count(b"\n"):
            self._rest_left = REST
        return found

    def count(self, lines: Sequence[bytes], block: bytes = b"") -> int:
        """Say how many of the last candidates, or some of them, may match; all of them before the first search.

        `block` holds these lines and no others, if there is such a block.
        """
        if self._search is None:
            return len(lines)
        block = block or b"\n".join(lines) + b"\n"
        if ESCAPE in block or any(long_lines(block, self._line_most // 2)):
            return len(self._lines(block, self._places(block, self._search)))
        block = block.lower() if self._chosen.folded else block
        texts = frozenset(text for text in self._chosen.texts if text[0].encode() in block)  # the fewer, the quicker
        return len(_whole_lines(texts).findall(block)) if texts else 0

    def _all(self, block: bytes) -> list[bytes]:
        lines = block.split(b"\n")
        lines.pop()
        if any(long_lines(block, self._line_most)):
            return [line[: self._line_most] for line in lines]
        return lines

    def _places(self, block: bytes, search: Search) -> Iterable[int]:
        long = list(long_lines(block, self._line_most // 2))
        return sorted([*search(block), *long]) if long else search(block)

    def _lines(self, block: bytes, places: Iterable[int]) -> list[bytes]:
        found: list[bytes] = []
        end, most = 0, self._line_most
        for place in places:
            if place < end:
                continue
            start = block.rfind(b"\n", 0, place) + 1
            end = block.find(b"\n", place) + 1
            found.append(block[start : min(end - 1, start + most)])
        return found

    def _choose(self, block: bytes) -> None:
        """Choose of each expression the set that is rarest in this block, unless that was done lately."""
        self._choice_left -= len(block)
        if self._choice_left > 0:
            return
        self._choice_left = CHOICE_LASTS
        sample = block[:SAMPLE]
        folded = sample.lower()
        counts: dict[Literals, int] = {}
        for literals in (each for sets in self._needs for each in sets):
            counts[literals] = counts.get(literals) or _count(literals, folded if literals.folded else sample)
        chosen = any_of(min(sets, key=lambda each: counts[each]) for sets in self._needs)
        short = _shortened(chosen, folded if chosen.folded else sample)
        if (chosen, short) != (self._chosen, self._searched):
            self._chosen, self._searched, self._search = chosen, short, self._new_search(short)


def _count(literals: Literals, text: bytes) -> int:
    return sum(text.count(each.encode()) for each in literals.texts)


def _shortened(literals: Literals, text: bytes) -> Literals:
    """Give fewer literals that find no more in a text, if their beginnings do: the fewer, the quicker is the search."""
    most = _count(literals, text)
    for length in BEGINNINGS:
        short = Literals(frozenset(each[:length] for each in literals.texts), literals.folded)
        if len(short.texts) < len(literals.texts) and _count(short, text) <= most:
            return short
    return literals


def search_for(literals: Literals) -> Search:
    """Make the quickest search there is."""
    return by_re(literals) if hyperscan is None else by_hyperscan(literals)


def by_re(literals: Literals) -> Search:
    """Make a search that needs nothing but Python."""
    plain = re.compile(_pattern(literals))
    with_escapes = re.compile(ESCAPE + b"|" + plain.pattern)

    def search(block: bytes) -> Iterable[int]:
        pattern = with_escapes if ESCAPE in block else plain
        return (match.start() for match in pattern.finditer(block.lower() if literals.folded else block))

    return search


@lru_cache(maxsize=256)
def _whole_lines(texts: frozenset[str]) -> re.Pattern[bytes]:
    """Give what finds texts, each with the rest of its line; it gives nothing of them, which is to be counted only."""
    return re.compile(_pattern(Literals(texts)) + rb"().*+")


def _pattern(literals: Literals) -> bytes:
    texts = sorted(literals.texts)
    prefix = _common_prefix(texts)
    rest = "|".join(re.escape(text[len(prefix) :]) for text in texts)
    return f"{re.escape(prefix)}(?:{rest})".encode()


def by_hyperscan(literals: Literals) -> Search:
    """Make a search that is three times as fast."""
    texts = [ESCAPE, *(text.encode() for text in sorted(literals.texts))]
    flags = hyperscan.HS_FLAG_CASELESS if literals.folded else 0
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=texts, ids=range(len(texts)), elements=len(texts), flags=[flags] * len(texts), literal=True
    )

    def search(block: bytes) -> Iterable[int]:
        places: list[int] = []

        def note(_id: int, _begin: int, end: int, _flags: int, _context: object) -> None:
            places.append(end - 1)

        database.scan(block, match_event_handler=note)
        return places

    return search


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = texts[0], texts[-1]  # in order, so what these share all share
    return next((first[:at] for at, letter in enumerate(first) if last[at : at + 1] != letter), first)
