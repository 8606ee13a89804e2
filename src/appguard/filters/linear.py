r"""How long a regex may take at worst: the power of the text's length that bounds it, or that none does.

Theory of operation. Python's `re` backtracks: where a repeat could have ended elsewhere, it tries that too. A repeat
whose characters cannot begin what follows ends in one place only, and costs its length. Any other multiplies the cost
of all that follows it by the length: `.*a.*b` is quadratic. Inside a repeat, a choice that the next character does not
decide doubles the cost with every round: no power bounds `(a|ab)*` or `(\w+\s?)*`. A regex that may begin anywhere is
tried at each character, which multiplies once more.

What follows a repeat is tried where the repeat may end: within a run of its characters, so only what can begin with one
of them (or with one and then another, as in `[\w.]*\w`) is multiplied; what begins otherwise has its turn once, behind
the run. Before a `.+$` nothing is tried again, since that takes any line: what leads there and what follows cost apart.

The estimate is on the safe side: what is not understood counts as the worst. Look-arounds cost on their own, since
nothing goes back into them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf, log
from typing import Any

from appguard.filters.parse_tree import LOOKS, REPEATS, Node, has_flags, parse
from appguard.filters.tags import V6

Chars = frozenset[str]
Nodes = Sequence[Node]

SAMPLES = "".join(map(chr, range(128))) + "\u0663\u00e9\u2003\u2014"  # and of all others a digit, letter, space, sign
ALL: Chars = frozenset(SAMPLES)
OTHERS: Chars = frozenset(SAMPLES[128:])
NONE: Chars = frozenset()
COPIES_MOST = 4  # times a group may be repeated and still be looked at as so many groups one after the other
MANY = 64  # a choice between this many ways counts as one between as many as there are characters
LONG = 1 << 16  # longer than any line
GLANCE = 0.5  # a look-around that costs no more is as good as a character
V6_OR_MORE = "[0-9A-Fa-f:.]{2,45}"  # takes all that `V6` takes, which costs little and is hard to tell
TOO_MUCH = 9
LONE_LEAST, LONE_MOST = 3, 16  # characters of a text that is supposed to be there once
CATEGORIES: dict[str, Chars] = {
    f"CATEGORY_{name}": frozenset(re.findall(text, SAMPLES))
    for text, name in zip(
        (r"\d", r"\D", r"\s", r"\S", r"\w", r"\W"),
        ("DIGIT", "NOT_DIGIT", "SPACE", "NOT_SPACE", "WORD", "NOT_WORD"),
        strict=True,
    )
}
ENDS = ("AT_END", "AT_END_STRING")
BEGINNINGS = ("AT_BEGINNING", "AT_BEGINNING_STRING")


class _Unbounded(Exception):
    """No power of the length bounds the cost."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows: the power that bounds its cost, by the character that comes next.

    A character it cannot begin with costs `other`. `then` follows its first character, if that is one that must be.
    """

    degrees: Mapping[str, float] = field(default_factory=dict[str, float])
    other: float = 0
    once: float = 0  # what is done once, and never tried again
    is_optional: bool = False  # it may be empty
    is_certain: bool = False  # it cannot fail, so nothing before it is tried again
    is_end: bool = False  # it is a mere `$`
    then: "_Rest | None" = None
    text: str = ""  # that it begins with
    supposed: frozenset[str] | None = None  # texts that are supposed to be there once at most; None: do not suppose

    @property
    def first(self) -> Chars:
        """Give the characters that it may begin with."""
        return frozenset(self.degrees)

    @property
    def tried(self) -> float:
        """Give the power that bounds the cost of one try."""
        return max(self.degrees.values(), default=self.other)

    @property
    def degree(self) -> float:
        """Give the power that bounds the cost of all of it."""
        return max(self.tried, self.other, self.once)

    def within(self, run: Chars) -> float:
        """Give the power that bounds the cost of one try within a run of such characters, before its last one."""
        if self.then is None:
            return max((self.degrees.get(char, self.other) for char in run), default=0)
        return self.then.within_single(run) if not run.isdisjoint(self.degrees) else self.other

    def within_single(self, run: Chars) -> float:
        """Give the same, looking at the next character only."""
        return max((self.degrees.get(char, self.other) for char in run), default=0)

    def behind(self) -> "_Rest":
        """Give it as what stands before it sees it: once reached, what is certain is never tried again."""
        return (
            replace(self, degrees=dict.fromkeys(self.degrees, 0), other=0, once=self.degree)
            if self.is_certain
            else self
        )


END = _Rest(is_optional=True, is_certain=True, is_end=True)


@dataclass(frozen=True, slots=True)
class Bound:
    """The power of the text's length that bounds a search's cost, None if none is known to.

    `lone_degree` does the same for a text in which each of the texts in `lone` occurs once at most.
    """

    degree: float | None
    lone: tuple[str, ...]
    lone_degree: float | None


def bound_of(pattern: str) -> Bound:
    """Say what a search may cost."""
    try:
        tree = parse(pattern.replace(V6, V6_OR_MORE))
    except RecursionError:
        return Bound(None, (), None)
    degree, _ = _bound(tree.nodes, END)
    if has_flags(tree):
        return Bound(degree, (), degree)
    lone_degree, lone = _bound(tree.nodes, replace(END, supposed=frozenset()))
    return Bound(degree, tuple(sorted(lone)), lone_degree)


def degree_of(pattern: str) -> float | None:
    """Give the power of the text's length that bounds a search's cost, None if none is known to."""
    return bound_of(pattern).degree


def _bound(nodes: Nodes, end: _Rest) -> tuple[float | None, frozenset[str]]:
    try:
        found = _sequence(nodes, end, is_in_loop=False)
    except (_Unbounded, RecursionError):
        return None, frozenset()
    degree = found.degree + (0 if _is_anchored(nodes) else 1)
    return (max(1.0, degree), found.supposed or frozenset()) if degree < TOO_MUCH else (None, frozenset())


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
        behind = rest.behind()
        return _Rest(
            dict.fromkeys(chars, max(behind.tried, behind.other)),
            once=behind.once,
            then=behind,
            text=chr(node.code) + behind.text if node.op == "LITERAL" else "",
            supposed=behind.supposed,
        )
    if node.op in REPEATS:
        return _repeat(node, rest, is_in_loop=is_in_loop)
    if node.op in LOOKS:
        cost = _alone(node.branches[0]).degree
        return replace(_raised(rest, cost if cost > GLANCE else 0), is_certain=False, then=None, text="")
    if node.op == "AT":
        return _at(node, rest)
    if node.op == "GROUPREF":
        degree = max(1, rest.degree)  # it takes what its group took, in one way
        return _Rest(dict.fromkeys(ALL, degree), degree, is_optional=True, supposed=rest.supposed)
    if not node.branches:
        raise _Unbounded
    return _branch(node, rest, is_in_loop=is_in_loop)


def _raised(rest: _Rest, power: float) -> _Rest:
    raised = {char: degree + power for char, degree in rest.degrees.items()}
    return replace(rest, degrees=raised, other=rest.other + power)


def _at(node: Node, rest: _Rest) -> _Rest:
    """Let only a line end come behind a `$`; other places may be anywhere."""
    behind = replace(rest.behind(), is_certain=False, is_end=rest.is_end and node.at == "AT_END", then=None, text="")
    if node.at not in ENDS:
        return behind
    return replace(behind, degrees={char: degree for char, degree in behind.degrees.items() if char == "\n"}, other=0)


def _branch(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    if len(node.branches) == 1:
        return _sequence(node.branches[0], rest, is_in_loop=is_in_loop)
    ways = [_sequence(each, rest, is_in_loop=is_in_loop) for each in node.branches]
    found = _either(ways)
    is_open = node.op == "BRANCH" and sum(len(way.degrees) for way in ways) > len(found.degrees)
    if is_in_loop and is_open:  # of `GROUPREF_EXISTS` the group decides, not the next character
        raise _Unbounded
    return found


def _either(ways: Sequence[_Rest]) -> _Rest:
    first = NONE.union(*(way.degrees for way in ways))
    return _Rest(
        {char: _sum(*[way.degrees.get(char, way.other or None) for way in ways]) for char in first},
        _sum(*[way.other or None for way in ways]),
        max(way.once for way in ways),
        is_optional=any(way.is_optional for way in ways),
        is_certain=any(way.is_certain for way in ways),
        supposed=_union(way.supposed for way in ways),
    )


def _union(texts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    given = [each for each in texts if each is not None]
    return frozenset[str]().union(*given) if given else None


@lru_cache(maxsize=1024)
def _sum(*powers: float | None) -> float:
    """Give the power of trying one way after the other; one that fails at once is None."""
    return log(max(1.0, sum(MANY**power for power in powers if power is not None)), MANY)


def _power(ways: float) -> float:
    """Give the power as which a choice between so many ways counts."""
    return log(ways, MANY) if ways < MANY else 1.0


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
    if is_in_loop and not (_is_fixed(node) or begin.first.isdisjoint(rest.degrees)):
        raise _Unbounded
    behind = rest.behind()
    run = begin.first
    inside = max(behind.tried, behind.other)
    again, supposed = (0, behind.supposed) if _is_fixed(node) else _again(behind, run)
    ways = _power(1 + node.most * width(body)) + again
    inside = max(ways, inside) + max(0, begin.degree - 1)  # a look-around in each round
    degrees = dict.fromkeys(run, inside)
    if not node.least:
        degrees |= {char: max(degree, degrees.get(char, 0)) for char, degree in behind.degrees.items()}
    takes_all = rest.is_end and body[0].op == "ANY" and node.least <= 1 and node.op == "MAX_REPEAT" and node.most > LONG
    return _Rest(
        degrees,
        0 if node.least else behind.other,
        behind.once,
        is_optional=not node.least and rest.is_optional,
        is_certain=takes_all or (rest.is_certain and not node.least),
        supposed=supposed,
    )


def _again(rest: _Rest, run: Chars) -> tuple[float, frozenset[str] | None]:
    """Give the power of what each end within a run costs, and what that supposes."""
    power = rest.within(run)
    if not power or rest.supposed is None or len(rest.text) < LONE_LEAST:
        return power, rest.supposed
    return 0, rest.supposed | {rest.text[:LONE_MOST]}


def _is_fixed(node: Node) -> bool:
    return node.least == node.most or node.op == "POSSESSIVE_REPEAT"


def _check_rounds(body: Nodes, begin: _Rest, rest: _Rest) -> None:
    """Refuse a group whose rounds could be parted in more than one way."""
    again = _Rest(dict.fromkeys(begin.first | rest.first, 0), is_optional=True)
    if begin.is_optional or _sequence(body, again, is_in_loop=True).degree > 1:
        raise _Unbounded


def _copies(node: Node, rest: _Rest, *, is_in_loop: bool) -> _Rest:
    for number in range(node.most, 0, -1):
        taken = _sequence(node.branches[0], rest, is_in_loop=is_in_loop)
        if number > node.least:
            if is_in_loop and not taken.first.isdisjoint(rest.degrees):
                raise _Unbounded
            taken = _either([taken, rest])
        rest = taken
    return rest


def width(nodes: Nodes) -> float:
    """Give the most characters that nodes may take."""
    return sum(map(_width_of, nodes))


def _width_of(node: Node) -> float:
    if _chars(node) is not None:
        return 1
    if node.op in LOOKS or node.op == "AT":
        return 0
    if node.op == "GROUPREF" or not node.branches:
        return inf
    widest = max(map(width, node.branches))
    return widest if node.op not in REPEATS or not widest else node.most * widest


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


@lru_cache(maxsize=256)
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
