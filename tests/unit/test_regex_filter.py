"""Filters in fail2ban's dialect: from a line to an event, over several lines, whatever the bytes are."""

import gc
import logging
import time
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server

from appguard.address import parse_address
from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL, PROBE, Event
from appguard.filters.base import Named
from appguard.filters.expression import LINE_SECONDS
from appguard.filters.open import open_filter
from appguard.filters.options import options_of
from appguard.filters.regex import RegexFilter
from appguard.sources.base import LINE_MOST

NOW = 1_800_000_000.0


def filter_of(*failregex: str, **options: object) -> RegexFilter:
    """Make a filter."""
    return RegexFilter("test", options_of({"failregex": list(failregex), **options}))


def event_of(chosen: RegexFilter, line: str, now: float = NOW) -> Event | None:
    """Give the event of a line, which names no host."""
    made = chosen.match(line.encode(), now)
    assert not isinstance(made, Named)
    return made


def addresses(chosen: RegexFilter, *lines: str) -> list[str]:
    """Give the addresses of the events of some lines."""
    return [event.address.text for event in (event_of(chosen, line) for line in lines) if event]


PROBES = '^<HOST> .* "(GET|POST|PATCH|PUT|DELETE) .*" (444|404|403) .*$'
ASSETS = r"\.(?i)(jpg|jpeg|png|gif|css|js|ico)"
ACCESS = '{} - - [15/Jan/2027:08:00:00 +0000] "{} HTTP/1.1" {} 153 "-" "curl/7.88.1"'


def test_a_regex_of_an_access_log_as_people_write_it() -> None:
    """The date is cut out and told, an ignoreregex with a flag in the middle works and is reported."""
    chosen = open_filter("regex", {"failregex": PROBES, "ignoreregex": ASSETS}, kind=PROBE)
    assert isinstance(chosen, RegexFilter)
    assert len(chosen.warnings) == 1
    assert "ignoreregex" in chosen.warnings[0]
    assert "has a flag such as (?i) in the middle" in chosen.warnings[0]
    event = event_of(chosen, ACCESS.format("203.0.113.5", "GET /.env", 404))
    assert event == Event(
        PROBE, datetime.fromisoformat("2027-01-15T08:00:00+00:00").timestamp(), parse_address("203.0.113.5")
    )
    assert event_of(chosen, ACCESS.format("203.0.113.5", "GET /.env", 200)) is None
    assert event_of(chosen, ACCESS.format("203.0.113.5", "GET /logo.PNG", 404)) is None
    assert addresses(chosen, ACCESS.format("2001:db8::5", "PUT /x", 403)) == ["2001:db8::5"]


