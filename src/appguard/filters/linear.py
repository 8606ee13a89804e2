r"""How long a regex may take at worst: the power of the text's length that bounds it, or that none does.

Theory of operation. Python's `re` backtracks: where a repeat could have ended elsewhere, it tries that too. A repeat
whose characters cannot begin what follows ends in one place only, and costs its length. Any other multiplies the cost
of all that follows it by the length: `.*a.*b` is quadratic. Inside a repeat, a choice that the next character does not
decide doubles the cost with every round: no power bounds `(a|ab)*` or `(\w+\s?)*`. A regex that may begin anywhere is
tried at each character, which multiplies once more.

The estimate is on the safe side: only the next one character is looked at, and what is not understood counts as the
worst. Look-arounds cost on their own, since nothing goes back into them. Before a `.+$` nothing is tried again: it
takes any line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from appguard.filters.parse_tree import LOOKS, REPEATS, Node, parse

Chars = frozenset[str]
Nodes = Sequence[Node]

SAMPLES = "".join(map(chr, range(128))) + "\u0663\u00e9\u2003\u2014"  # and of all others a digit, letter, space, sign
ALL: Chars = frozenset(SAMPLES)
OTHERS: Chars = frozenset(SAMPLES[128:])
NONE: Chars = frozenset()
COPIES_MOST = 4  # times a group may be repeated and still be looked at as so many groups one after the other
FEW = 32  # times a character may be repeated and still cost nothing worth counting
TOO_MUCH = 9
CATEGORIES: dict[str, Chars] = {
    f"CATEGORY_{name}": frozenset(re.findall(text, SAMPLES))
    for text, name in zip(
        (r"\d", r"\D", r"\s", r"\S", r"\w", r"\W"),
        ("DIGIT", "NOT_DIGIT", "SPACE", "NOT_SPACE", "WORD", "NOT_WORD"),
        strict=True,
    )
}
BEGINNINGS = ("AT_BEGINNING", "AT_BEGINNING_STRING")


class _Unbounded(Exception):
    """No power of the length bounds the cost."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows: the characters it may begin with, whether it may be empty, the power that bounds its cost."""

    first: Chars
    is_optional: bool
    degree: int
    is_certain: bool = False  # it cannot fail, so nothing before it is tried again
    is_end: bool = False  # it is a mere `$`


END = _Rest(NONE, True, 0, is_certain=True, is_end=True)


def degree_of(pattern: str) -> int | None:
    """Give the power of the text's length that bounds a search's cost, None if none is known to."""
    try:
        nodes = parse(pattern).nodes
        degree = _sequence(nodes, END, is_in_loop=False).degree + (0 if _is_anchored(nodes) else 1)
    except (_Unbounded, RecursionError):
        return None
    return max(1, degree) if degree < TOO_MUCH else None


def is_anchored(pattern: str) -> bool:
    """Say whether a regex matches at the beginning of a text only; no if that is not known."""
    try:
        return _is_anchored(parse(pattern).nodes)
    except RecursionError:
        return False


def _is_anchored(nodes: Nodes) -> bool:
    for node in nodes:
        if node.op == "AT":
            return node.at in BEGINNINGS
        if node.op in ("SUBPATTERN", "BRANCH"):
            return all(map(_is_anchored, node.branches))
        if node.op not in LOOKS:
            return False
    return False


