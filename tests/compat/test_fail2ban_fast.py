"""What makes fail2ban's filters fast loses nothing: each line tells what it would if every regex were tried on it."""

import random
import re
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from appguard.filters.expression import Budget
from appguard.filters.literals import Literals
from appguard.filters.regex import COLOUR, RegexFilter
from appguard.filters.tags import plain_name
from appguard.sieve import Search, Sieve, by_hyperscan, by_re
from appguard.sources.base import LINE_MOST
from tests.compat.fail2ban_samples import find_layout, records
from tests.compat.test_fail2ban_cost import filters

NOW = 1_795_000_000.0
LINES = 84  # of a filter
LENGTH = 300  # of a line: this test has no budget
PIECES = (
    b"#033[1m",
    b"\x1b[0m",
    b" from ",
    b"[]",
    b"\xff",
    b" ",
    b"11:",
    b"2026-11-14 10:00:00 ",
    b"Nov 14 10:00:00 x",
)
CLOCK = re.compile(rb"[0-9]{2}:[0-9]{2}:[0-9]{2}")
Groups = dict[str, str]
NewSearch = Callable[[Literals], Search] | None


@cache
def samples() -> dict[str, list[bytes]]:
    """Give the lines that fail2ban's own samples have for each filter."""
    found: dict[str, list[bytes]] = {}
    for record in records(find_layout()):
        found.setdefault(record.filter, []).append(record.line[:LENGTH])
    return found


@cache
def opened() -> tuple[RegexFilter, ...]:
    """Open all filters that look at one line at a time."""
    return tuple(each for each in filters() if each.options.maxlines == 1)


def varied(chosen: RegexFilter) -> list[bytes]:
    """Give sample lines of a filter, as they are and changed in many ways, always the same."""
    chance = random.Random(chosen.name)
    known = samples().get(chosen.name) or [b"Nov 14 10:00:00 vm1 app[1]: from 203.0.113.5"]
    found: list[bytes] = []
    while len(found) < LINES:
        line = chance.choice(known)
        found.append(line)
        at, to = sorted((chance.randrange(len(line) + 1), chance.randrange(len(line) + 1)))
        digits = re.sub(rb"[0-9]", lambda _: b"%d" % chance.randrange(10), line)
        later = CLOCK.sub(lambda _: b"%02d:%02d:11" % (chance.randrange(9, 14), chance.randrange(60)), line)
        numbers = re.sub(rb"[0-9]+", lambda _: b"%d" % chance.randrange(10 ** chance.randrange(1, 6)), line)
        found += (line[:at] + chance.choice(PIECES) + line[at:], line[:at] + line[to:], line[at:])
        found += (digits, later, numbers)
    return found


def captured(chosen: RegexFilter, line: bytes) -> Groups | None:
    """Give what the regexes capture in a line, each tried in its turn by Python's `re`."""
    text = COLOUR.sub("", line.decode(errors="replace").replace("\n", " ").rstrip("\r"))
    for expression in chosen.dates.expressions:
        date = re.search(expression, text, re.IGNORECASE)
        if date:
            text = text[: date.start("date")] + text[date.end("date") :]
            break
    text, groups = text + "\n", Groups()
    if chosen.prefregex:
        prefix = re.search(chosen.prefregex, text)
        if prefix is None:
            return None
        groups = named(prefix)
        text = groups.pop("content", text[:-1]) + "\n"
    for failregex in chosen.failregexes:
        found = re.search(failregex, text)
        if found:
            is_ignored = any(re.search(each, text) for each in chosen.ignoreregexes)
            return None if is_ignored else groups | named(found)
    return None


def named(found: re.Match[str]) -> Groups:
    """Give the groups that took part by the names they stand for."""
    groups = Groups()
    for alternatives in (False, True):
        for group, value in found.groupdict().items():
            alternative = re.fullmatch(r"alt_([a-z]+)[0-9_]*", plain_name(group))
            if value is not None and bool(group.startswith("alt_")) is alternatives:
                name = alternative[1] if alternative else plain_name(group)
                groups[name] = groups.get(name) or value
    return groups


def cases() -> Iterator[tuple[RegexFilter, bytes, Groups | None]]:
    """Give lines with what they tell."""
    for chosen in opened():
        for line in varied(chosen):
            yield chosen, line, captured(chosen, line)


def test_every_line_tells_what_it_would_if_all_regexes_were_tried() -> None:
    """The same groups, the first times a line is seen and when its shape is known; and many lines tell of some."""
    telling = 0
    for chosen, line, expected in cases():
        for _ in range(3):
            found = chosen.captured(line, NOW)
            assert (None if found is None else found[0]) == expected, (chosen.name, line)
        telling += expected is not None
    assert telling > 1000
    assert not any(each.patience.skipped for each in opened())


@pytest.mark.parametrize("search", [by_re, by_hyperscan, None])
def test_no_line_is_lost_before_it_is_looked_at(search: NewSearch) -> None:
    """The lines that the literals of a filter let through have all that tell of something among them."""
    telling = passed = 0
    for chosen in opened():
        lines = [line.replace(b"\n", b" ") for line in varied(chosen)]
        sieve = Sieve(chosen.needs, LINE_MOST, search)
        candidates = set(sieve.candidates(b"\n".join(lines) + b"\n"))
        expected = {line for line in lines if captured(chosen, line) is not None}
        assert expected <= candidates, chosen.name
        telling, passed = telling + len(expected), passed + len(candidates)
    assert telling > 1000
    assert all(all(sets) for sets in [each.needs for each in opened() if each.name in ("sshd", "nginx-http-auth")])


def test_dates_are_what_they_are_without_memory() -> None:
    """Lines that begin as others did have the same date at the same place, and tell the same time."""
    for chosen in opened():
        for line in varied(chosen):
            text = line.decode(errors="replace")
            found = chosen.dates.find(text, Budget())
            expected = next(
                (
                    match.span("date")
                    for each in chosen.dates.expressions
                    if (match := re.search(each, text[:4096], re.IGNORECASE))
                ),
                None,
            )
            assert (None if found is None else found.place) == expected, (chosen.name, line)