def test_sshd_in_var_log_secure() -> None:
    """A syslog line as Red Hat's systems write it, with the filter of its own that people give."""
    chosen = filter_of(
        r"^Failed \S+ for (?:invalid user )?<F-USER>.*</F-USER> from <HOST> port \d+ ssh2$",
        prefregex=r"^\s*\S+ sshd\[\d+\]: <F-CONTENT>.+</F-CONTENT>$",
    )
    line = "Jan 15 07:59:30 shop sshd[4711]: Failed password for invalid user o'neil from 203.0.113.5 port 50022 ssh2"
    now = datetime(2027, 1, 15, 8, 0).timestamp()
    event = event_of(chosen, line, now)
    assert event is not None
    assert (event.kind, event.address.text, event.user, event.time) == (LOGIN_FAIL, "203.0.113.5", "o'neil", now - 30)
    assert event_of(chosen, line.replace("sshd[", "other["), now) is None


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def werkzeug_log() -> Generator[tuple[int, list[str]]]:
    """Serve with the real development server; give its port and what it logs."""

    def app(environ: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
        start_response("401 UNAUTHORIZED", [("Content-Length", "0")])
        return [b""]

    logger, handler = logging.getLogger("werkzeug"), _Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    server = make_server("127.0.0.1", 0, app)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, handler.lines
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        logger.removeHandler(handler)


def test_the_coloured_log_of_the_real_development_server(caplog: pytest.LogCaptureFixture) -> None:
    """What werkzeug writes, colours and all, matches the regex people write for it; the colours are reported once."""
    with werkzeug_log() as (port, lines):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        for _ in range(2):
            connection.request("POST", "/login")
            connection.getresponse().read()
        connection.close()
    coloured = [line for line in lines if "/login" in line]
    assert "\x1b[" in coloured[0]
    chosen = filter_of(r'^<HOST> - - \[\] "POST /login HTTP/1\.[01]" 401 -$')
    with caplog.at_level(logging.INFO, "appguard"):
        assert addresses(chosen, *coloured) == ["127.0.0.1"] * 2
        assert addresses(chosen, coloured[0].replace("\x1b", "#033")) == ["127.0.0.1"]
    assert chosen.coloured == 3
    assert len([message for message in caplog.messages if "colours in it" in message]) == 1


def test_a_host_name_waits_for_its_addresses() -> None:
    """With usedns a name is given on, with what makes the event of an address; without it is nobody."""
    line = b"Jan 15 08:00:00 sshd: failed for alice from evil.example.com"
    named = filter_of("failed for <F-USER>.*</F-USER> from <HOST>$").match(line, NOW)
    assert isinstance(named, Named)
    assert named.host == "evil.example.com"
    event = named.event_of(parse_address("203.0.113.5"))
    assert (event.address.text, event.user) == ("203.0.113.5", "alice")
    for usedns in ("no", "raw", False):
        assert filter_of("failed for .* from <HOST>$", usedns=usedns).match(line, NOW) is None


def test_an_id_may_be_an_address() -> None:
    """`<F-ID>` wins over the address; an address with zeros before its numbers is read as people mean it."""
    chosen = filter_of("^<F-ID>[^ ]+</F-ID> via <HOST>$", datepattern="{NONE}")
    assert addresses(chosen, "203.0.113.5 via 203.0.113.6", "[2001:db8::5] via 203.0.113.6") == [
        "203.0.113.5",
        "2001:db8::5",
    ]
    assert addresses(filter_of("^from <HOST>$"), "from 203.000.113.05") == ["203.0.113.5"]
    assert addresses(filter_of("^from <ADDR>$"), "from 203.0.113.555", "from 1::2::3") == []


def test_a_journal_message_has_no_date() -> None:
    """What looks like a date in a journal's message stays, and its time is the journal's."""
    regex = "^at 2026-01-01 10:00:00 from <HOST>$"
    event = event_of(filter_of(regex, logtype="journal"), "at 2026-01-01 10:00:00 from 203.0.113.5")
    assert event is not None
    assert event.time == NOW
    assert event_of(filter_of(regex), "at 2026-01-01 10:00:00 from 203.0.113.5") is None


def test_a_line_without_a_date_was_written_when_its_source_says() -> None:
    """So does one whose date cannot be."""
    chosen = filter_of("from <HOST>$")
    for line in ("from 203.0.113.5", "2026-02-31 10:00:00 from 203.0.113.5"):
        event = event_of(chosen, line, NOW + 5)
        assert event is not None
        assert event.time == NOW + 5


CONNECTION = {
    "prefregex": r"^<F-MLFID>\S+ app\[\d+\]:</F-MLFID> <F-CONTENT>.+</F-CONTENT>$",
    "datepattern": "{NONE}",
}


def connection_filter() -> RegexFilter:
    """Make a filter that joins lines by connection."""
    return filter_of(
        "^<F-NOFAIL>open</F-NOFAIL> from <HOST>$",
        "^<F-NOFAIL>asked</F-NOFAIL> <F-USER>.+</F-USER>$",
        "^failed$",
        "^<F-MLFFORGET><F-MLFGAINED>accepted</F-MLFGAINED></F-MLFFORGET> <F-USER>.+</F-USER>$",
        "^<F-NOFAIL><F-MLFFORGET>closed</F-MLFFORGET></F-NOFAIL> <HOST>$",
        **CONNECTION,
    )


def told(chosen: RegexFilter, *lines: str, now: float = NOW) -> list[tuple[str, int, str]]:
    """Give address, attempts and user of the failures of some lines."""
    found = (chosen.find(line.encode(), now) for line in lines)
    return [(hit.id, hit.attempts, hit.groups.get("user", "")) for hit in found if hit]


def test_lines_of_one_connection_are_joined() -> None:
    """The address comes from one line, the failure from another; other connections do not mix in."""
    lines = (
        "h app[1]: open from 203.0.113.5",
        "h app[2]: open from 203.0.113.6",
        "h app[1]: failed",
        "h app[3]: failed",
    )
    assert told(connection_filter(), *lines) == [("203.0.113.5", 2, "")]


def test_a_failure_waits_for_its_address() -> None:
    """What failed before the address was known counts when it is, with every attempt."""
    lines = (
        "h app[1]: failed",
        "h app[1]: asked alice",
        "h app[1]: failed",
        "h app[1]: closed 203.0.113.5",
        "h app[1]: failed",
    )
    assert told(connection_filter(), *lines) == [("203.0.113.5", 4, "alice")]


def test_a_login_takes_back_what_waits() -> None:
    """Who gets in after asking with two keys has not failed; who tried another user before has."""
    begin = ("h app[1]: open from 203.0.113.5", "h app[1]: asked alice", "h app[1]: asked alice")
    assert told(connection_filter(), *begin, "h app[1]: accepted alice", "h app[1]: failed") == []
    assert told(connection_filter(), *begin, "h app[1]: accepted bob") == [("203.0.113.5", 4, "bob")]
    assert told(connection_filter(), *begin, "h app[1]: asked bob") == [("203.0.113.5", 4, "bob")]


TOLD = (
    "open from 203.0.113.{}",
    "asked u{}",
    "failed",
    "accepted u{}",
    "closed 203.0.113.{}",
    "refused 203.0.113.{}",
    "ended 203.0.113.{}",
)


@given(lines=st.lists(st.tuples(st.sampled_from(TOLD), st.integers(1, 3), st.integers(1, 2)), max_size=60))
def test_an_event_is_what_is_found(lines: list[tuple[str, int, int]]) -> None:
    """The quick way from a line to its event, and the way that tells all of it, agree over any lines of connections."""
    regexes = (*connection_filter().options.failregex, "^refused <HOST>$", "^<F-MLFFORGET>ended</F-MLFFORGET> <HOST>$")
    quick, whole = filter_of(*regexes, **CONNECTION), filter_of(*regexes, **CONNECTION)
    for text, connection, number in [*((text, 9, 9) for text in TOLD * 3), *lines]:
        line = f"h app[{connection}]: {text.format(number)}"
        hit, event = whole.find(line.encode(), NOW), event_of(quick, line)
        expected = hit and (hit.id, hit.time, hit.groups.get("user", ""))
        assert (event and (event.address.text, event.time, event.user)) == expected, line


def test_connections_are_forgotten() -> None:
    """After five minutes, and the oldest first when there are too many."""
    chosen = connection_filter()
    assert told(chosen, "h app[1]: open from 203.0.113.5") == []
    assert told(chosen, "h app[1]: failed", now=NOW + 301) == []
    chosen = connection_filter()
    lines = [f"h app[{number}]: open from 203.0.113.5" for number in range(1, 1100)]
    assert told(chosen, *lines, "h app[1]: failed", "h app[1099]: failed") == [("203.0.113.5", 2, "")]


def test_several_lines_are_searched_as_one() -> None:
    """Lines between may be skipped and stay for a match of their own; the time is that of the last line used."""
    chosen = filter_of(r"^ (?P<id>\w+) failed$<SKIPLINES>^ (?P=id) is <HOST>$", maxlines=4)
    lines = ("1800000001 a failed", "1800000002 b failed", "1800000003 noise", "1800000004 a is 203.0.113.5")
    assert addresses(chosen, *lines, "1800000005 a is 203.0.113.5") == ["203.0.113.5"]
    event = event_of(chosen, "1800000006 b is 203.0.113.6")
    assert event is not None
    assert (event.address.text, event.time) == ("203.0.113.6", 1800000006)
    assert addresses(chosen, "1800000007 c failed", *["1800000008 noise"] * 4, "1800000009 c is 203.0.113.5") == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "failregex is missing"),
        ({"failregex": "^x$"}, "finds nobody"),
        ({"failregex": "<HOST> ("}, "is no regex"),
        ({"failregex": "<HOST>", "ignoreregex": "["}, "ignoreregex: "),
        ({"failregex": "<HOST>", "prefregex": "*"}, "prefregex: "),
        ({"failregex": "<HOST>", "datepattern": "%Y("}, "datepattern: "),
        ({"failregex": "<HOST>", "maxlines": 0}, "expected a whole number from 1 to 100"),
        ({"failregex": "<HOST>", "maxlines": True}, "expected a whole number"),
        ({"failregex": "<HOST>", "usedns": "maybe"}, "expected one of 'yes', 'warn', 'no', 'raw'"),
        ({"failregex": 5}, "expected a text"),
        ({"failregex": [5]}, "expected a text"),
    ],
)
def test_a_wrong_option_is_said(options: dict[str, object], complaint: str) -> None:
    """Each wrong option is an error that names it."""
    with pytest.raises(ConfigError) as caught:
        open_filter("regex", options)
    assert complaint in str(caught.value)


