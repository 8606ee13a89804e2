"""Syslog headers: every form that programs send, whose time is believed, and that no bytes make the reader fail."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.sources.base import LINE_MOST
from appguard.sources.syslog_message import parse_message

NOW = 1_795_163_507.0  # Fri 20 Nov 2026 08:31:47 UTC
NEW_YEAR = 1_798_761_602.0  # 2 seconds into 2027, UTC
ISO_NOW = b"2026-11-20T08:31:47.250Z"


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    """Let this host's local time be UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def in_zone(name: str) -> None:
    """Let this host's local time be another."""
    os.environ["TZ"] = name
    time.tzset()


SD = rb'[a@32473 k="v\"\]\\" l=""][b]'


@pytest.mark.parametrize(
    "header",
    [
        b"<190>Nov 20 08:31:47 appguard: ",
        b"<34>Nov 20 08:31:47 host.example su[17]: ",
        b"<34>Nov 20 08:31:47 2001:db8::1 my-app: ",
        b"<34>Nov 20 08:31:47 host postfix/smtpd[17]: ",
        b"<34>Nov 20 08:31:47 (sd-pam)[17]: ",
        b"<34>Nov 20 08:31:47 host app[worker-1]: ",
        b"<0>appguard: ",
        b"<13>host app[1]: ",
        b"<190>2026-11-20T08:31:47.123456+00:00 host sshd[17]: ",
        b"<34>1 2026-11-20T08:31:47Z host su 17 ID47 - ",
        b"<34>1 2026-11-20T08:31:47.123456789+01:00 - - - - - \xef\xbb\xbf",
        b"<34>1 - host app 17 ID47 " + SD + b" ",
    ],
)
def test_the_line_stands_behind_the_header(header: bytes) -> None:
    """Whatever the header, the line is what follows it, even if that looks like a header too."""
    for line in (b"Failed password", b"<34>Nov 20 08:31:47 host su: x", b"a: b", b"\xff [x] "):
        message = parse_message(header + line, NOW)
        assert message and message.line == line


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"<190>",
        b"<190>no colon",
        b"<1900>a: x",
        b"a: x",
        b"<34>1 2026-11-20T08:31:47Z host su",
        b"<34>{a: 1}",
    ],
)
def test_what_has_no_header_is_no_message(data: bytes) -> None:
    """Without priority and tag nothing is read."""
    assert parse_message(data, NOW) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"<1>1 2026-11-20T08:31:47.25Z h a 1 - - ", NOW + 0.25),
        (b"<1>1 2026-11-20T10:31:47+02:00 h a 1 - - ", NOW),
        (b"<1>1 2025-01-01T00:00:00Z h a 1 - - ", 1_735_689_600.0),
        (b"<1>1 - h a 1 - - ", NOW),
        (b"<1>1 2026-02-30T00:00:00Z h a 1 - - ", NOW),
        (b"<1>1 0001-01-01T00:00:00+23:59 h a 1 - - ", NOW),
        (b"<1>9999-12-31T23:59:59-23:59 a: ", NOW),
        (b"<1>Nov 20 08:31:40 a: ", NOW - 7),
        (b"<1>Nov 20 08:31:48 a: ", NOW),
        (b"<1>Nov 20 06:31:47 a: ", NOW),
        (b"<1>Nov 20 10:31:47 a: ", NOW),
        (b"<1>Foo 20 08:31:47 a: ", NOW),
        (b"<1>Nov 99 99:99:99 a: ", NOW),
        (b"<1>a: ", NOW),
    ],
)
def test_a_time_with_a_zone_counts_and_one_without_only_if_it_can_be(header: bytes, expected: float) -> None:
    """RFC 5424 times count as they are; those of RFC 3164 in the minutes before the arrival, else the arrival does."""
    message = parse_message(header + b"x", NOW)
    assert message and message.time == pytest.approx(expected)


def test_a_message_of_last_year_just_after_midnight() -> None:
    """At the turn of the year a time without a year is that of the year before."""
    message = parse_message(b"<1>Dec 31 23:59:58 a: x", NEW_YEAR)
    assert message and message.time == NEW_YEAR - 4


def test_local_time_is_this_hosts() -> None:
    """A time without a zone is read in the zone of this host."""
    in_zone("Asia/Kolkata")
    message = parse_message(b"<1>Nov 20 14:01:40 a: x", NOW)
    assert message and message.time == NOW - 7


def test_a_message_is_one_line() -> None:
    """A line end in a message begins no line of its own; a long message is cut."""
    message = parse_message(b"<1>a: one\nhost sshd[1]: two\r\n", NOW)
    assert message and message.line == b"one#012host sshd[1]: two"
    message = parse_message(b"<1>a: " + b"x" * 60_000, NOW)
    assert message and message.line == b"x" * LINE_MOST


PIECES = st.sampled_from(
    [
        b"<190>",
        b"1 ",
        ISO_NOW,
        b" ",
        b"-",
        b"Nov 20 08:31:47 ",
        b"host ",
        b"a[1]: ",
        b'[x y="',
        b'\\"',
        b'"]',
        b"\xff",
        b"\n",
    ]
)


@given(st.one_of(st.binary(), st.lists(PIECES, max_size=30).map(b"".join)), st.floats(0, 4e9))
@example(b"<1>" + b"a" * 60_000, NOW)
@example(b"<1>1 - a b c d " + b'[x y="' * 10_000, NOW)
@example(b'<1>1 - a b c d [x y="' + b"\\" * 60_000, NOW)
def test_no_bytes_make_it_fail(data: bytes, now: float) -> None:
    """Any bytes give None or one line within the bounds, and a finite time, in the time that a line may cost."""
    began = time.perf_counter()
    message = parse_message(data, now)
    assert time.perf_counter() - began < 0.5
    if message is not None:
        assert b"\n" not in message.line and len(message.line) <= LINE_MOST
        assert -7e10 < message.time < 3e11
