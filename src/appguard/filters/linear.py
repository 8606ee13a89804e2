r"""How long a regex may take at worst: the power of the text's length that bounds it, or that none does.

Theory of operation. Python's `re` backtracks: where a repeat could have ended elsewhere, it tries that too. A repeat
whose characters cannot begin what follows ends in one place only, and costs its length. Any other multiplies the cost of
all that follows it by the length: `.*a.*b` is quadratic. Inside a repeat, a choice that the next character does not
decide doubles the cost with every round: no power bounds `(a|ab)*` or `(\w+\s?)*`. A regex that may begin anywhere is
tried at each character, which multiplies once more.

The estimate is on the safe side: only the next one character is looked at, and what is not understood counts as the worst.
Look-arounds cost on their own, since nothing goes back into them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parse tree that Python has
from typing import Any, cast

Chars = frozenset[str]
Node = tuple[Any, Any]

SAMPLES = "".join(map(chr, range(128))) + "\u0663\u00e9\u2003\u2014"  # and of all others a digit, letter, space, sign
ALL: Chars = frozenset(SAMPLES)
COPIES_MOST = 4  # times a group may be repeated and still be looked at as so many groups one after the other
FEW = 32  # times a character may be repeated and still cost nothing worth counting
TOO_MUCH = 9
CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}
OF_CATEGORY: dict[object, Chars] = {key: frozenset(re.findall(text, SAMPLES)) for key, text in CATEGORIES.items()}
REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
LOOKS = (_constants.ASSERT, _constants.ASSERT_NOT)
BEGINNINGS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)


class _Unbounded(Exception):
    """No power of the length bounds the cost."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows: the characters it may begin with, whether it may be empty, the power that bounds its cost."""

    first: Chars
    is_optional: bool
    degree: int


END = _Rest(frozenset(), True, 0)


def degree_of(pattern: str, flags: int = 0) -> int | None:
    """Give the power of the text's length that bounds a search's cost, None if none is known to."""
    try:
        tree = _parser.parse(pattern, flags)
        degree = _sequence(_nodes(tree), END, is_in_loop=False).degree
    except (_Unbounded, RecursionError):
        return None
    degree += 0 if _is_anchored(_nodes(tree)) else 1
    return max(1, degree) if degree < TOO_MUCH else None


def _nodes(tree: object) -> list[Node]:
    return list(cast("Any", tree))


def _is_anchored(nodes: Sequence[Node]) -> bool:
    for op, value in nodes:
        if op is _constants.AT:
            return value in BEGINNINGS
        if op is _constants.SUBPATTERN:
            return _is_anchored(_nodes(value[-1]))
        if op is _constants.BRANCH:
            return all(_is_anchored(_nodes(each)) for each in value[1])
        if op not in LOOKS:
            return False
    return False


def _sequence(nodes: Sequence[Node], rest: _Rest, *, is_in_loop: bool) -> _Rest:
    for op, value in reversed(nodes):
        rest = _node(op, value, rest, is_in_loop=is_in_loop)
    return rest


def _node(op: object, value: Any, rest: _Rest, *, is_in_loop: bool) -> _Rest:  # noqa: ANN401
    chars = _chars(op, value)
    if chars is not None:
        return _Rest(chars, False, rest.degree)
    if op in REPEATS:
        return _repeat(op, value, rest, is_in_loop=is_in_loop)
    if op is _constants.AT:
        return rest
    if op in LOOKS:
        inner = _sequence(_nodes(value[1]), END, is_in_loop=False).degree
        return _Rest(rest.first, rest.is_optional, rest.degree + inner)
    if op is _constants.SUBPATTERN:
        return _sequence(_nodes(value[-1]), rest, is_in_loop=is_in_loop)
    if op is _constants.ATOMIC_GROUP:
        return _sequence(_nodes(value), rest, is_in_loop=is_in_loop)
    if op is _constants.BRANCH:
        return _branch([_nodes(each) for each in value[1]], rest, is_in_loop=is_in_loop)
    if op is _constants.GROUPREF_EXISTS:
        branches = [_nodes(value[1]), _nodes(value[2]) if value[2] else []]
        return _branch(branches, rest, is_in_loop=False)  # the group decides, not the next character
    if op is _constants.GROUPREF:
        return _Rest(ALL, True, rest.degree + 1)
    raise _Unbounded