def test_known_filters_take_no_options() -> None:
    """Only regex filters have any, and the error names what there is."""
    with pytest.raises(ConfigError, match="failregex: only"):
        open_filter("nginx", {"failregex": "<HOST>"})
    with pytest.raises(ConfigError, match="'regex' with failregex, or 'fail2ban:NAME'"):
        open_filter("nginks")


def test_jails_share_a_filter_only_if_all_of_it_is_the_same() -> None:
    """The name tells: the pipeline tries filters of one name once."""
    one, same, other = (open_filter("regex", {"failregex": f"{word} <HOST>"}) for word in ("a", "a", "b"))
    assert one.name == same.name != other.name
    assert open_filter("regex", {"failregex": "a <HOST>"}, kind=PROBE).name != one.name


pieces = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b"h app[1]: ", b"failed", b"open from ", b"203.0.113.5", b"2001:db8::1", b"asked x", b"\n", b"\x1b[1m"]
        ),
    ),
    max_size=8,
).map(b"".join)


@given(lines=st.lists(pieces, max_size=4), times=st.floats(0, 4e9))
def test_any_bytes_are_an_event_or_nothing(lines: list[bytes], times: float) -> None:
    """No bytes make a filter raise: one line, several, joined by connection; what it finds can be written."""
    for chosen in (
        connection_filter(),
        filter_of("^a$<SKIPLINES>^<HOST>", maxlines=3),
        filter_of("<HOST>", usedns="no"),
    ):
        for line in lines:
            made = chosen.match(line, times)
            if isinstance(made, Event):
                assert made.to_line().isascii()


