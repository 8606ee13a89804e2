"""One regex of somebody else, searched within a budget.

Theory of operation. Python's `re` cannot be stopped, so it gets only what cannot take long: `linear.py` bounds the cost
of a search by a power of the text's length, a lower one where certain texts occur only once. While the bounds add up to
no more than a line's budget of steps, `re` searches; else the `regex` package, which reads the same patterns, is slower
and has a time limit. All regexes share one budget a line: whoever writes a line that takes longer has it skipped, not
the daemon stopped.
"""

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import factorial, inf, pow
from typing import Protocol

import regex

from appguard.errors import ConfigError
from appguard.filters.linear import MANY, bound_of, is_anchored
from appguard.filters.parse_tree import has_flags, parse
from appguard.filters.tags import plain_name

LINE_SECONDS = 0.005  # that no line may cost more than
TIMED_SECONDS = 0.002  # of these for searches with a time limit
STEPS = 200_000  # of a line, for searches by `re`: about two milliseconds
FREE_STEPS = 1_000  # of one search, which are not counted
COUNTED_MOST = 1024  # characters; the searches of longer texts are counted
ALTERNATIVE = re.compile(r"alt_([a-z]+)[0-9_]*")

Groups = dict[str, str]
Spans = dict[str, tuple[int, int]]


class OverBudget(Exception):
    """A line took longer than its budget. Raised and caught within the filters."""


class Found(Protocol):
    """What `re.Match` and `regex.Match` have in common."""

    def groupdict(self) -> Mapping[str, str | None]:
        """Give the named groups."""
        ...

    @property
    def regs(self) -> tuple[tuple[int, int], ...]:
        """Give where the match and all groups stand, -1 for a group that took no part."""
        ...

    @property
    def string(self) -> str:
        """Give the text that was searched."""
        ...

    def groups(self) -> tuple[str | None, ...]:
        """Give all groups."""
        ...

    def span(self, group: str | int = 0, /) -> tuple[int, int]:
        """Give where a group stands."""
        ...


class Allowance(Protocol):
    """What all lines together may still take for searches with a time limit."""

    def seconds(self) -> float:
        """Give how long one search may take now."""
        ...

    def spend(self, seconds: float, *, is_over: bool) -> None:
        """Note how long one took, and whether it was given up."""
        ...


class Budget:
    """What is left for one line, or for as much as `lines` may cost; `allowance` is shared with others."""

    __slots__ = ("allowance", "seconds", "steps")

    def __init__(self, lines: int = 1, allowance: Allowance | None = None) -> None:
        self.steps: float = lines * STEPS
        self.seconds = lines * TIMED_SECONDS
        self.allowance = allowance


Timed = Callable[["regex.Pattern[str]", float], Found | None]  # searches within seconds


