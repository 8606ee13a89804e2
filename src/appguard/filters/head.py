"""The characters that every match of an anchored regex begins with, as a regex that costs next to nothing.

Most lines of a log fail an anchored regex within its first word. Asking for that word alone first keeps the regexes that
may take long, and the timers around them, away from those lines.
"""

import re
from collections.abc import Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parse tree that Python has
from typing import Any, cast

MOST = 16


def head_of(pattern: str) -> re.Pattern[str] | None:
    """Give a regex that matches wherever `pattern` does; None for one that is not anchored or begins with anything."""
    try:
        tree = _parser.parse(pattern)
    except RecursionError:
        return None
    if tree.state.flags & ~re.UNICODE.value:
        return None
    anchored, pieces = _head(list(cast("Any", tree)))
    text = "".join(pieces[:MOST]).rstrip(".")
    return re.compile(text, re.DOTALL) if anchored and text else None


def _head(nodes: Sequence[tuple[Any, Any]]) -> tuple[bool, list[str]]:
    """Give whether the nodes begin with `^`, and the fixed characters that follow it."""
    anchored, pieces = False, list[str]()
    for op, value in nodes:
        if op is _constants.AT and value is _constants.AT_BEGINNING:
            anchored = True
        elif op is _constants.LITERAL:
            pieces.append(re.escape(chr(value)))
        elif op in (_constants.IN, _constants.ANY, _constants.NOT_LITERAL):
            pieces.append(".")
        elif op is _constants.SUBPATTERN and not (value[1] or value[2]):
            within = _head(list(cast("Any", value[3])))
            anchored, pieces = anchored or (within[0] and not pieces), pieces + within[1]
            if not _is_fixed(value[3]):
                break
        else:
            break
    return anchored, pieces


def _is_fixed(tree: object) -> bool:
    fixed = (_constants.LITERAL, _constants.IN, _constants.ANY, _constants.NOT_LITERAL)
    return all(op in fixed for op, _ in cast("Any", tree))
