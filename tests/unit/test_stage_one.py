"""What stage 1 may leave out: no line of an own filter is lost to the search, whatever a log holds, and no address."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import parse_address
from appguard.errors import AddressError, EventError
from appguard.event import KINDS, LOGIN_FAIL, PROBE, REQUEST, Event, parse_line
from appguard.filters.base import Filter, TellsHost
from appguard.filters.event_log import EventLogFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.filters.open import FILTERS, open_filter
from appguard.filters.samples import read_samples
from appguard.sieve import Sieve, by_hyperscan, by_re
from appguard.sources.base import LINE_MOST, Block
from tests.filtering import told

LINES = sorted((Path(__file__).parent.parent / "lines").glob("*.txt"))
READ = {file.stem: read_samples(file) for file in LINES}
OWN: dict[str, Filter] = {
    **{name: open_filter(name) for name in FILTERS},
    **{name: each.filter for name, each in READ.items() if name not in FILTERS},
    "nginx 503": NginxFilter([LOGIN_FAIL, REQUEST], statuses=(429, 503)),
    "nginx any": NginxFilter([REQUEST]),
    "nginx-json 503": NginxJsonFilter([REQUEST], statuses=(503,)),
    "appguard logins": EventLogFilter([LOGIN_FAIL]),
    "appguard all": EventLogFilter(KINDS),
}
SAMPLES = [sample.line for each in READ.values() for sample in each.samples]
ODD = st.sampled_from([b"\x1b[31m", b"\x1b", b"\0", b"\xff", b'"', b"\\", b"\\u0061", b" 503 ", b'" 404', b"x" * 4100])


@st.composite
def logged(draw: st.DrawFn) -> bytes:
    """Give a line such as a log may hold: a sample as it is, bent, cut, or as long as can be."""
    line = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(ODD) * draw(st.integers(0, 3)) + line[at + draw(st.integers(0, 9)) :]
    line = line.replace(b"\n", b" ")
    return line[: draw(st.sampled_from([len(line), len(line) // 2, LINE_MOST]))]


def found(made: Filter, lines: Sequence[bytes]) -> list[Event]:
    """Give the events of lines."""
    return [event for line in lines if (event := told(made, line)) is not None]


@pytest.mark.parametrize("search", [by_re, by_hyperscan])
@pytest.mark.parametrize("name", OWN)
@given(lines=st.lists(logged(), min_size=1, max_size=12))
def test_no_event_is_lost(name: str, search: object, lines: list[bytes]) -> None:
    """The candidates tell of the same events as all lines."""
    made = OWN[name]
    lines = [line[:LINE_MOST] for line in lines]
    sieve = Sieve(made.needs, LINE_MOST, search)  # type: ignore[arg-type]
    assert found(made, sieve.candidates(Block.of(lines).data)) == found(made, lines)


@pytest.mark.parametrize("name", FILTERS)
def test_every_own_filter_lets_stage_one_work(name: str) -> None:
    """Each filter says what its lines need, and a line that tells of nothing does not have it."""
    made = open_filter(name, kinds=[LOGIN_FAIL])
    block = b"GET /static/app.css and nothing else\n" * 100
    assert made.needs
    assert Sieve(made.needs, LINE_MOST).candidates(block) == []


@pytest.mark.parametrize("name", [name for name in OWN if isinstance(OWN[name], TellsHost)])
@given(line=logged())
def test_the_host_is_the_clients(name: str, line: bytes) -> None:
    """Where a filter finds an address quickly, it is the address of the line's event."""
    made = OWN[name]
    assert isinstance(made, TellsHost)
    (host,), event = made.hosts_of([line]), told(made, line)
    try:
        address = parse_address(host.decode(errors="replace"))
    except AddressError:
        return
    assert event is None or event.address == address


texts = st.one_of(st.text(max_size=6), st.sampled_from(["a" * 70, "a" * 300, "é" * 1100, "\ud800", "203.0.113.5"]))
values = st.one_of(
    texts, st.integers(-5, 2_000_000), st.booleans(), st.none(), st.floats(), st.lists(texts, max_size=3)
)
TIMES = [
    "2026-11-20T09:11:02.123456Z",
    "2026-11-20T09:11:02Z",
    "2026-11-20T09:11:02.12+02:00",
    "2026-13-20T09:11:02.123456Z",
]
FIELDS = ("count", "app", "user", "method", "path", "status", "via", "request_id", "user_agent", "jail", "x")


@given(
    time=st.sampled_from(TIMES),
    kind=st.sampled_from([LOGIN_FAIL, PROBE, "", "é", "a" * 80]),
    address=st.sampled_from(["203.0.113.5", "::ffff:203.0.113.5", "2001:db8::1%eth0", "203.0.113.555", "x" * 99]),
    rest=st.dictionaries(st.sampled_from(FIELDS), values),
    is_ascii=st.booleans(),
)
def test_the_quick_reader_of_events_reads_as_the_other(
    time: str, kind: str, address: str, rest: dict[str, object], is_ascii: bool
) -> None:
    """An event line means the same to the filter as to `parse_line`, whatever its fields are."""
    fields = {"time": time, "event": kind, "source_ip": address, **rest}
    line = json.dumps(fields, ensure_ascii=is_ascii, separators=(",", ":")).encode(errors="surrogatepass")
    try:
        expected = parse_line(line.decode(errors="replace"))
    except EventError:
        expected = None
    assert EventLogFilter().match(line, 0.0) == expected