class Expression:
    """A compiled regex. Raise `ConfigError` for a pattern that is none.

    `costs_like` is one that costs at least as much and is easier to judge; the default is the pattern itself.
    """

    def __init__(self, pattern: str, flags: int = 0, costs_like: str = "") -> None:
        self.pattern = pattern
        self.costs_like = costs_like or pattern
        self._flags = flags
        self._plain = compiled(pattern, flags)
        self.groups = frozenset(self._plain.groupindex)
        self._names = tuple((plain_name(name), number) for name, number in self._plain.groupindex.items())
        self._has_alternatives = any(name.startswith("alt_") for name in self.groups)
        self._is_simple = not self._has_alternatives and len({name for name, _ in self._names}) == len(self._names)

    @cached_property
    def _cost(self) -> "_Cost":
        return _Cost(self.costs_like)

    @cached_property
    def _quick(self) -> Callable[[str], re.Match[str] | None]:
        return quickest(self._plain)

    @cached_property
    def _free_length(self) -> int:
        """The longest text whose search costs too little to be counted."""
        lengths = (length for length in range(COUNTED_MOST) if self._cost.most(length) > FREE_STEPS)
        return next(lengths, COUNTED_MOST) - 1

    @cached_property
    def _steps_of(self) -> Sequence[float]:
        """The steps that texts of each length may take; none where they depend on what is in a text."""
        return [] if self._cost.lone else [self._cost.most(length) for length in range(COUNTED_MOST)]

    @cached_property
    def _timed(self) -> "regex.Pattern[str] | None":
        same = {
            re.MULTILINE: regex.MULTILINE,
            re.IGNORECASE: regex.IGNORECASE,
            re.DOTALL: regex.DOTALL,
            re.ASCII: regex.ASCII,
        }
        chosen = sum(theirs for ours, theirs in same.items() if self._flags & ours)
        try:
            return regex.compile(self.pattern, regex.VERSION0 | chosen)
        except (regex.error, RecursionError):  # it is one for `re` only: what may take long is not searched
            return None

    def search(self, text: str, budget: Budget) -> Found | None:
        """Find the first match; raise `OverBudget`."""
        if len(text) > self._free_length and not self._is_affordable(text, budget):
            return self._within_time(lambda timed, seconds: timed.search(text, timeout=seconds), budget)
        return self._quick(text)

    def match(self, text: str, budget: Budget) -> Found | None:
        """Match the beginning of a text; raise `OverBudget`."""
        if len(text) > self._free_length and not self._is_affordable(text, budget):
            return self._within_time(lambda timed, seconds: timed.match(text, timeout=seconds), budget)
        return self._plain.match(text)

    def fullmatch(self, text: str, begin: int, budget: Budget) -> Found | None:
        """Match a text from a place to its end; raise `OverBudget`."""
        if len(text) > self._free_length and not self._is_affordable(text, budget):
            return self._within_time(lambda timed, seconds: timed.fullmatch(text, begin, timeout=seconds), budget)
        return self._plain.fullmatch(text, begin)

    def _is_affordable(self, text: str, budget: Budget) -> bool:
        """Say whether the budget has the steps that `re` may take at worst, and take them."""
        steps_of, length = self._steps_of, len(text)
        steps = steps_of[length] if length < len(steps_of) else self._cost.steps(text)
        if steps > budget.steps:
            return False
        budget.steps -= steps
        return True

    def _within_time(self, search: Timed, budget: Budget) -> Found | None:
        timed, allowance = self._timed, budget.allowance
        seconds = budget.seconds if allowance is None else min(budget.seconds, allowance.seconds())
        if timed is None or seconds <= 0:
            raise OverBudget
        begin, is_over = time.thread_time(), False  # a busy machine must not make us skip lines
        try:
            return search(timed, seconds)
        except TimeoutError as error:
            is_over = True
            raise OverBudget from error
        finally:
            took = time.thread_time() - begin
            budget.seconds -= took
            if allowance is not None:
                allowance.spend(took, is_over=is_over)

    def spans_of(self, found: Found) -> Spans:
        """Give where the groups that took part stand, an alternative (`<F-ALT_USER>`) under the name it stands for."""
        places = found.regs
        if self._is_simple:
            return {name: places[number] for name, number in self._names if places[number][0] >= 0}
        spans: Spans = {}
        for name, number in self._names:
            span = places[number]
            if span[0] >= 0 and (name not in spans or spans[name][0] == spans[name][1]):
                spans[name] = span
        if self._has_alternatives:
            _name_alternatives(spans)
        return spans


class _Cost:
    """The most steps that a search may take."""

    def __init__(self, pattern: str) -> None:
        bound = bound_of(pattern)
        self._degree, self._share = _shared(bound.degree)
        self.lone, (self._lone_degree, self._lone_share) = bound.lone, _shared(bound.lone_degree)

    def most(self, length: int) -> float:
        """Bound a search of any text of a length."""
        return self._share * pow(float(max(length, MANY)), self._degree)

    def steps(self, text: str) -> float:
        """Bound a search of a text: n characters part into d pieces in about n**d / d! ways."""
        for lone in self.lone:
            first = text.find(lone)
            if first >= 0 and text.find(lone, first + 1) >= 0:
                return self.most(len(text))
        return self._lone_share * pow(float(max(len(text), MANY)), self._lone_degree)


def _shared(degree: float | None) -> tuple[float, float]:
    return (0.0, inf) if degree is None else (degree, 1 / factorial(int(degree)))


def _name_alternatives(spans: Spans) -> None:
    for name in [name for name in spans if name.startswith("alt_")]:
        meant = ALTERNATIVE.fullmatch(name)
        span = spans.pop(name)
        if meant and (meant[1] not in spans or spans[meant[1]][0] == spans[meant[1]][1]):
            spans[meant[1]] = span


def quickest(pattern: re.Pattern[str]) -> Callable[[str], re.Match[str] | None]:
    """Give the quickest way to search for a regex: `re` looks for an anchored one at every character, in vain."""
    if pattern.flags & re.MULTILINE or not is_anchored(pattern.pattern) or has_flags(parse(pattern.pattern)):
        return pattern.search
    return pattern.match


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Compile a regex; raise `ConfigError`. What Python only warns of is taken as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern[:500]!r} is no regex: {error}") from error