def _sequence(nodes: Nodes, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    for node in reversed(nodes):
        rest = _node(node, rest, is_in_loop=is_in_loop)
    return rest


def _node(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    chars = _chars(node)
    if chars is not None:
        return _Rest(chars, False, rest.degree)
    if node.op in REPEATS:
        return _repeat(node, rest, is_in_loop=is_in_loop)
    if node.op in LOOKS:
        return _Rest(rest.first, rest.is_optional, rest.degree + _alone(node.branches[0]).degree)
    if node.op == "AT":
        return replace(rest, is_certain=False, is_end=rest.is_end and node.at == "AT_END")
    if node.op == "GROUPREF":
        return _Rest(ALL, True, rest.degree + 1)
    if not node.branches:
        raise _Unbounded
    return _branch(node, rest, is_in_loop=is_in_loop)


def _branch(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    ways = [_sequence(each, rest, is_in_loop=is_in_loop) for each in node.branches]
    found = _either(ways)
    is_open = node.op == "BRANCH" and sum(len(way.first) for way in ways) > len(found.first)
    if is_in_loop and is_open:  # of `GROUPREF_EXISTS` the group decides, not the next character
        raise _Unbounded
    return found


def _either(ways: Sequence[_Rest]) -> _Rest:
    first = NONE.union(*(way.first for way in ways))
    is_optional, is_certain = any(way.is_optional for way in ways), any(way.is_certain for way in ways)
    return _Rest(first, is_optional, max(way.degree for way in ways), is_certain)


def _alone(nodes: Nodes) -> _Rest:
    return _sequence(nodes, END, is_in_loop=False)


def _repeat(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    body = node.branches[0]
    is_char = len(body) == 1 and _chars(body[0]) is not None
    if not is_char and node.most <= COPIES_MOST:
        return _copies(node, rest, is_in_loop=is_in_loop)
    begin = _alone(body)
    if not is_char:
        _check_rounds(body, begin, rest)
    is_decided = node.least == node.most or node.op == "POSSESSIVE_REPEAT" or begin.first.isdisjoint(rest.first)
    if is_in_loop and not is_decided:
        raise _Unbounded
    degree = rest.degree
    if not is_char or node.most > FEW:
        looks = max(0, begin.degree - 1)  # a look-around in each round
        degree = (max(1, degree) if is_decided or rest.is_certain else 1 + degree) + looks
    first = begin.first if node.least else begin.first | rest.first
    takes_all = rest.is_end and body[0].op == "ANY" and node.least <= 1 and node.op == "MAX_REPEAT" and node.most > FEW
    return _Rest(first, not node.least and rest.is_optional, degree, takes_all or (rest.is_certain and not node.least))


def _check_rounds(body: Nodes, begin: _Rest, rest: _Rest) -> None:
    """Refuse a group whose rounds could be parted in more than one way."""
    again = _Rest(begin.first | rest.first, True, 0)
    if begin.is_optional or _sequence(body, again, is_in_loop=True).degree > 1:
        raise _Unbounded


def _copies(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    for number in range(node.most, 0, -1):
        taken = _sequence(node.branches[0], rest, is_in_loop=is_in_loop)
        if number > node.least:
            if is_in_loop and not taken.first.isdisjoint(rest.first):
                raise _Unbounded
            taken = _either([taken, rest])
        rest = taken
    return rest


def _chars(node: Node) -> Chars | None:
    """Give the characters that a node for one character takes, None for any other node."""
    if node.op == "LITERAL":
        return _literal(node.code)
    if node.op == "NOT_LITERAL":
        return ALL - {chr(node.code)}
    if node.op == "ANY":
        return ALL - {"\n"}
    return _set(node.items) if node.op == "IN" else None


def _literal(code: int) -> Chars:
    """Give a character in both cases, since case may not matter; any of all others stands for one of them."""
    return OTHERS if code >= 128 else frozenset((chr(code), chr(code).swapcase()))


def _set(items: Sequence[tuple[str, Any]]) -> Chars:
    """Give the characters of a set, rather too many: of a negated one only what is surely left out is left out."""
    is_negated = any(kind == "NEGATE" for kind, _ in items)
    taken = NONE.union(*(_item(kind, value, is_exact=is_negated) for kind, value in items))
    return ALL - taken if is_negated else taken & ALL


def _item(kind: str, value: Any, *, is_exact: bool) -> Chars:
    if kind == "CATEGORY":
        return CATEGORIES.get(str(value), NONE if is_exact else ALL)
    if kind not in ("LITERAL", "RANGE"):
        return NONE
    low, high = (value, value) if kind == "LITERAL" else value
    inside = frozenset(map(chr, range(low, min(high, 127) + 1)))
    if is_exact:
        return inside
    return inside | {char.swapcase() for char in inside} | (OTHERS if high >= 128 else NONE)
