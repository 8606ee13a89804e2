"""Dates in log lines: what is found and cut, and which time it is."""

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appguard.errors import ConfigError
from appguard.filters.date_fields import DIRECTIVES
from appguard.filters.dates import DatePattern
from appguard.filters.expression import Budget

NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"
KNOWN = DatePattern()
BEGINNINGS = (
    "Nov 20 09:00:00",
    "Nov 20 09:00:00 20",
    "Nov 20 09:00:00 2026",
    "Nov 20 09:00:00.1",
    "2026-11-20 09:00:00",
)
ENDINGS = ("", " vm1 x[1]: 5", " 20vm x[1]: 5", " 2026 x", ".12 x", "26 x", " +0100 x", ",5 09:00:00 x")


@pytest.fixture(autouse=True, scope="module")
def new_york() -> Iterator[None]:
    """Live in a zone that is not UTC and has a summer time."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = NEW_YORK
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def local(text: str) -> float:
    """Give the Unix time of a local time."""
    return datetime.fromisoformat(text).timestamp()


NOW = datetime(2026, 7, 15, 12, 0, tzinfo=timezone(timedelta(hours=-4))).timestamp()


def read(line: str, pattern: DatePattern = KNOWN, now: float = NOW) -> tuple[str, float | None]:
    """Give a line without its date, and the time of it."""
    found = pattern.find(line, Budget())
    assert found is not None, f"no date in {line!r}"
    start, end = found.place
    return line[:start] + line[end:], pattern.seconds(found, now)


LOCAL_FORMATS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y.%m.%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S,250",
    "%b %d %H:%M:%S",
    "%b %d %Y %H:%M:%S",
    "%a %b %d %H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S.123456 %Y",
    "%d/%b/%Y:%H:%M:%S",
    "%d/%b/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%d-%m-%Y %H:%M:%S",
    "%d/%m/%y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%d %b %Y %H:%M:%S",
    "%m/%d/%Y:%H:%M:%S",
    "<%m/%d/%y@%H:%M:%S>",
    "%y%m%d %H:%M:%S",
    "%b %d, %Y %I:%M:%S %p",
    "%b-%d-%y %H:%M:%S",
    "%Y%m%d %H%M%S",
    "%Y%m%dT%H%M%S",
    "%Y%m%d-%H:%M:%S",
)
ZONED_FORMATS = ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S.123 %z", "%d/%b/%Y:%H:%M:%S %z")
within_a_year = st.datetimes(datetime(2025, 8, 1), datetime(2026, 7, 15, 12)).map(
    lambda each: each.replace(microsecond=0, fold=0)
)


@pytest.mark.parametrize("form", LOCAL_FORMATS)
@settings(max_examples=25)
@given(
    told=within_a_year.filter(lambda each: each.hour not in (1, 2)),
    place=st.sampled_from(["{} x", "[{}] x", "host {} x"]),
)
def test_known_formats(form: str, told: datetime, place: str) -> None:
    """A time written in a format that logs use is read as that time, in the local zone, wherever in the line it is."""
    rest, seconds = read(place.format(told.strftime(form)))
    assert rest == place.format("")
    assert seconds is not None
    assert int(seconds) == told.timestamp()


@pytest.mark.parametrize("form", ZONED_FORMATS)
@given(told=within_a_year, hours=st.integers(-11, 13))
def test_zones(form: str, told: datetime, hours: int) -> None:
    """A zone in the line holds."""
    zoned = told.replace(tzinfo=timezone(timedelta(hours=hours)))
    rest, seconds = read(f"203.0.113.5 - - [{zoned.strftime(form)}] x")
    assert rest == "203.0.113.5 - - [] x"
    assert seconds is not None
    assert int(seconds) == zoned.timestamp()


@pytest.mark.parametrize(
    ("line", "rest", "expected"),
    [
        ("2026-07-15T10:00:00Z x", " x", "2026-07-15T10:00:00+00:00"),
        ("2026-07-15 10:00:00 UTC x", " x", "2026-07-15T10:00:00+00:00"),
        ("PDT Jul 15 05:00:00 x", " x", "2026-07-15T05:00:00-07:00"),
        ("Jul  5 10:00:00 x", " x", "2026-07-05T10:00:00-04:00"),
        ("jan 05 10:00:00 x", " x", "2026-01-05T10:00:00-05:00"),
        ("Jul 16 11:00:00 x", " x", "2026-07-16T11:00:00-04:00"),
        ("Jul 16 13:00:00 x", " x", "2025-07-16T13:00:00-04:00"),
        ("Dec 31 23:59:59 x", " x", "2025-12-31T23:59:59-05:00"),
        ("Feb 29 10:00:00 x", " x", "2024-02-29T10:00:00-05:00"),
        ("11:59:00 x", " x", "2026-07-15T11:59:00-04:00"),
        ("12:30:00 x", " x", "2026-07-14T12:30:00-04:00"),
        ("1784116800 x", " x", "2026-07-15T12:00:00+00:00"),
        ("[1784116800.250] x", "[] x", "2026-07-15T12:00:00.250000+00:00"),
        ("type=X msg=audit(1784116800.250:61): x", "type=X msg=audit(:61): x", "2026-07-15T12:00:00.250000+00:00"),
        (f"@{2**62 + 1784116800:x}00000000 x", " x", "2026-07-15T12:00:00+00:00"),
    ],
)
def test_times_that_are_not_all_told(line: str, rest: str, expected: str) -> None:
    """No year is this or last year's, no day today's or yesterday's; zones by name, epochs and TAI64N are known."""
    assert read(line) == (rest, datetime.fromisoformat(expected).timestamp())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no date",
        "1234567890123 x",
        "a1784116800 x",
        "99:99:99 x",
        "24:00:00 x",
        "20260715100000 x",
        "x2026-07-15 x",
    ],
)
def test_no_date(line: str) -> None:
    """What only looks a little like a date is none."""
    assert KNOWN.find(line, Budget()) is None


