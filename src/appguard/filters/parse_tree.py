"""A Python regex as a tree of typed nodes, which `linear.py` and `head.py` look at."""

import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

# Private, and the only parser that reads a regex exactly as `re` does; the same from Python 3.11 on.
PARSER: Any = importlib.import_module("re._parser")

REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
LOOKS = ("ASSERT", "ASSERT_NOT")


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `op` is the parser's name for it, the other fields are set where they mean something.

    `branches` are the sequences of nodes within: one, or for `BRANCH` and `GROUPREF_EXISTS` the alternatives.
    """

    op: str
    code: int = 0  # of LITERAL, NOT_LITERAL: the character
    at: str = ""  # of AT
    items: tuple[tuple[str, Any], ...] = ()  # of IN: the parser's names and values
    least: int = 0  # of a repeat
    most: int = 0
    has_flags: bool = False  # of SUBPATTERN: `(?i:...)`
    branches: "tuple[tuple[Node, ...], ...]" = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole regex; `has_flags` says whether flags stand at its beginning."""

    nodes: tuple[Node, ...]
    has_flags: bool


@lru_cache(maxsize=64)
def parse(pattern: str) -> Tree:
    """Parse a regex that compiles. Raise `RecursionError` for one nested too deeply."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compiled: what there is to say about it was said then
        parsed = PARSER.parse(pattern)
    return Tree(_nodes(parsed), bool(parsed.state.flags & ~re.UNICODE.value))


def has_flags(tree: Tree) -> bool:
    """Say whether flags stand anywhere in a regex."""
    return tree.has_flags or any(map(_has_flags, tree.nodes))


def _has_flags(node: Node) -> bool:
    return node.has_flags or any(_has_flags(each) for branch in node.branches for each in branch)


def _nodes(tree: object) -> tuple[Node, ...]:
    return tuple(_node(str(op), value) for op, value in cast("Iterable[tuple[object, Any]]", tree))


def _node(op: str, value: Any) -> Node:
    if op in ("LITERAL", "NOT_LITERAL"):
        return Node(op, code=int(value))
    if op == "AT":
        return Node(op, at=str(value))
    if op == "IN":
        return Node(op, items=tuple((str(kind), each) for kind, each in value))
    if op in REPEATS:
        return Node(op, least=int(value[0]), most=int(value[1]), branches=(_nodes(value[2]),))
    has_flags = op == "SUBPATTERN" and bool(value[1] or value[2])
    return Node(op, has_flags=has_flags, branches=tuple(map(_nodes, _branches(op, value))))


def _branches(op: str, value: Any) -> Sequence[object]:
    if op in LOOKS:
        return (value[1],)
    if op == "SUBPATTERN":
        return (value[3],)
    if op == "ATOMIC_GROUP":
        return (value,)
    if op == "BRANCH":
        return cast("Sequence[object]", value[1])
    return (value[1], value[2] or ()) if op == "GROUPREF_EXISTS" else ()
