"""What is remembered by the shape of lines is what the regexes find: no digit that matters is taken for another."""

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appguard.event import Event
from appguard.filters.digits import texts_with_digits
from appguard.filters.options import options_of
from appguard.filters.regex import RegexFilter
from appguard.filters.shapes import ENDS_MOST, Shapes

NOW = 1_795_165_200.0
CASES: dict[str, dict[str, object]] = {
    "syslog": {"failregex": [r"^ (?:h|x3) <F-USER>\S*</F-USER> from <HOST>$", r"4: <HOST>"]},
    "status": {"failregex": r'^<HOST> .*"(GET|POST) .*" (404|403) ', "ignoreregex": "a11"},
    "bracket": {"failregex": r"^<HOST> \[\] 14 ", "datepattern": [r"{^LN-BEG}%Y-%m-%d", r"^[^\[]*\[({DATE})"]},
    "any date": {"failregex": r"^.*4 <HOST>", "datepattern": "%H:%M:%S"},
    "joined": {"failregex": r"^x\[ 3 <HOST>", "datepattern": r"^[^\[]*\[({DATE})"},
    "begins with it": {"failregex": r"^:? ?(h|1[134]: )+<HOST>", "datepattern": [r"^%H:%M:%S(?:[.,]\d*)?", "^x3?"]},
    "no date": {"failregex": "3 from <HOST>$", "datepattern": "{NONE}"},
    "connection": {
        "failregex": "^ <F-NOFAIL>h</F-NOFAIL> <HOST>",
        "prefregex": "^<F-MLFID>x?3?</F-MLFID><F-CONTENT>.+</F-CONTENT>$",
    },
}
PIECES = st.sampled_from(
    ["Nov 20 09:00:00", "11:11:14", "09:00:00.14", ".1", "11: ",
     "2026-11-20 09:00:00", "[20/Nov/2026:09:00:00 +0000]", "09:00:00", "12:34", "[1795165200]",
     "x3", "3", ": ", " ", " h ", "u1 ", "from ", "203.0.113.5", "2001:db8::7", '"GET / HTTP/1.1" ', "404 ", "14 ",
     "a11", "é", "\r", "#033[1m", "[", "]"]
)  # fmt: skip
LINES = st.lists(PIECES, max_size=8).map("".join)


@cache
def filters(name: str) -> tuple[RegexFilter, RegexFilter]:
    """Give a filter that has seen the lines of all examples so far, and one that remembers no shape."""
    made, plain = (RegexFilter(name, options_of(CASES[name])) for _ in range(2))
    plain._shapes = Shapes(None, plain.dates)  # pyright: ignore[reportPrivateUsage]
    return made, plain


@pytest.mark.parametrize("name", CASES)
@given(line=LINES, data=st.data())
@settings(max_examples=60)
def test_lines_alike_but_for_their_digits(name: str, line: str, data: st.DataObject) -> None:
    """Whatever lines of a shape were seen before, each tells what the regexes find in it."""
    made, plain = filters(name)
    for _ in range(3):
        some = re.sub("[0-9]", lambda found: data.draw(st.sampled_from([found[0], "3", "1", "4"])), line)
        for each in (line, some, some, line):
            assert made.captured(each.encode(), NOW) == plain.captured(each.encode(), NOW), each


@pytest.mark.parametrize("name", ["status", "bracket", "no date"])
def test_shapes_are_remembered(name: str) -> None:
    """What is tested above is in use: the third line of a shape is not searched any more."""
    made = RegexFilter(name, options_of(CASES[name]))
    line = b'203.0.113.5 [20/Nov/2026:09:00:00 +0000] "GET / HTTP/1.1" 404 '
    for _ in range(2):
        made.captured(line, NOW)
        line = line.replace(b"113.5", b"113.7")
    assert made._shapes.read(line.replace(b"113", b"999"))  # pyright: ignore[reportPrivateUsage]


def test_the_digits_of_a_date_at_the_beginning_are_no_part_of_a_shape() -> None:
    """A line is known at any time of the day, also where regexes tell digits as in its date."""
    made = RegexFilter("x", options_of({"failregex": r"^ h: 11:\s<HOST>$", "datepattern": "{^LN-BEG}"}))
    for second in range(8):  # a busy machine may miss the chance to learn from one
        assert made.captured(b"Nov 20 09:00:0%d h: 11: 203.0.113.5" % second, NOW)
    for date in (b"Nov 11 11:11:11", b"Nov 20 11:09:13", b"Nov  1 23:11:00"):
        assert made.read(date + b" h: 11: 203.0.113.7")
        assert not made.read(date + b" h: 12: 203.0.113.7")