CATASTROPHIC = (
    r"^(\w+\s?)*:<HOST>$",
    r"^(?:(?:[^\[]+ )*)*\[<HOST>\]$",
    r"(x+x+)+y<HOST>",
    r"^.*.*.*.*.*.*.*=.*<HOST>$",
    f"^{'a?' * 30}{'a' * 30}<HOST>$",
    f"^{'(?:a|a)' * 30}<HOST>$",
)


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_a_catastrophic_regex_costs_its_budget(pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a user's regex does, a line costs a few milliseconds."""
    chosen = filter_of(pattern, datepattern="{NONE}")
    with caplog.at_level(logging.WARNING, "appguard"):
        for piece in (b"a", b"a ", b"x", b"=", b"[ "):
            for length in (40, 200, LINE_MOST):
                begin = time.process_time()
                assert chosen.match((piece * LINE_MOST)[:length] + b"!:[=y!", NOW) is None
                assert time.process_time() - begin < 10 * LINE_SECONDS  # of a machine that does other things too
    assert len(caplog.messages) == (1 if chosen.patience.skipped else 0)


def test_a_catastrophic_datepattern_costs_its_budget() -> None:
    """The same holds for how dates are written."""
    chosen = filter_of("<HOST>", datepattern="(x+x+)+y%Y z")
    begin = time.process_time()
    assert chosen.match(b"x" * 4000 + b"!y2026 z", NOW) is None
    assert time.process_time() - begin < 10 * LINE_SECONDS
    assert chosen.patience.skipped == 1


def test_a_line_that_takes_too_long_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, reported once, and the next line is read as ever."""
    chosen = filter_of(CATASTROPHIC[2], "^from <HOST>$", datepattern="{NONE}")
    with caplog.at_level(logging.WARNING, "appguard"):
        for _ in range(3):
            assert chosen.match(b"x" * 100 + b"!y", NOW) is None
    assert chosen.patience.skipped == 3
    assert "3 lines were skipped" in chosen.patience.complaint
    assert len(caplog.messages) == 1
    assert addresses(chosen, "from 203.0.113.5") == ["203.0.113.5"]


def test_what_is_remembered_of_clients_is_short() -> None:
    """Many long names, each another, take no memory: none is an address."""
    chosen = filter_of("^from <F-ID>.*</F-ID>$")
    tracemalloc.start()
    try:
        for number in range(200):
            assert event_of(chosen, f"from {number}{'-' * 8_000}") is None
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
