"""Dates that lines began with lately: within a second of a log all lines begin alike, and one search answers for all.

Theory of operation. What an anchored regex finds depends on no more of a line than it can look at. So the line's
beginning is remembered up to where no match can go on, as the `regex` package says ("no partial match"), and as much
further as a look-around sees; whatever follows, the same is found. A log whose lines differ within their date (parts of
a second) teaches this for nothing, and is left alone for most of its lines.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, TypeVar

import regex

from appguard.filters.linear import is_anchored, width
from appguard.filters.parse_tree import LOOKS, Node, parse

KNOWN_MOST = 1024
BRACKET = ("\\[", "(?<!\\w)\\[")  # as access logs have it before the date
TO_BRACKET = "^[^[]*"
UP_TO_BRACKET = (*(TO_BRACKET + each for each in BRACKET), "^[^\\[]*\\[")
LENGTHS_MOST = 4  # of beginnings
BEHIND_MOST = 12  # characters behind a date, to find where no match can go on
REACH_LEAST, REACH_MOST = 2, 8  # characters that a look-around or a `$` sees
LEARNT_MOST = 64  # beginnings in vain, until most lines are left alone
LEARN_SECONDS = 0.001

Found = TypeVar("Found")


class DateMemo(Generic[Found]):
    """What one anchored regex found in beginnings of lines."""

    def __init__(self, expression: str) -> None:
        self._decider = _decider(expression)
        self._known: dict[str, Found] = {}
        self._lengths: tuple[int, ...] = ()
        self._hits = 0
        self._misses = 0

    def find(self, text: str) -> Found | None:
        """Give what was found in a line that began likewise."""
        for length in self._lengths:
            found = self._known.get(text[:length])
            if found is not None:
                self._hits += 1
                return found
        return None

    def learn(self, text: str, end: int, found: Found) -> None:
        """Remember what the regex found in a line; the match ends at `end`."""
        self._misses += 1
        if self._misses > LEARNT_MOST + self._hits and self._misses % LEARNT_MOST:
            return
        length = self._decider.length(text, end, self._lengths[-1] if self._lengths else 0)
        if length is None or (length not in self._lengths and len(self._lengths) >= LENGTHS_MOST):
            return
        if len(self._known) >= KNOWN_MOST:
            self._known.clear()
            self._lengths = ()
            self._hits = self._misses = 0
        if length not in self._lengths:
            self._lengths = (*self._lengths, length)
        self._known[text[:length]] = found


class Decider:
    """How much of a line decides what one regex finds in it. It remembers the last answer: most lines begin alike."""

    def __init__(self, expression: str) -> None:
        self._reach = reach_of(expression)
        self._partial = regex.compile(expression, regex.VERSION0 | regex.IGNORECASE)
        self._last: tuple[str, int, int | None] = "", -1, None

    def length(self, text: str, end: int, guess: int = 0) -> int | None:
        """Say it of a line in which a match ends at `end`. A guess that is right saves most of the work.

        None if the regex is not anchored, or it is too much to be worth it.
        """
        beginning, last_end, known = self._last
        if end != last_end or guess not in (0, known) or not text.startswith(beginning):
            known = self._decided(text, end, guess)
            self._last = text[:known], end, known
        return known

    def _decided(self, text: str, end: int, guess: int) -> int | None:
        reach = self._reach
        if reach is None:
            return None
        least, most = end + 1, min(end + BEHIND_MOST, len(text) - reach)
        guessed = guess + 1 - reach
        for length in (*([guessed] if least <= guessed < most else ()), *range(least, most)):
            try:
                goes_on = self._partial.fullmatch(text[:length], partial=True, timeout=LEARN_SECONDS)
            except TimeoutError:
                return None
            if goes_on is None:
                return int(length - 1 + reach)
        return None


_decider = lru_cache(maxsize=64)(Decider)


def piece_of(expression: str, text: str, end: int, guess: int = 0) -> tuple[int, int] | None:
    """Give the piece of a line that decides what a regex finds in all lines that differ in digits only.

    None if that is not known. What stands before the piece takes all digits alike, and ends in one place only.
    """
    if expression.startswith(BRACKET) and text.count("[") == 1:
        expression = TO_BRACKET + expression
    last = _decider(expression).length(text, end, guess)
    if last is None:
        return None
    return (text.find("[") + 1 if expression.startswith(UP_TO_BRACKET) else 0), last


def reach_of(expression: str) -> int | None:
    """Give how many characters from where it stands an anchored regex looks at; None for any other and for any many."""
    try:
        tree = parse(expression)
    except (RecursionError, re.error):
        return None
    if tree.has_flags or not is_anchored(expression):
        return None
    reach = max(REACH_LEAST, _seen(tree.nodes))
    return int(reach) if reach <= REACH_MOST else None


def _seen(nodes: Sequence[Node]) -> float:
    """Give the most that a look-around among the nodes sees."""
    return max(
        (max(width(branch) if node.op in LOOKS else 0, _seen(branch)) for node in nodes for branch in node.branches),
        default=0,
    )
