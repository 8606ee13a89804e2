"""From a line without its date to what its failure's regex captured: prefregex, failregexes, ignoreregexes."""

from collections.abc import Sequence
from typing import NamedTuple

from appguard.filters.choice import Choice
from appguard.filters.expression import Budget, Expression, Found, Spans

Cut = tuple[int, int] | None  # where the date is


class Told(NamedTuple):
    """What a line tells: its groups' places in the line without the date, and the match of the failure regex."""

    spans: Spans
    match: Found


class Cascade:
    """The regexes of one filter; `flags` are those they were compiled with."""

    def __init__(
        self, prefix: Sequence[Expression], failures: Sequence[Expression], ignored: Sequence[Expression], flags: int
    ) -> None:
        self._prefix, self._ignored = prefix, ignored
        self._choice = Choice(failures, flags)

    def search(self, text: str, budget: Budget) -> Told | None:
        """Give what a text tells, which ends with a line's end. Raise `OverBudget`."""
        spans: Spans = {}
        begin = 0
        for prefix in self._prefix:
            found = prefix.search(text, budget)
            if found is None:
                return None
            spans = prefix.spans_of(found)
            begin, end = spans.pop("content", (0, len(text) - 1))
            text = text[begin:end] + "\n"
        for failure in self._choice.of(text):
            found = failure.search(text, budget)
            if found is None:
                continue
            if self._ignored and any(each.search(text, budget) for each in self._ignored):
                return None
            inner = failure.spans_of(found)
            spans |= {name: (start + begin, end + begin) for name, (start, end) in inner.items()} if begin else inner
            return Told(spans, found)
        return None


def without(text: str, cut: Cut) -> str:
    """Give a line without its date."""
    return text if cut is None else text[: cut[0]] + text[cut[1] :]
