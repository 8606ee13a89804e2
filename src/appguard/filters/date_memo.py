"""Dates that lines began with lately: within a second of a log all lines begin alike, and one search answers for all.

Theory of operation. What an anchored regex finds depends on no more of a line than it can look at. So the line's
beginning is remembered up to where no match can go on, as the `regex` package says ("no partial match"), and as much
further as a look-around sees; whatever follows, the same is found. A log whose lines differ within their date (parts of
a second) teaches this for nothing, and is left alone for most of its lines.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Generic, TypeVar

import regex

from appguard.filters.linear import width
from appguard.filters.parse_tree import LOOKS, Node, parse

KNOWN_MOST = 1024
LENGTHS_MOST = 4  # of beginnings
BEHIND_MOST = 12  # characters behind a date, to find where no match can go on
REACH_LEAST, REACH_MOST = 2, 8  # characters that a look-around or a `$` sees
LEARNT_MOST = 64  # beginnings in vain, until most lines are left alone
LEARN_SECONDS = 0.001

Found = TypeVar("Found")


class DateMemo(Generic[Found]):
    """What one anchored regex found in beginnings of lines; `reach` is what `reach_of` says of it."""

    def __init__(self, expression: str, reach: int) -> None:
        self._expression = expression
        self._reach = reach
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
        length = self._length(text, end)
        if length is None or (length not in self._lengths and len(self._lengths) >= LENGTHS_MOST):
            return
        if len(self._known) >= KNOWN_MOST:
            self._known.clear()
            self._lengths = ()
            self._hits = self._misses = 0
        if length not in self._lengths:
            self._lengths = (*self._lengths, length)
        self._known[text[:length]] = found

    def _length(self, text: str, end: int) -> int | None:
        """Give how much of a line decides what is found in it, None if that is too much to be worth it."""
        for length in range(end + 1, min(end + BEHIND_MOST, len(text) - self._reach)):
            try:
                goes_on = self._partial.fullmatch(text[:length], partial=True, timeout=LEARN_SECONDS)
            except TimeoutError:
                return None
            if goes_on is None:
                return length - 1 + self._reach
        return None

    @cached_property
    def _partial(self) -> "regex.Pattern[str]":
        return regex.compile(self._expression, regex.VERSION0 | regex.IGNORECASE)


def reach_of(expression: str) -> int | None:
    """Give how many characters from where it stands an anchored regex looks at; None for any other and for any many."""
    try:
        tree = parse(expression)
    except (RecursionError, re.error):
        return None
    if tree.has_flags or not tree.nodes or tree.nodes[0].at != "AT_BEGINNING":
        return None
    reach = max(REACH_LEAST, _seen(tree.nodes))
    return int(reach) if reach <= REACH_MOST else None


def _seen(nodes: Sequence[Node]) -> float:
    """Give the most that a look-around among the nodes sees."""
    return max(
        (max(width(branch) if node.op in LOOKS else 0, _seen(branch)) for node in nodes for branch in node.branches),
        default=0,
    )