def test_dates_at_the_beginning_that_end_anywhere() -> None:
    """However many ends dates have, each line tells what the regexes find; and so does one that begins with two."""
    options = {"failregex": r"^[\d: .]* h <HOST>$", "datepattern": r"^(%H:%M:%S(?:\.\d+)?)"}
    made, plain = (RegexFilter("x", options_of(options)) for _ in range(2))
    plain._shapes = Shapes(None, plain.dates)  # pyright: ignore[reportPrivateUsage]
    dates = [b"09:00:00" + b".123456789"[:length] for length in range(11)]
    for first in (*dates, *dates[::-1]):
        for second in (b"", b" ", b"10:00:00", b" 10:00:00.5"):
            line = first + second + b" h 203.0.113.5"
            assert made.captured(line, NOW) == plain.captured(line, NOW)
    assert len(made._shapes._known) <= 1 + ENDS_MOST  # pyright: ignore[reportPrivateUsage]


def test_what_stands_before_a_date() -> None:
    """Lines that differ before their date only are no lines of one shape."""
    made = RegexFilter("x", options_of({"failregex": r"^\[\] h <HOST>$"}))
    for begin in b"[(([[(":
        found = made.captured(b"%cNov 20 09:00:00] h 203.0.113.5" % begin, NOW)
        assert (found is not None) == (begin == ord("["))


@pytest.mark.parametrize("colour", [b"#033[1m", b"\x1b[1m", b"#033[1m#033[0m", b"\n", b"#", b"\r"])
def test_colours_that_begin_within_a_date(colour: bytes) -> None:
    """A line that is changed before it is searched is not known by one whose date was as long."""
    options = {"failregex": r"^\S* h <F-USER>\S*</F-USER> from <HOST>$", "datepattern": "^%H:%M:%S[^y]**"}
    made, plain = (RegexFilter("x", options_of(options)) for _ in range(2))
    plain._shapes = Shapes(None, plain.dates)  # pyright: ignore[reportPrivateUsage]
    rests = (b" h a from 203.0.113.5", b"y h a1 from 203.0.113.5")
    befores = (b"", colour, colour[1:], colour[1:3] + b"x")
    for date in (b"09:00:00x", b"09:00:01x", b"09:00:00" + colour[:1], b"09:00:00", b"09:00:01", b"09:00:00x"):
        for rest in (before + each for before in befores for each in rests):
            assert made.captured(date + rest, NOW) == plain.captured(date + rest, NOW), date + rest


def test_a_digit_that_matters_only_where_the_date_was_cut_out() -> None:
    """A text that comes about by cutting out the date is told from its like, too."""
    made, _ = filters("joined")
    for digit in "3333444433":
        found = made.captured(b"x[09:00:00 %s 203.0.113.5" % digit.encode(), NOW)
        assert (found is not None) == (digit == "3")


def test_colours_are_known_where_their_digits_matter() -> None:
    """A line with colours is never remembered, also where a regex names a digit of theirs: all would be shifted."""
    made = RegexFilter("x", options_of({"failregex": r"^x\d*[13]\d* user \S+ from <HOST>", "datepattern": "{NONE}"}))
    for _ in range(3):
        event = made.match(b"x1 user 192.0.2.1#033[0m#033[0m from 203.0.113.5", NOW)
        assert isinstance(event, Event)
        assert event.address.text == "203.0.113.5"


@pytest.mark.parametrize(
    ("patterns", "texts"),
    [
        (["^a.*b", r"\d+[0-9]\w"], ()),
        ([r'" (404|403) '], ('" 403 ', '" 404 ')),
        (["fail2ban(?:-server|\\.actions)"], ("fail2ban-server", "fail2ban.actions")),
        (["(?i)x3y"], None),
        ([r"(\d)\1"], None),
        (["[3-5]"], None),
        (["[^3]x"], None),
        (["404"], None),
        (["44", "4"], None),
        (["(?:ab3)*c", "(?!d5)"], ("ab3", "d5")),
    ],
)
def test_texts_whose_digits_matter(patterns: list[str], texts: tuple[str, ...] | None) -> None:
    """Digits that a regex names are found with what stands beside them; texts that overlap are none."""
    assert texts_with_digits(patterns) == texts
