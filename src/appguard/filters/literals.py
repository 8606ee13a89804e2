"""Which short texts a line must have for a regular expression to match it, derived from the expression's parse tree.

Theory of operation. Most lines of a log are of no interest, and finding one of a few literals in a block of lines is
ten times as fast as trying an expression on each. So this gives, for an expression, sets of texts: every match holds at
least one text of each set. Walking along a sequence, what must stand there in full is gathered as a small set of exact
texts; what is not so small ends the run and begins another. An alternation needs a set from each of its branches. Which
set is rarest in a log only the log knows: `" (404|403) ` beats `"(GET|POST) `. What is not understood needs nothing,
which is always right: no set means that any line may match. Two things are heeded: a text is pure ASCII, because lines
are decoded with replacements; and where case is ignored, texts are lower case, and no text holds `i`, `k` or `s`, which
then also match letters outside ASCII.

The tree is that of `re`, whose module for it is not documented; where it is missing or differs, every answer is empty.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any, cast

try:
    tree: Any = import_module("re._parser")
except ImportError:  # pragma: no cover - a Python that keeps it elsewhere
    tree = None

TEXTS_MOST = 32  # of a set; more are no literals
CLASS_MOST = 4  # letters that a class of letters may stand for
LENGTH_MOST = 32  # of a text; more does not make it rarer
SHORTEST = 2  # of a text; single letters are everywhere
LINE_ENDS = frozenset("\r\n")  # no line holds them
AMBIGUOUS = LINE_ENDS | set("iks")  # the letters match one outside ASCII too where case is ignored

BETWEEN_WORDS = re.compile(r"(?<=\W)(?=\W)")

Node = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Literals:
    """Texts of which a line holds at least one if it matches; none where any line may. In lower case if `folded`."""

    texts: frozenset[str] = frozenset()
    folded: bool = False

    def __bool__(self) -> bool:
        return bool(self.texts)


ANY = Literals()
SETS_MOST = 8


def literals_of(pattern: str, flags: int = 0) -> tuple[Literals, ...]:
    """Give the sets of which a match needs a text each, the longest texts first; none where any line may match."""
    if tree is None:  # pragma: no cover
        return ()
    try:
        parsed: Any = tree.parse(pattern, flags)
    except (re.error, RecursionError, OverflowError):
        return ()
    found = _sets(cast("Sequence[Node]", list(parsed)), bool(int(parsed.state.flags) & re.IGNORECASE))
    return tuple(sorted(set(found), key=_worth, reverse=True)[:SETS_MOST])


def any_of(parts: Iterable[Literals]) -> Literals:
    """Give the literals of lines that match at least one of some expressions."""
    found = list(parts)
    if not found or not all(found):
        return ANY
    folded = any(part.folded for part in found)
    texts = {text.lower() if folded else text for part in found for text in part.texts}
    shortest = {text for text in texts if not any(other != text and other in text for other in texts)}
    return Literals(frozenset(shortest), folded)


def cut_anywhere(literals: Literals) -> Literals:
    """Give the literals of a line out of which one piece was cut before it was matched: half of each is left whole."""
    halves = {half for text in literals.texts for half in (text[: len(text) // 2], text[len(text) // 2 :])}
    return Literals(frozenset(halves), literals.folded) if min(map(len, halves), default=0) >= SHORTEST else ANY


def cut_between_words(literals: Literals) -> Literals:
    """Give the literals of a line out of which one piece was cut that no letter, digit or underscore was next to."""
    kept = {max(BETWEEN_WORDS.split(text), key=len) for text in literals.texts}
    return Literals(frozenset(kept), literals.folded) if min(map(len, kept), default=0) >= SHORTEST else ANY


def with_text(literals: Literals, text: str) -> Literals:
    """Give the literals of lines that have one of them, or a text."""
    return any_of((literals, Literals(frozenset({text}), literals.folded)))


Run = frozenset[str]
EMPTY: Run = frozenset({""})


def _sets(nodes: Sequence[Node], folded: bool) -> list[Literals]:
    """Give the sets that a sequence needs."""
    found: list[Literals] = []
    run = EMPTY
    for node in nodes:
        exact = _exact(node, folded)
        joined = None if exact is None else _joined(run, exact)
        if joined is not None:
            run = joined
            continue
        found.append(Literals(run, folded))
        found.extend(_needed(node, folded))
        run = exact or EMPTY
    found.append(Literals(run, folded))
    return [each for each in found if _worth(each)[0] >= SHORTEST]


def _exact(node: Node, folded: bool) -> Run | None:
    """Give the few texts that a node stands for, None if they are many or not known."""
    kind, value = str(node[0]), node[1]
    if kind == "LITERAL":
        return _letter(cast("int", value), folded)
    if kind == "IN":
        return _class(cast("Sequence[Node]", value), folded)
    if kind == "AT" or kind in ("ASSERT", "ASSERT_NOT"):
        return EMPTY  # takes no text
    if kind == "SUBPATTERN":
        is_same = _fold(folded, value[1], value[2]) == folded  # else its texts are of another kind than those around it
        return _exact_sequence(value[3], folded) if is_same else None
    if kind == "ATOMIC_GROUP":
        return _exact_sequence(value, folded)
    if kind == "BRANCH":
        return _union(_exact_sequence(branch, folded) for branch in value[1])
    if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return _exact_repeat(value, folded)
    return None


def _exact_sequence(nodes: Sequence[Node], folded: bool) -> Run | None:
    run = EMPTY
    for node in nodes:
        exact = _exact(node, folded)
        joined = None if exact is None else _joined(run, exact)
        if joined is None:
            return None
        run = joined
    return run


def _exact_repeat(value: tuple[int, int, Sequence[Node]], folded: bool) -> Run | None:
    least, most, nodes = value
    if int(most) > LENGTH_MOST:
        return None
    once = _exact_sequence(nodes, folded)
    if once is None:
        return None
    return _union(_times(once, count) for count in range(int(least), int(most) + 1))


def _needed(node: Node, folded: bool) -> list[Literals]:
    """Give the sets that a node needs which is not itself a few texts."""
    kind, value = str(node[0]), node[1]
    if kind == "SUBPATTERN":
        return _sets(value[3], _fold(folded, value[1], value[2]))
    if kind == "ATOMIC_GROUP":
        return _sets(value, folded)
    if kind == "BRANCH":
        return [any_of(max(_sets(branch, folded), key=_worth, default=ANY) for branch in value[1])]
    if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] >= 1:
        return _sets(value[2], folded)
    return []


def _fold(folded: bool, added: int, removed: int) -> bool:
    return (folded or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE


def _letter(code: int, folded: bool) -> Run | None:
    letter = chr(code).lower() if folded else chr(code)
    return frozenset({letter}) if letter.isascii() and letter not in (AMBIGUOUS if folded else LINE_ENDS) else None


def _class(members: Sequence[Node], folded: bool) -> Run | None:
    if len(members) > CLASS_MOST or any(str(kind) != "LITERAL" for kind, _ in members):
        return None
    return _union(_letter(value, folded) for _, value in members)


def _union(runs: Iterable[Run | None]) -> Run | None:
    found: set[str] = set()
    for run in runs:
        if run is None:
            return None
        found |= run
        if len(found) > TEXTS_MOST:
            return None
    return frozenset(found)


def _joined(first: Run, second: Run) -> Run | None:
    if len(first) * len(second) > TEXTS_MOST:
        return None
    joined = {before + after for before, after in product(first, second)}
    return frozenset(joined) if all(len(text) <= LENGTH_MOST for text in joined) else None


def _times(once: Run, count: int) -> Run | None:
    run = EMPTY
    for _ in range(count):
        joined = _joined(run, once)
        if joined is None:
            return None
        run = joined
    return run


def _worth(literals: Literals) -> tuple[int, int]:
    """Say how rare the literals are: by the length of the shortest, then by how few there are."""
    return min(map(len, literals.texts), default=0), -len(literals.texts)
