"""The characters that every match of an anchored regex begins with, as a regex that costs next to nothing.

Most lines of a log fail an anchored regex within its first word. Asking for that word alone first keeps the regexes
that may take long, and the timers around them, away from those lines.
"""

import re
from collections.abc import Sequence

from appguard.filters.parse_tree import Node, parse

MOST = 16
ONE = ("IN", "ANY", "NOT_LITERAL")


def head_of(pattern: str) -> re.Pattern[str] | None:
    """Give a regex that matches wherever `pattern` does; None for one that is not anchored or begins with anything."""
    try:
        tree = parse(pattern)
    except RecursionError:
        return None
    if tree.has_flags or not tree.nodes or tree.nodes[0].at != "AT_BEGINNING":
        return None
    pieces, _ = _pieces(tree.nodes[1:])
    text = "".join(pieces[:MOST]).rstrip(".")
    return re.compile(text, re.DOTALL) if text else None


def _pieces(nodes: Sequence[Node]) -> tuple[list[str], bool]:
    """Give the characters that the nodes begin with, one piece each, and whether that is all of the nodes."""
    pieces: list[str] = []
    for node in nodes:
        if node.op == "LITERAL":
            pieces.append(re.escape(chr(node.code)))
        elif node.op in ONE:
            pieces.append(".")
        elif node.op == "SUBPATTERN" and not node.has_flags:
            within, is_all = _pieces(node.branches[0])
            pieces += within
            if not is_all:
                return pieces, False
        else:
            return pieces, False
    return pieces, True
