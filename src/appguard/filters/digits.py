"""Whether a regex takes all digits alike, so that it cannot tell two texts apart that differ in digits only."""

from collections.abc import Sequence
from typing import Any

from appguard.filters.parse_tree import Node, parse

DIGITS = range(ord("0"), ord("9") + 1)
CATEGORIES = frozenset(f"CATEGORY_{name}" for name in ("DIGIT", "NOT_DIGIT", "SPACE", "NOT_SPACE", "WORD", "NOT_WORD"))


def takes_digits_alike(pattern: str) -> bool:
    """Say whether no part of a regex takes one of the ten digits and not another, or refers to what a group took."""
    try:
        return _alike(parse(pattern).nodes)
    except RecursionError:
        return False


def _alike(nodes: Sequence[Node]) -> bool:
    return all(map(_is_alike, nodes))


def _is_alike(node: Node) -> bool:
    if node.op in ("LITERAL", "NOT_LITERAL"):
        return node.code not in DIGITS
    if node.op == "IN":
        return len(_taken(node.items)) in (0, len(DIGITS))
    if node.op in ("ANY", "AT"):
        return True
    return bool(node.branches) and all(map(_alike, node.branches))


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
