"""Which digits a regex can tell from others: none as a rule, or those of a few texts such as `" 404 `.

Two texts that differ in other digits only look alike to the regex: where it matches the one, it matches the other.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from appguard.filters.parse_tree import Node, has_flags, parse

DIGITS = range(ord("0"), ord("9") + 1)
CATEGORIES = frozenset(f"CATEGORY_{name}" for name in ("DIGIT", "NOT_DIGIT", "SPACE", "NOT_SPACE", "WORD", "NOT_WORD"))
TEXTS_MOST = 6
CLASS_MOST = 4  # characters that a set may stand for

Texts = frozenset[str]
NOTHING: Texts = frozenset({""})


class _ToldApart(Exception):
    """Digits are told apart, and not in a few texts."""


def texts_with_digits(patterns: Iterable[str]) -> tuple[str, ...] | None:
    """Give the texts by whose places some regexes can tell two texts apart that differ in digits only.

    None if there are other ways to tell, or so many texts that it is not worth to know.
    """
    found: set[str] = set()
    try:
        for pattern in patterns:
            tree = parse(pattern)
            texts = _told(tree.nodes)
            if texts and has_flags(tree):
                return None  # the texts may be in other letters
            found |= texts
    except (RecursionError, _ToldApart):
        return None
    return tuple(sorted(found)) if len(found) <= TEXTS_MOST and not _overlap(found) else None


def _told(nodes: Sequence[Node]) -> set[str]:
    """Give the texts with digits that stand in a sequence of nodes."""
    found: set[str] = set()
    run = NOTHING
    for node in nodes:
        exact = _exact(node)
        joined = None if exact is None else _joined(run, exact)
        if joined is not None:
            run = joined
            continue
        found |= run
        run = exact or NOTHING
        if exact is None and not _is_alike(node):
            if not node.branches:
                raise _ToldApart
            found = found.union(*map(_told, node.branches))
    return {text for text in found | run if any(ord(letter) in DIGITS for letter in text)}


def _exact(node: Node) -> Texts | None:
    """Give the few texts that a node stands for, None if they are many."""
    if node.op == "LITERAL":
        return frozenset({chr(node.code)})
    if node.op == "IN" and len(node.items) <= CLASS_MOST and all(kind == "LITERAL" for kind, _ in node.items):
        return frozenset(chr(int(code)) for _, code in node.items)
    if node.op not in ("SUBPATTERN", "BRANCH", "ATOMIC_GROUP"):
        return None
    ways = [_exact_sequence(branch) for branch in node.branches]
    found = NOTHING.difference(NOTHING).union(*(way for way in ways if way is not None))
    return found if None not in ways and len(found) <= TEXTS_MOST else None


def _exact_sequence(nodes: Sequence[Node]) -> Texts | None:
    run: Texts | None = NOTHING
    for node in nodes:
        exact = _exact(node)
        run = None if run is None or exact is None else _joined(run, exact)
    return run


def _joined(first: Texts, second: Texts) -> Texts | None:
    if len(first) * len(second) > TEXTS_MOST:
        return None
    return frozenset(before + after for before, after in product(first, second))


def _is_alike(node: Node) -> bool:
    """Say whether a node takes all digits or none of them."""
    if node.op in ("LITERAL", "NOT_LITERAL"):
        return node.code not in DIGITS
    if node.op == "IN":
        return len(_taken(node.items)) in (0, len(DIGITS))
    if node.op in ("ANY", "AT"):
        return True
    return bool(node.branches) and all(_is_alike(each) for branch in node.branches for each in branch)


def _taken(items: Sequence[tuple[str, Any]]) -> set[int]:
    """Give the digits that a set names; one alone for what is not understood."""
    taken: set[int] = set()
    for kind, value in items:
        if kind == "CATEGORY":
            if str(value) not in CATEGORIES:
                return {DIGITS[0]}
            if str(value) in ("CATEGORY_DIGIT", "CATEGORY_NOT_SPACE", "CATEGORY_WORD"):
                taken.update(DIGITS)
        elif kind != "NEGATE":
            low, high = (value, value) if kind == "LITERAL" else value
            taken.update(code for code in DIGITS if low <= code <= high)
    return taken


def _overlap(texts: Iterable[str]) -> bool:
    """Say whether a place of one text may be within that of another."""
    pairs = product(texts, repeat=2)
    return any((one != other and one in other) or _share_end(one, other) for one, other in pairs)


def _share_end(one: str, other: str) -> bool:
    return any(one.endswith(other[:length]) for length in range(1, min(len(one), len(other))))
