"""A trial says of every line what the filter itself says, however much it leaves out to be quick."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appguard.filters.forgery import VICTIM, forged
from appguard.filters.open import open_filter
from appguard.filters.regex import RegexFilter
from appguard.filters.trial import Trial

PIECES = (
    "Nov 20 09:11:02 ", "[20/Nov/2026:09:11:02 +0000] ", "host sshd[7]: ", "Failed password for ", "root ",
    "invalid user ",
    "from 203.0.113.5 ", "203.0.113.6 - - ", "2001:db8::7 ", '"GET / HTTP/1.1" ', "404 ", "port 22 ssh2", "Accepted ",
    "\x1b[31m", "#033[0m", "\r", "é", "#", "x" * 50,
)  # fmt: skip
LINES = st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join).map(str.encode) | st.binary(max_size=99))
FILTERS: tuple[tuple[str, dict[str, object]], ...] = (
    ("fail2ban:sshd", {}),
    ("fail2ban:nginx-http-auth", {}),
    ("regex", {"failregex": ["^<HOST> .*(404|403) ", "from <HOST>"], "ignoreregex": "root"}),
    ("regex", {"failregex": r"from <HOST> $\n.*port", "maxlines": 3}),
    ("nginx", {}),
    ("sshd", {}),
)


@pytest.mark.parametrize(("name", "options"), FILTERS)
@given(lines=LINES)
@settings(max_examples=20)
def test_a_trial_says_what_the_filter_says(name: str, options: dict[str, object], lines: list[bytes]) -> None:
    """Each line tells of the same client as without the trial, and every line is of exactly one sort."""
    made = open_filter(name, options)
    trial = Trial(open_filter(name, options), most=None)
    for line in lines:
        told = trial.add(line, 0.0)
        if isinstance(made, RegexFilter):
            hit = made.find(line, 0.0)
            assert (None if told is None else told.id) == (None if hit is None else hit.id)
        else:
            assert (told is None) == (made.match(line, 0.0) is None)
    trial.end()
    sorts = (trial.matched, trial.ignored, trial.missed)
    assert sorted(line for sort in sorts for line in sort.kept) == sorted(lines)
    assert trial.lines == len(lines)


@given(lines=LINES)
@settings(max_examples=30)
def test_a_forged_line_is_a_proof(lines: list[bytes]) -> None:
    """Whatever the lines are, what is shown as forged does have the victim banned."""
    options = {"failregex": ["^<HOST> .*(404|403) ", "for <F-USER>.*?</F-USER> from <HOST>"]}
    made = open_filter("regex", options)
    assert isinstance(made, RegexFilter)
    shown = forged(made, [(line, 0.0) for line in lines])
    hit = made.find(shown.encode(), 0.0) if shown else None
    assert not shown or (hit is not None and hit.id == VICTIM)
