"""Which of several regexes can match a text: most lines cannot be matched by any, and few by more than one.

Theory of operation. Two questions that cost next to nothing sort the others out. Does the text begin as an anchored
regex must (`head.py`)? The answer for a text's first characters is remembered, because log lines begin in few ways. And
has it the rarest text that the regex needs (`literals.py`)? The order stays: the first regex that matches is the same.
Texts with digits are not asked for: who sorts lines by their shape (`shapes.py`) must get one answer for each shape.
"""

import re
from collections.abc import Sequence

from appguard.filters.expression import Expression
from appguard.filters.head import beginnings_of
from appguard.filters.literals import literals_of

HEAD = 12  # characters
KNOWN_MOST = 1024
DIGIT = re.compile(r"[0-9]")

Asked = tuple[tuple[Expression, str], ...]  # with a text that each needs


class Choice:
    """Some regexes in their order; `flags` are those they were compiled with."""

    def __init__(self, expressions: Sequence[Expression], flags: int = 0) -> None:
        self._all = tuple((each, _needed(each.pattern, flags)) for each in expressions)
        self._beginnings = tuple(() if flags else _beginnings(each.pattern) for each in expressions)
        self._known: dict[str, Asked] = {}

    def of(self, text: str) -> Sequence[Expression]:
        """Give those that can match a text."""
        head = text[:HEAD]
        asked = self._known.get(head)
        if asked is None:
            asked = self._learn(head)
        return [expression for expression, needed in asked if needed in text]

    def _learn(self, head: str) -> Asked:
        if len(self._known) >= KNOWN_MOST:
            self._known.clear()
        pairs = zip(self._all, self._beginnings, strict=True)
        found = tuple(each for each, texts in pairs if not texts or head.startswith(texts))
        self._known[head] = found
        return found


def _beginnings(pattern: str) -> tuple[str, ...]:
    texts = tuple(text[:HEAD] for text in beginnings_of(pattern))
    return () if any(map(DIGIT.search, texts)) else texts


def _needed(pattern: str, flags: int) -> str:
    """Give the longest text that every match has; empty if there is none."""
    sets = (literals for literals in literals_of(pattern, flags) if len(literals.texts) == 1 and not literals.folded)
    texts = (text for literals in sets for text in literals.texts if not DIGIT.search(text))
    return max(texts, key=len, default="")
