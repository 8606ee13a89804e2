"""The times of log lines: every form, every zone, and texts that are none."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.errors import ConfigError
from appguard.filters.times import FORMS, check_forms, seconds_of

NOW = datetime(2026, 11, 20, 9, 11, 2, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in a zone that is not UTC and has no summer time, so that a wrong zone is seen."""
    from appguard.filters import times

    kept = getattr(times, "_told")  # noqa: B009 - what was read is kept by its text, whatever the zone
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        kept.cache_clear()
        yield
    time.tzset()
    kept.cache_clear()


@pytest.mark.parametrize(
    ("form", "text", "after"),
    [
        ("clf", "20/Nov/2026:09:11:02 +0000", 0),
        ("clf", "20/Nov/2026:10:11:02 +0100", 0),
        ("clf", "19/Nov/2026:23:41:02 -0930", 0),
        ("clf", "20/Nov/2026 18:11:02", 0),
        ("iso", "2026-11-20T09:11:02Z", 0),
        ("iso", "2026-11-20T09:11:02.123456+00:00", 0.123456),
        ("iso", "2026-11-20 18:11:02,5", 0.5),
        ("iso", "2026-11-20 09:11:02 +0000", 0),
        ("iso", "2026/11/20 18:11:02", 0),
        ("iso", "2026-11-20T09:11:02.123456789Z", 0.123456),
        ("ctime", "Fri Nov 20 18:11:02.25 2026", 0.25),
        ("ctime", "Fri Nov 20 18:11:02 2026", 0),
        ("syslog", "Nov 20 18:11:02", 0),
        ("epoch", "1795165862", 0),
        ("epoch", "1795165862.125", 0.125),
        ("epoch", "1795165862125", 0.125),
        ("epoch", "1795165862125000", 0.125),
        ("epoch", "1795165862125000000", 0.125),
    ],
)
def test_every_form_tells_its_time(form: str, text: str, after: float) -> None:
    """A text of each form, with a zone or in local time, is the second it names."""
    assert seconds_of(text, [form], NOW) == pytest.approx(NOW + after, abs=1e-6)


@pytest.mark.parametrize(
    ("written", "text", "year"),
    [
        ("2026-11-20", "Nov 20 18:11:02", 2026),
        ("2026-11-20", "Nov 21 00:11:02", 2026),
        ("2026-11-20", "Nov 25 18:11:02", 2025),
        ("2026-11-20", "Dec  1 18:11:02", 2025),
        ("2027-01-01", "Dec 31 23:59:59", 2026),
        ("2026-12-31", "Jan  1 00:00:01", 2027),
        ("2028-03-01", "Feb 29 12:00:00", 2028),
        ("2029-02-01", "Feb 29 12:00:00", 2028),
    ],
)
def test_a_time_without_a_year_is_of_the_latest_that_fits(written: str, text: str, year: int) -> None:
    """At the turn of the year, a line is of the year it was written in."""
    told = seconds_of(text, ["syslog"], datetime.fromisoformat(f"{written}T12:00:00").timestamp())
    assert told is not None
    assert datetime.fromtimestamp(told).year == year


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "29/Feb/2026:00:00:00 +0000",
        "20/Nev/2026:09:11:02 +0000",
        "20/Nov/2026:09:11:02 +9900",
        "2026-13-20T09:11:02Z",
        "2026-11/20T09:11:02Z",
        "0000-11-20T09:11:02Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "Fri Nov 20 25:11:02 2026",
        "Feb 30 09:11:02",
        "9999999999999999999999",
        "-5",
        "٢٠٢٦-11-20T09:11:02Z",
    ],
)
def test_what_is_no_time_is_none(form: str, text: str) -> None:
    """A text that is no time in a form, or of a year no event can be written with, is None and raises nothing."""
    assert seconds_of(text, [form], NOW) is None


@given(form=st.sampled_from(sorted(FORMS)), data=st.data())
def test_what_has_the_form_of_a_time_can_be_written(form: str, data: st.DataObject) -> None:
    """Whatever fits a form is None or a time that can be written as a date."""
    told = seconds_of(data.draw(st.from_regex(FORMS[form], fullmatch=True)), [form], NOW)
    assert told is None or datetime.fromtimestamp(told, UTC).isoformat()


def test_a_form_that_there_is_not_is_named() -> None:
    """The message names the form and those there are."""
    with pytest.raises(ConfigError, match="'rfc': expected some of 'clf', 'iso'"):
        check_forms(["iso", "rfc"])
