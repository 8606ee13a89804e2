"""What a regex may cost, and what every match of it begins with: never estimated too low, and no match hidden."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.filters.head import beginnings_of
from appguard.filters.linear import degree_of


@pytest.mark.parametrize(
    ("pattern", "degree"),
    [
        ("foo", 1),
        (r"^\S+ \S+$", 1),
        (r"^(?:\S+ )*x", 1),
        (r'^"[^"\\]*(?:\\.[^"\\]*)*"', 1),
        (r"^(?:[\da-f]{2}:){15}[\da-f]{2}", 1),
        (r"^(?:(?!x).)*+x", 1),
        (r"^.*$", 1),
        (r"^a{1,3}a{1,3}b", 1),
        (r"^\s*(?:\S+\s+)?(?:x\s+)?.+$", 1),
        (r"^\s*(?:\S+\s+)?(?:x\s+)?.+y", 2),
        (r"\S+ x", 2),
        (r"^.*a.*b", 2),
        (r"^a.*b.*c\d+x", 3),
        (r".*a.*b", 3),
        (r"^(\w+) \1x", 1),
        (r"^(\w+).*\1x", 3),
        (r"^(\w+\s?)*$", None),
        (r"^(a+)+$", None),
        (r"^(?:a|a)*$", None),
        (r"^(?:a?a?)*b", None),
        (r"^(?:aa?){9}b", None),
        (r"^(.*a){20}", None),
        (r"^(?:a|b|ab)(?:a|b|ab)*$", None),
        (r"(x+x+)+y", None),
        (r"^(?:[^ ]+ ?)*x", None),
        (r"^" + ".*a" * 12, None),
    ],
)
def test_degrees(pattern: str, degree: int | None) -> None:
    """Known regexes have the power that their cost grows with, or none."""
    found = degree_of(pattern)
    assert (found if found is None else int(found)) == degree


@pytest.mark.parametrize("inside", ["é+é+", "[é-ü]+ü+", r"[^a]+é+", "(?i:A+)a+", r"\w+é+", r"[\w.]+\d+"])
def test_overlaps_beyond_ascii_and_case_are_seen(inside: str) -> None:
    """Characters that another set only takes in another case, or that are of no ASCII, overlap as well."""
    assert int(degree_of(f"^{inside}x") or 0) == 2
    assert degree_of(f"^(?:{inside})*x") is None


atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "(?!a)", "$"])
regexes = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,9}", "*?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    ),
    max_leaves=8,
)


@given(inner=regexes, text=st.text("abc\n", max_size=12))
def test_a_head_hides_no_match(inner: str, text: str) -> None:
    """Wherever an anchored regex matches, the text begins with one of its beginnings."""
    pattern = f"^{inner}"
    beginnings = beginnings_of(pattern)
    if beginnings and re.search(pattern, text):
        assert text.startswith(beginnings)


@given(inner=regexes, word=st.sampled_from(["a", "ab", "ba", "aab"]))
def test_a_regex_said_to_be_linear_is(inner: str, word: str) -> None:
    """Whatever is said to cost its length alone makes many thousand characters no trouble: else this would not end."""
    if int(degree_of(f"^{inner}c") or 9) == 1:
        re.search(f"^{inner}c", word * 10_000)


def test_beginnings() -> None:
    """They are the few texts at the beginning of an anchored regex, cut where it could go on in many ways."""
    found: dict[str, set[str]] = {
        r"^Failed \S+ for": {"Failed "},
        r"^[iI](?:llegal|nvalid) user": {"illegal user", "Illegal user", "invalid user", "Invalid user"},
        "^(?P<x>ab)(c)d?": {"abc", "abcd"},
        "^(ab+|cd)e": {"ab", "cd"},
        "^(?!x)(?:a|b*)c": set(),
        "Failed": set(),
        "(?i)^Failed": set(),
        "^(?i:a)b": set(),
        "^a|b": set(),
    }
    assert {pattern: set(beginnings_of(pattern)) for pattern in found} == found
