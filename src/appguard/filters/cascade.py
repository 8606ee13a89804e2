"""From a line without its date to what its failure's regex captured: prefregex, failregexes, ignoreregexes, in order.

Theory of operation. Lines of one program are alike but for their numbers. A regex that takes all digits alike finds in
two lines that differ in digits only the same groups at the same places; so the places are remembered by the line with
each digit made a `0`, its shape. That holds for a line if each regex that was tried on it takes digits alike, and those
that were not (`choice.py`) were left out for texts without digits. A log whose shapes are new most of the time is
searched without, for some lines.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from appguard.filters.choice import Choice
from appguard.filters.digits import takes_digits_alike
from appguard.filters.expression import Budget, Expression, Found, Spans

SHAPES_MOST = 8192
SEEN_MOST = 32_768  # hashes of shapes
LENGTH_MOST = 400  # bytes of a line whose shape is remembered
SHAPE = bytes.maketrans(b"123456789", b"000000000")
NOT_BY_SHAPE = (b"\x1b", b"#033", b"\n")  # in a line that is changed before it is searched
TRIAL, REST = 4096, 32768  # lines: how many are asked for, and how many not where less than a fifth of those were known

Cut = tuple[int, int] | None  # where the date is


class Told(NamedTuple):
    """What a line tells: its groups' places in the line without the date. `match` is of a line searched for it."""

    spans: Spans
    match: Found | None


class _Known(NamedTuple):
    """What lines of one shape tell, with the date at one place."""

    cut: Cut
    told: Told | None


class Cascade:
    """The regexes of one filter; `flags` are those they were compiled with."""

    def __init__(
        self, prefix: Sequence[Expression], failures: Sequence[Expression], ignored: Sequence[Expression], flags: int
    ) -> None:
        self._prefix, self._ignored = prefix, ignored
        self._choice = Choice(failures, flags)
        self._alike = frozenset(each for each in (*prefix, *failures, *ignored) if takes_digits_alike(each.pattern))
        self._knows_shapes = not flags and self._alike.issuperset((*prefix, *ignored))
        self._known: dict[bytes, _Known] = {}
        self._seen: set[int] = set()
        self._asked = self._found = self._rest = 0

    def find(self, line: bytes, text: str, cut: Cut, budget: Budget) -> Told | None:
        """Give what a line tells; `text` is the line decoded, `cut` where its date is. Raise `OverBudget`."""
        if self._rest or not self._knows_shapes or len(line) > LENGTH_MOST:
            self._rest = max(0, self._rest - 1)
            return self.search(without(text, cut) + "\n", budget)[0]
        shape = line.translate(SHAPE)
        self._asked += 1
        known = self._known.get(shape)
        if known is not None and known.cut == cut and b"#0" not in line:
            self._found += 1
            return known.told
        return self._learn(line, shape, text, cut, budget)

    def _learn(self, line: bytes, shape: bytes, text: str, cut: Cut, budget: Budget) -> Told | None:
        told, tried = self.search(without(text, cut) + "\n", budget)
        if self._asked >= TRIAL:
            self._rest = 0 if 5 * self._found > self._asked else REST
            self._asked = self._found = 0
        if not self._was_seen(shape):
            return told
        if not any(each in line for each in NOT_BY_SHAPE) and self._alike.issuperset(tried):
            if len(self._known) >= SHAPES_MOST:
                self._known.clear()
            self._known[shape] = _Known(cut, None if told is None else Told(told.spans, None))
        return told

    def _was_seen(self, shape: bytes) -> bool:
        """Say whether a shape is worth to be remembered: most that were seen once are never seen again."""
        mark = hash(shape)
        if mark in self._seen:
            return True
        if len(self._seen) >= SEEN_MOST:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def search(self, text: str, budget: Budget) -> tuple[Told | None, Iterable[Expression]]:
        """Give what a text tells, which ends with a line's end, and which failure regexes were tried on it."""
        spans: Spans = {}
        begin = 0
        for prefix in self._prefix:
            found = prefix.search(text, budget)
            if found is None:
                return None, ()
            spans = prefix.spans_of(found)
            begin, end = spans.pop("content", (0, len(text) - 1))
            text = text[begin:end] + "\n"
        tried: list[Expression] = []
        for failure in self._choice.of(text):
            tried.append(failure)
            found = failure.search(text, budget)
            if found is None:
                continue
            if self._ignored and any(each.search(text, budget) for each in self._ignored):
                return None, tried
            inner = failure.spans_of(found)
            spans |= {name: (start + begin, end + begin) for name, (start, end) in inner.items()} if begin else inner
            return Told(spans, found), tried
        return None, tried


def without(text: str, cut: Cut) -> str:
    """Give a line without its date."""
    return text if cut is None else text[: cut[0]] + text[cut[1] :]
