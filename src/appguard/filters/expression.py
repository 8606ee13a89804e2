"""One regex of somebody else, searched within a budget of time.

Theory of operation. Python's `re` cannot be stopped, so it gets only what cannot take long: a regex whose cost
`linear.py` bounds by a power of the text's length, and a text short enough for that power. All else goes to the `regex`
package, which reads the same patterns and has a time limit, unless the text does not even begin as it must (`head.py`).
All regexes share one budget a line: whoever writes a line that takes longer has it skipped, not the daemon stopped.
"""

import re
import time
import warnings
from collections.abc import Mapping
from math import factorial, inf
from typing import Protocol

import regex

from appguard.errors import ConfigError
from appguard.filters.head import head_of
from appguard.filters.linear import degree_of

LINE_SECONDS = 0.005
STEPS_MOST = 150_000  # of a search by `re`: about two milliseconds


class OverBudget(Exception):
    """A line took longer than its budget. Raised and caught within the filters."""


class Found(Protocol):
    """What `re.Match` and `regex.Match` have in common."""

    def groupdict(self) -> Mapping[str, str | None]:
        """Give the named groups."""
        ...

    def group(self) -> str:
        """Give the text that matched."""
        ...

    def span(self, group: str | int = 0, /) -> tuple[int, int]:
        """Give where a group stands."""
        ...


class Budget:
    """The time that is left for one line."""

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self.left = seconds


class Expression:
    """A compiled regex; `degree` is the power of the text's length that bounds its cost, None if none does.

    Raise `ConfigError` for a pattern that is no regex.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.pattern = pattern
        self._plain = compiled(pattern, flags)
        self.groups = frozenset(self._plain.groupindex)
        self.degree = degree_of(pattern)
        self._length_most = _length_most(self.degree)
        self._head = None if flags else head_of(pattern)
        self._timed = None if self._length_most == inf else _timed(pattern, flags)

    def search(self, text: str, budget: Budget) -> Found | None:
        """Find the first match; raise `OverBudget`."""
        if self._timed is None or len(text) <= self._length_most:
            return self._plain.search(text)
        if self._head is not None and self._head.match(text) is None:
            return None
        if budget.left <= 0:
            raise OverBudget
        begin = time.thread_time()  # a busy machine must not make us skip lines
        try:
            return self._timed.search(text, timeout=budget.left)
        except TimeoutError as error:
            raise OverBudget from error
        finally:
            budget.left -= time.thread_time() - begin


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Compile a regex; raise `ConfigError`. What Python only warns of is taken as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern[:500]!r} is no regex: {error}") from error


def _timed(pattern: str, flags: int) -> "regex.Pattern[str]":
    same = {re.MULTILINE: regex.MULTILINE, re.IGNORECASE: regex.IGNORECASE}
    chosen = sum(theirs for ours, theirs in same.items() if flags & ours)
    try:
        return regex.compile(pattern, regex.VERSION0 | chosen)
    except (regex.error, RecursionError) as error:
        raise ConfigError(f"{pattern[:500]!r} cannot be searched with a time limit: {error}") from error


def _length_most(degree: int | None) -> float:
    """Give the longest text that `re` may search: n characters part into d pieces in about n**d / d! ways."""
    if degree is None:
        return -1
    return inf if degree <= 1 else (STEPS_MOST * factorial(degree)) ** (1 / degree)
