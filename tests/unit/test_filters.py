"""Filters: the samples in tests/lines, any bytes at all, and lines made to forge, to hide or to cost time."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import parse_address
from appguard.event import LOGIN_FAIL, PROBE, Event, time_text
from appguard.filters.base import Filter
from appguard.filters.open import FILTERS as OURS
from appguard.filters.open import open_filter
from appguard.filters.samples import Sample, problem_of, read_samples
from appguard.sources.base import LINE_MOST
from tests.filtering import told
from tests.strategies import hostile_text

FILTERS: dict[str, Filter] = {name: open_filter(name) for name in OURS}
WITH_OPTIONS = ("json", "log_format")
LINES = Path(__file__).parent.parent / "lines"
HEAD = b"203.0.113.5 - - [20/Nov/2026:09:11:02 +0000] "
LOGIN = HEAD + b'"POST /login HTTP/1.1" 401 30 "-" "-"'


def samples() -> Iterator[object]:
    """Give every sample and its filter."""
    for file in sorted(LINES.glob("*.txt")):
        read = read_samples(file)
        for sample in read.samples:
            yield pytest.param(read.filter, sample, id=f"{file.name}:{sample.number}")


@pytest.mark.parametrize(("made", "sample"), list(samples()))
def test_sample(made: Filter, sample: Sample) -> None:
    """The filter makes of the line what the file says."""
    assert problem_of(made, sample) == ""


def test_every_filter_has_samples() -> None:
    """A filter without samples would be proved by nothing."""
    assert {file.stem for file in LINES.glob("*.txt")} == {*FILTERS, *WITH_OPTIONS}


pieces = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [HEAD, LOGIN, b'"', b"\\", b" [", b"] ", b'" 401 ', b" - ", b'{"time":"', b"2026", b"\n", b"\xff"]
        ),
    ),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("name", FILTERS)
@given(line=st.one_of(st.binary(), pieces))
def test_any_bytes_are_an_event_or_nothing(name: str, line: bytes) -> None:
    """No bytes make a filter raise, and what it finds can be written as an event line."""
    event = told(FILTERS[name], line, 0.0)
    if event is not None:
        assert isinstance(event, Event)
        assert event.to_line().isascii()


def nginx_escape(text: str) -> bytes:
    """Write a value as nginx does: quotes, backslashes, control characters and all that is not ASCII as \\xHH."""
    return b"".join(
        b"\\x%02X" % byte if byte in b'"\\' or byte < 32 or byte > 126 else bytes([byte])
        for byte in text.encode(errors="replace")
    )


def apache_escape(text: str) -> bytes:
    """Write a value as Apache does: quotes and backslashes with a backslash before them."""
    return nginx_escape(text).replace(b"\\x22", b'\\"').replace(b"\\x5C", b"\\\\")


fake = st.sampled_from(
    [
        ' [20/Nov/2020:09:11:02 +0000] "GET / HTTP/1.1" 200 1 "-" "-"',
        '" 200 1 "-" "-"',
        " [20/Nov/2020:09:11:02 +0000] ",
        "192.0.2.66 - ",
        "\n" + LOGIN.decode().replace("203.0.113.5", "192.0.2.66"),
        "\\",
        '\\"',
        "]",
    ]
)
hostile = st.lists(st.one_of(fake, hostile_text.map(lambda text: text[:50])), max_size=4).map("".join)


@pytest.mark.parametrize("escape", [nginx_escape, apache_escape])
@given(user=hostile, query=hostile, referer=hostile, agent=hostile)
def test_nothing_a_client_sends_forges_or_hides_a_failure(
    escape: Callable[[str], bytes], user: str, query: str, referer: str, agent: str
) -> None:
    """Whatever stands in user name, query, referer and agent, a failed login is that of its client at its time."""
    line = b'203.0.113.5 - %b [20/Nov/2026:09:11:02 +0000] "POST /login?%b HTTP/1.1" 401 30 "%b" "%b"' % tuple(
        map(escape, (user, query, referer, agent))
    )
    event = told(FILTERS["nginx"], line[:LINE_MOST], 0.0)
    assert isinstance(event, Event)
    assert (event.kind, event.address.text) == (LOGIN_FAIL, "203.0.113.5")
    assert time_text(event.time) == "2026-11-20T09:11:02.000000Z"
    assert told(FILTERS["nginx"], line.replace(b'" 401 30 "', b'" 200 30 "'), 0.0) is None


@pytest.mark.parametrize("filler", [b"A", b"\\x22", b'\\"', b"a b ", b"[", b"%2F"])
@pytest.mark.parametrize("shift", range(5))
def test_a_long_line_hides_no_failed_login(filler: bytes, shift: int) -> None:
    """A login is found in a line that is cut in its query, in its referer or in its agent, wherever the cut falls."""
    filler = b"x" * shift + filler * LINE_MOST
    for line in (
        HEAD + b'"POST /login?' + filler,
        HEAD + b'"POST /login HTTP/1.1" 401 30 "' + filler,
        HEAD + b'"POST /login HTTP/1.1" 401 30 "-" "' + filler,
    ):
        event = told(FILTERS["nginx"], line[:LINE_MOST], 0.0)
        assert isinstance(event, Event)
        assert (event.kind, event.path) == (LOGIN_FAIL, "/login")
    for line in (HEAD + b'"GET /' + filler, HEAD + b'"' + filler):
        event = told(FILTERS["nginx"], line[:LINE_MOST], 0.0)
        assert isinstance(event, Event)
        assert event.kind == PROBE
    assert told(FILTERS["nginx"], (HEAD + b'"POST /login HTTP/1.1" 200 30 "' + filler)[:LINE_MOST], 0.0) is None


PIECES = (
    b'"',
    b"\\",
    b'\\"',
    b" [",
    b"] ",
    b"1",
    b"a",
    b" - ",
    b"/.",
    b"/../",
    b"%2e",
    b'{"time":"',
    b'{"a":',
    b"\xff",
)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("piece", PIECES)
def test_no_line_costs_more_than_its_length(name: str, piece: bytes) -> None:
    """A line 32 times as long as any that is read takes well under a second; a quadratic one takes many."""
    for head in (b"", HEAD, HEAD + b'"', HEAD + b'"POST /', HEAD + b'"POST / HTTP/1.1" 401 1 "', b'{"time":"'):
        line = (head + piece * 32 * LINE_MOST)[: 32 * LINE_MOST]
        begin = time.process_time()
        told(FILTERS[name], line, 0.0)
        assert time.process_time() - begin < 1.0


def test_event_line_of_the_app_is_read_by_its_filter() -> None:
    """What the app writes is what the daemon reads."""
    event = Event(LOGIN_FAIL, 1_800_000_000.5, parse_address("203.0.113.5"), user="alice")
    assert told(FILTERS["appguard"], event.to_line().encode(), 0.0) == event