def _branch(branches: Sequence[Sequence[Node]], rest: _Rest, *, is_in_loop: bool) -> _Rest:
    ways = [_sequence(each, rest, is_in_loop=is_in_loop) for each in branches]
    if is_in_loop and sum(len(way.first) for way in ways) > len(frozenset[str]().union(*(way.first for way in ways))):
        raise _Unbounded
    return _either(ways)


def _either(ways: Sequence[_Rest]) -> _Rest:
    first = frozenset[str]().union(*(way.first for way in ways))
    return _Rest(first, any(way.is_optional for way in ways), max(way.degree for way in ways))


def _repeat(op: object, value: Any, rest: _Rest, *, is_in_loop: bool) -> _Rest:  # noqa: ANN401
    least, most, body = int(value[0]), int(value[1]), _nodes(value[2])
    one = _chars(*body[0]) if len(body) == 1 else None
    if one is None and most <= COPIES_MOST:
        return _copies(least, most, body, rest, is_in_loop=is_in_loop)
    begin = _sequence(body, END, is_in_loop=False)
    if one is None:
        again = _Rest(begin.first | rest.first, True, 0)
        if begin.is_optional or _sequence(body, again, is_in_loop=True).degree > 1:
            raise _Unbounded
    is_decided = least == most or op is _constants.POSSESSIVE_REPEAT or begin.first.isdisjoint(rest.first)
    if is_in_loop and not is_decided:
        raise _Unbounded
    if one is not None and most <= FEW:
        degree = rest.degree
    else:
        looks = max(0, begin.degree - 1)  # a look-around in each round
        degree = (max(1, rest.degree) if is_decided else 1 + rest.degree) + looks
    first = begin.first if least else begin.first | rest.first
    return _Rest(first, not least and rest.is_optional, degree)


def _copies(least: int, most: int, body: Sequence[Node], rest: _Rest, *, is_in_loop: bool) -> _Rest:
    for number in range(most, 0, -1):
        taken = _sequence(body, rest, is_in_loop=is_in_loop)
        if number > least:
            if is_in_loop and not taken.first.isdisjoint(rest.first):
                raise _Unbounded
            taken = _either([taken, rest])
        rest = taken
    return rest


def _chars(op: object, value: Any) -> Chars | None:  # noqa: ANN401
    """Give the characters that a node for one character takes, None for any other node."""
    if op is _constants.LITERAL:
        return _literal(value)
    if op is _constants.NOT_LITERAL:
        return ALL - {chr(value)}
    if op is _constants.ANY:
        return ALL - {"\n"}
    if op is _constants.IN:
        return _set(value)
    return None


def _literal(code: int) -> Chars:
    char = chr(code)
    if code >= 128:  # it may be any of those that stand for all others
        return frozenset(SAMPLES[128:])
    return frozenset((char, char.swapcase()))  # it may be that case does not matter


def _set(items: Sequence[Node]) -> Chars:
    taken: set[str] = set()
    is_negated = False
    for op, value in items:
        if op is _constants.NEGATE:
            is_negated = True
        elif op is _constants.LITERAL:
            taken |= {chr(value)} if is_negated and value < 128 else _literal(value) if not is_negated else set()
        elif op is _constants.RANGE:
            inside = {char for char in SAMPLES if value[0] <= ord(char) <= value[1]}
            taken |= inside if is_negated else inside | {char.swapcase() for char in inside}
            taken |= set(SAMPLES[128:]) if value[1] >= 128 and not is_negated else set()
        elif op is _constants.CATEGORY:
            taken |= OF_CATEGORY.get(value, ALL if not is_negated else frozenset())
    return ALL - taken if is_negated else frozenset(taken) & ALL