@pytest.mark.parametrize("line", ["2026-02-30 10:00:00 x", "Feb 30 10:00:00 x", "31/04/2026 10:00:00 x"])
def test_a_day_that_is_not_is_cut_and_has_no_time(line: str) -> None:
    """The line is then one without a date."""
    assert read(line) == (" x", None)


@pytest.mark.parametrize("user", ["2005-01-01 10:00:00", "[01/Jan/2005:10:00:00 +0000]", "01/Jan/2005:10:00:00 +0000"])
def test_no_user_name_forges_the_date_of_an_access_log(user: str) -> None:
    """A user name stands before the date there, and is whatever the client likes."""
    rest, seconds = read(f'203.0.113.5 - {user} [15/Jul/2026:10:00:00 -0400] "GET / HTTP/1.1" 401 0')
    assert rest == f'203.0.113.5 - {user} [] "GET / HTTP/1.1" 401 0'
    assert seconds == local("2026-07-15T10:00:00")


def test_a_custom_pattern() -> None:
    """It is looked for at word boundaries; only its group is cut if it has one; `^` and `{^LN-BEG}` anchor it."""
    assert read("a 2026:07:15-10:00:00 x", DatePattern(["%Y:%m:%d-%H:%M:%S"])) == ("a  x", local("2026-07-15T10:00:00"))
    assert DatePattern(["%Y:%m:%d"]).find("x12026:07:15", Budget()) is None
    assert read("x12026:07:15", DatePattern(["{UNB}%Y:%m:%d"]))[0] == "x1"
    assert read("x2026:07:15y", DatePattern(["**%Y:%m:%d**"]))[0] == "xy"
    assert DatePattern(["^%Y:%m:%d"]).find(" 2026:07:15", Budget()) is None
    assert read("[[2026:07:15]", DatePattern(["{^LN-BEG}%Y:%m:%d"]))[0] == "[[]"
    assert DatePattern(["{^LN-BEG}%Y:%m:%d"]).find("a 2026:07:15", Budget()) is None
    grouped = DatePattern([r"^[^\[]*\[({DATE})"])
    assert read("h [15/Jul/2026:10:00:00 -0400] x", grouped) == ("h [] x", local("2026-07-15T10:00:00"))


