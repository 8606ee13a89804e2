"""The literals of an expression: whatever matches holds one of each set, and sets are as rare as they can be."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.filters.literals import ANY, Literals, any_of, cut_anywhere, literals_of

EXPRESSIONS = [
    r'^\S+ .* "(GET|POST|PUT) .*" (444|404|403) .*$',
    r"(?i)^authentication (?:failure|error)s? from host \d+$",
    r"^(?:error: )?(?:PAM: )?User (?P<user>\S+) from [\d.]+ not allowed because (?:none|[a-z ]+) are listed",
    r"foo(bar)?baz+qux|abcd[ef]g{2,3}h",
    r"(?:ab|cd){2}ef(?=gh)gh",
    r"(?i:KisS) Max (?-i:Case)",
    r"x(?>yz|yw)v*+w",
    r"(?P<a>ab)?(?(a)cd|ef)gh(?P=a)?",
    r"a{40}bc",
    r"[Ff]ailed [\w]+ (?#comment)for",
]


def holds(line: str, literals: Literals) -> bool:
    """Say whether a line as it stands in a file holds one of the texts."""
    data = line.encode(errors="replace")
    data = data.lower() if literals.folded else data
    return any(text.encode() in data for text in literals.texts)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(data=st.data())
def test_whatever_matches_holds_a_text_of_each_set(expression: str, data: st.DataObject) -> None:
    """Any text that matches, letters outside ASCII included, holds at least one text of every set."""
    line = data.draw(st.from_regex(expression))
    for literals in literals_of(expression):
        assert holds(line, literals), literals


ATOMS = st.sampled_from(["ab", "c", ".", r"\d", "[xyz]", "[^x]", "k", "Is", r"\b", "(?:de|fg)", "(?:h|.)", "(?i:Rst)"])
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "+?"])


def expressions() -> st.SearchStrategy[str]:
    """Make small expressions of every construct."""
    pieces = st.builds("(?:{}){}".format, ATOMS, REPEATS)
    sequences = st.lists(pieces, min_size=1, max_size=5).map("".join)
    branches = st.lists(sequences, min_size=1, max_size=3).map("|".join)
    return st.builds("{}{}".format, st.sampled_from(["", "(?i)"]), branches)


@given(st.data())
def test_random_expressions(data: st.DataObject) -> None:
    """The same holds for expressions nobody would write."""
    expression = data.draw(expressions())
    line = data.draw(st.from_regex(expression))
    for literals in literals_of(expression):
        assert holds(line, literals), (expression, literals)


@pytest.mark.parametrize(
    ("expression", "sets"),
    [
        (r'^\S+ "(GET|POST) .*" (404|403) ', [{' "GET ', ' "POST '}, {'" 404 ', '" 403 '}]),
        (r"(?i)failed pin for", [{"led p"}, {"n for"}, {"fa"}]),
        (r"(?:Failed|Invalid) \S+ for .* from [\d.]+", [{"Failed ", "Invalid "}, {" from "}, {" for "}]),
        (r"a|bcd", []),
        (r"\d+|abc", []),
        (r"(?:abc\d|de.f)x", [{"abc", "de"}]),
        (r"(?:foo\s)+bar", [{"foo"}, {"bar"}]),
        (r"(", []),
    ],
)
def test_what_is_found(expression: str, sets: list[set[str]]) -> None:
    """Runs between what is open are found, alternatives as one set; an expression that may match anything has none."""
    found = [set(literals.texts) for literals in literals_of(expression)]
    assert sorted(found, key=sorted) == sorted(sets, key=sorted)


def test_literals_of_several_expressions() -> None:
    """Lines of either expression hold a text of the union; a text that holds another is left out; without one, any."""
    first, second = Literals(frozenset({"Failed"})), Literals(frozenset({"fail", "err"}), folded=True)
    assert any_of([first, second]) == Literals(frozenset({"fail", "err"}), folded=True)
    assert any_of([first, ANY]) == ANY
    assert any_of([]) == ANY


@given(st.sampled_from(["abcdef", "Failed x"]), st.data())
def test_a_piece_may_be_cut_out_anywhere(text: str, data: st.DataObject) -> None:
    """A line with a date in the middle of a literal still holds one of the halves."""
    at = data.draw(st.integers(0, len(text)))
    line = f"{text[:at]}2026-11-20{text[at:]}"
    assert holds(line, cut_anywhere(Literals(frozenset({text}))))
    assert cut_anywhere(Literals(frozenset({"abc"}))) == ANY


def test_a_tree_that_is_not_understood_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Python without the parser's module every expression may match any line."""
    monkeypatch.setattr("appguard.filters.literals.tree", None)
    assert literals_of("abc") == ()


def test_a_flag_within_holds_for_its_texts_only() -> None:
    """What ignores case in the middle of an expression is found in any case, and so is the line around it."""
    pattern = r"\]: (?:(?i:expn)|(?i:vrfy)) \S+ \[rejected\]"
    for line in ("]: VRFY root [rejected]", "]: eXpn root [rejected]"):
        assert re.search(pattern, line)
        for literals in literals_of(pattern):
            assert any(text in (line.lower() if literals.folded else line) for text in literals.texts)
