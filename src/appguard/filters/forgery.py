r"""Whether somebody could have another banned: looks for a line that a client may write and that names a victim.

Theory of operation. From a line that matched, lines are made up in which the client wrote, where clients may choose a
text, what the filter looks for, with the address of a victim: behind its own user name, within what stands in quotes,
and, for expressions that are not anchored, as any text whatever behind the date. A made-up line is a proof if a filter
of the same options names the victim. That none is found proves nothing; so what is not anchored is said in any case.
"""

import re
from collections.abc import Iterator, Sequence

from appguard.filters.expression import Budget, OverBudget, compiled
from appguard.filters.linear import is_anchored
from appguard.filters.regex import Hit, RegexFilter

VICTIM = "192.0.2.66"  # of the block for documentation
QUOTED = re.compile(r'"[^"]*"')
INNOCENT = "hello "
MADE_UP_MOST = 10  # quoted texts of a line that are tried


def unanchored(made: RegexFilter) -> list[int]:
    """Give the numbers, from 1, of the failregexes that may match in the middle of what they search."""
    is_prefix_anchored = not made.prefregex or is_anchored(made.prefregex)
    return [
        number
        for number, pattern in enumerate(made.failregexes, start=1)
        if not (is_prefix_anchored and is_anchored(pattern))
    ]


def forged(made: RegexFilter, lines: Sequence[tuple[bytes, float]]) -> str:
    """Give a line by which a client would have `VICTIM` banned, empty if none is found.

    `lines` are some that matched, and when they were written.
    """
    if made.options.maxlines > 1 or not lines:
        return ""
    tried = _fresh(made)
    for line, time in lines:
        text = line.decode(errors="replace")
        hit = tried.find(line, time)
        if hit is None or hit.id not in text or VICTIM in text:
            continue
        for each in _made_up(made, text, hit):
            if _names_victim(tried, each, time) and _names_victim(_fresh(made), each, time):
                return each
    return ""


def _names_victim(tried: RegexFilter, text: str, time: float) -> bool:
    found = tried.find(text.encode(), time)
    return found is not None and found.id == VICTIM


def _fresh(made: RegexFilter) -> RegexFilter:
    return RegexFilter(made.name, made.options)  # without what lines before it have told


def _made_up(made: RegexFilter, text: str, hit: Hit) -> Iterator[str]:
    start = _start_of_content(made, text)
    place = text.index(hit.id)
    user = hit.groups.get("user", "")
    if user and user in text[start:place]:
        behind = text.index(user, start) + len(user)
        yield text[:behind] + text[behind:].replace(hit.id, VICTIM) + text[behind:]
    told = text[start:].replace(hit.id, VICTIM).replace('"', "")
    for quoted in list(QUOTED.finditer(text))[:MADE_UP_MOST]:
        yield f"{text[: quoted.start() + 1]}{told} {text[quoted.start() + 1 :]}"
        yield f"{text[: quoted.end() - 1]} {told}{text[quoted.end() - 1 :]}"
    if unanchored(made):
        yield text[:start] + INNOCENT + text[start:].replace(hit.id, VICTIM)


def _start_of_content(made: RegexFilter, text: str) -> int:
    """Give where that begins which a program writes of its own: behind the date, and behind what `prefregex` takes."""
    budget = Budget()
    try:
        date = made.dates.find(text, budget)
    except OverBudget:
        return 0
    begin, end = (0, 0) if date is None else date.place
    start = end if not text[:begin].strip(" <[(") else 0
    prefix = compiled(made.prefregex).search(text[start:]) if made.prefregex else None
    if prefix is None or "content" not in prefix.groupdict():
        return start + len(text[start:]) - len(text[start:].lstrip())
    return start + prefix.start("content")
