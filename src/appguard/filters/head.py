"""The texts that matches of an anchored regex begin with.

Most lines of a log fail an anchored regex within its first words. Asking for those alone first keeps the regexes that
may take long away from those lines.
"""

from collections.abc import Iterable, Sequence
from itertools import product

from appguard.filters.parse_tree import LOOKS, REPEATS, Node, parse

TEXTS_MOST = 32
LENGTH_MOST = 32
CLASS_MOST = 4  # characters that a set may stand for

Texts = frozenset[str]
NOTHING: Texts = frozenset({""})


def beginnings_of(pattern: str) -> tuple[str, ...]:
    """Give texts with one of which each match begins; none for a regex that is not anchored or begins otherwise."""
    try:
        tree = parse(pattern)
    except RecursionError:
        return ()
    if tree.has_flags or not tree.nodes or tree.nodes[0].at != "AT_BEGINNING":
        return ()
    texts, _ = _begin(tree.nodes[1:])
    return () if "" in texts else tuple(sorted(texts))


def _begin(nodes: Sequence[Node]) -> tuple[Texts, bool]:
    """Give the texts that the nodes begin with, and whether that is all of the nodes."""
    run = NOTHING
    for node in nodes:
        texts, is_all = _texts(node)
        joined = frozenset(before + after for before, after in product(run, texts))
        if len(joined) > TEXTS_MOST or any(len(text) > LENGTH_MOST for text in joined):
            return run, False
        run = joined
        if not is_all:
            return run, False
    return run, True


def _texts(node: Node) -> tuple[Texts, bool]:
    if node.op == "LITERAL":
        return frozenset({chr(node.code)}), True
    if node.op == "IN" and len(node.items) <= CLASS_MOST and all(kind == "LITERAL" for kind, _ in node.items):
        return frozenset(chr(int(code)) for _, code in node.items), True
    if node.op == "AT" or node.op in LOOKS:
        return NOTHING, True  # takes no text
    if node.op in ("SUBPATTERN", "BRANCH", "ATOMIC_GROUP") and not node.has_flags:
        return _either(map(_begin, node.branches))
    if node.op in REPEATS and (node.least, node.most) == (0, 1):
        return _either([_begin(node.branches[0]), (NOTHING, True)])
    if node.op in REPEATS and node.least:
        return _begin(node.branches[0])[0], False
    return NOTHING, False


def _either(ways: Iterable[tuple[Texts, bool]]) -> tuple[Texts, bool]:
    found = list(ways)
    return NOTHING.difference(NOTHING).union(*(texts for texts, _ in found)), all(is_all for _, is_all in found)