def test_special_words() -> None:
    """Epochs of all lengths, TAI64N, the known formats inside a pattern, none at all."""
    assert read("<1>1 2026-07-15T10:00:00Z h", DatePattern([r"^<\d+>\d+\s+{DATE}"]))[0] == " h"
    for text, word in (("1784116800", "EPOCH"), ("1784116800123", "LEPOCH"), ("1784116800123456", "LEPOCH")):
        assert int(read(f"at {text}: x", DatePattern([word]))[1] or 0) == 1784116800
        assert int(read(f"t={text}; x", DatePattern([f"^t={{{word}}}"]))[1] or 0) == 1784116800
    assert DatePattern(["{NONE}"]).find("2026-07-15 10:00:00", Budget()) is None
    assert DatePattern(["{^LN-BEG}"]).find("a 2026-07-15 10:00:00", Budget()) is None
    assert read("a 2026-07-15 10:00:00", DatePattern(["%Y:%m:%d", "{DEFAULT}"]))[0] == "a "


@pytest.mark.parametrize("text", ["@4fffffffffffffff00000000", "0001-01-01 00:00:00 +2359", "9999-12-30 00:00:00"])
def test_a_time_of_no_age_can_be_shown(text: str) -> None:
    """What a line tells can always be written as a date, wherever that is."""
    seconds = read(f"{text} x", DatePattern())[1]
    assert seconds is not None
    assert abs(datetime.fromtimestamp(seconds).astimezone().year - 3000) < 1200


def test_an_empty_group_marks_a_line_that_has_no_date() -> None:
    """Nothing is cut and no time is told."""
    assert read("WARNING: x", DatePattern(["^WARNING:()**"])) == ("WARNING: x", None)


@pytest.mark.parametrize("pattern", ["%Y-(", "at {DATE}(?P=between)"])
def test_a_pattern_that_is_no_regex(pattern: str) -> None:
    """It is an error that shows it; so is one that refers to a group of a known format."""
    with pytest.raises(ConfigError, match="is no regex"):
        DatePattern([pattern])


@given(line=st.text(max_size=80), now=st.floats(0, 4e9))
def test_any_text_has_a_time_or_none(line: str, now: float) -> None:
    """No text makes it raise."""
    found = KNOWN.find(line, Budget())
    if found is not None:
        KNOWN.seconds(found, now)


@given(pieces=st.lists(st.sampled_from([*(f"%{name}" for name in DIRECTIVES), " ", "-", ":", "/"]), max_size=8))
def test_any_pattern_of_directives_reads_something_or_nothing(pieces: list[str]) -> None:
    """Directives may come in any order and number."""
    pattern = DatePattern(["".join(pieces) or "%Y"])
    for line in ("2026-07-15 10:00:00", "10:10:10 31/31/99 pm Z", "12 12 12 12 12 Mon Jan am"):
        found = pattern.find(line, Budget())
        if found is not None:
            pattern.seconds(found, NOW)


@given(st.lists(st.sampled_from(BEGINNINGS), min_size=1, max_size=3), st.data())
def test_what_decides_a_date_decides_it_whatever_follows(begun: list[str], data: st.DataObject) -> None:
    """A piece that is told of a line, after what was told of others, has its date at that place whatever follows it."""
    dates = DatePattern()
    for beginning in (*begun, *begun):
        line = beginning + data.draw(st.sampled_from(ENDINGS))
        found = dates.find(line, Budget())
        piece = None if found is None else dates.decided_by(line, found, data.draw(st.sampled_from((0, 18, 20, 22))))
        if found is None or piece is None:
            continue
        for ending in ENDINGS:
            other = DatePattern().find(line[: piece[1]] + ending, Budget())
            assert other is not None
            assert other.place == found.place
