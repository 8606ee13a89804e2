"""Events told in brief: what is read and counted many lines at a time is what comes of reading them one by one."""

import gc
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.address import Grouping, Host, NetworkSet, host_text, parse_address, parse_network
from appguard.briefs import Briefs
from appguard.event import KINDS, LOGIN_FAIL, LOGIN_SUCCESS, PROBE, REQUEST, Event
from appguard.filters.base import Filter, Named, TellsBriefly, host_of
from appguard.filters.event_log import EventLogFilter
from appguard.filters.nginx import SHORT, NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.filters.open import open_filter
from appguard.filters.options import FilterOptions
from appguard.filters.regex import RegexFilter
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.pipeline import Outcome, Pipeline, Route
from appguard.sources.base import LINE_MOST, Block, Chunk
from tests.unit.test_stage_one import OWN, SAMPLES, logged

NOW = 1_795_000_000.0  # 18 Nov 2026 11:06:40
PASSWORD = r"sshd\[\d+\]: Failed password for <F-USER>.*</F-USER> from <HOST> port \d+ ssh\d$"
FILTERS: dict[str, Filter] = {
    "nginx": NginxFilter(),
    "nginx 503": NginxFilter([LOGIN_FAIL, REQUEST], statuses=(429, 503)),
    "nginx any": NginxFilter([REQUEST]),
    "nginx-json": NginxJsonFilter(),
    "nginx-json 503": NginxJsonFilter([REQUEST], statuses=(503,)),
    "nginx-json any": NginxJsonFilter([REQUEST]),
    "appguard logins": EventLogFilter([LOGIN_FAIL]),
    "appguard all": EventLogFilter(KINDS),
    "regex": RegexFilter("regex", FilterOptions(failregex=(PASSWORD,), ignoreregex=("root",))),
    "regex undated": RegexFilter("regex", FilterOptions(failregex=(PASSWORD,), datepattern=("{NONE}",))),
    **{name: open_filter(name) for name in ("sshd", "apache-error", "django", "nginx-error")},
}
BY_STATUS = ("gunicorn", "uvicorn", "werkzeug")  # which `match` reads
ADDRESSES = (
    "203.0.113.5",
    "203.0.113.6",
    "198.51.100.7",
    "203.0.113.05",
    "256.0.0.1",
    "1.2.3.4.5",
    "2001:db8::1",
    "2001:DB8:0:0::0002",
    "2001:db8::198.51.100.7",
    "2001:db8:0:1::1",
    "2001:db8:0:2::1",
    "2001:db8:0:2::2",
    "::ffff:203.0.113.5",
    "::FFFF:cb00:7105",
    "::203.0.113.5",
    "::ffff:198.51.100.7",
    "64:ff9b::203.0.113.5",
    "2001:db8:5::1",
    "fe80::1%eth0",
    "2001:db8:::1",
    "00001::",
    "::",
)

VALID = [text for text in ADDRESSES if host_of(text) is not None]

COMMON = {
    "nginx": [b'203.0.113.5 - - [18/Nov/2026:11:06:40 +0000] "GET /x?y=1 HTTP/1.1" 404 153 "-" "curl \xc3\xa9"'],
    "nginx-json": [
        b'{"time":1795000000.123,"client":"203.0.113.5","peer":"10.0.0.1","status":"404","limit_req":"","auth":"",'
        b'"request_id":"0f","method":"GET","uri":"/x?y=1","user":"","user_agent":"curl"}'
    ],
    "appguard": [
        Event(LOGIN_FAIL, NOW, parse_address("203.0.113.5"), user="ann", status=401, via=("127.0.0.1",))
        .to_line()
        .encode()
    ],
    "sshd": [b"Nov 18 11:06:40 vm1 sshd[7]: Failed password for root from 203.0.113.5 port 7 ssh2"],
}  # what most lines of a log are like


class OneByOne:
    """A filter that tells nothing in brief."""

    def __init__(self, other: Filter) -> None:
        self.name, self.needs, self.match = other.name, other.needs, other.match


def nginx_line(draw: st.DrawFn) -> str:
    """Give a line of an access log, ordinary but for a piece here and there."""
    user = draw(st.sampled_from(["-", "-", "-", "ann", 'a"b', "a b", ""]))
    time = draw(
        st.sampled_from(
            ["18/Nov/2026:11:06:%02d +0000", "18/Nov/2026:13:06:%02d +0200", "18/Nop/2026:11:06:%02d +0000"]
        )
    )
    asked = draw(
        st.sampled_from(
            [
                "GET /",
                "POST /login",
                "GET /a/../b",
                "GET /%61?x=1",
                "GET /a?b/../c#d",
                "GET /a#b?c",
                "GET ?a",
                "POST /Login/?next=/",
                "GET /" + "x" * SHORT,
                "GET /x.css",
                "get /",
                "GET /a b",
                "GET /é",
                "GET",
                r"\x16\x03",
                "",
            ]
        )
    )
    version = draw(st.sampled_from([" HTTP/1.1"] * 5 + ["", " HTTP/2.0"]))
    status = draw(st.sampled_from(["401", "403", "404", "429", "503", "200", "000", "20"]))
    end = draw(st.sampled_from([' 153 "-" "curl"'] * 4 + [' 153 "-" "\x1b"', " ", ""]))
    address = draw(st.sampled_from(ADDRESSES))
    return f'{address} - {user} [{time % draw(st.integers(0, 59))}] "{asked}{version}" {status}{end}'


def json_line(draw: st.DrawFn) -> str:
    """Give a line of nginx's JSON log."""
    address = draw(st.sampled_from(ADDRESSES))
    peer = draw(st.sampled_from([address, "10.0.0.1", "unix:", "é"]))
    status, refused = (
        draw(st.sampled_from(["401", "403", "404", "503", "200", "000"])),
        draw(st.sampled_from(["", "PASSED", "REJECTED"])),
    )
    auth = draw(st.sampled_from(["", "basic", "bearer"]))
    asked = draw(
        st.sampled_from(
            [
                'POST","uri":"/login"',
                'GET","uri":"/a/../b?c#d"',
                'GET","uri":"/\\u00e9"',
                'POST","uri":"/x',
                'GET","uri":""',
            ]
        )
    )
    rest = draw(st.sampled_from([',"user":"","user_agent":"curl"}', ',"user":"ann"}', ""]))
    return (
        f'{{"time":{NOW + draw(st.integers(-60, 60)):.3f},"client":"{address}","peer":"{peer}","status":"{status}",'
        f'"limit_req":"{refused}","auth":"{auth}","request_id":"","method":"{asked}{rest}'
    )


def event_line(draw: st.DrawFn) -> str:
    """Give an event line as an app writes it, or nearly."""
    texts = st.sampled_from(["", "a", "é", 'a"', "a" * 300, "/a/b.css"])
    event = Event(
        draw(st.sampled_from([LOGIN_FAIL, LOGIN_FAIL, LOGIN_SUCCESS, PROBE])),
        NOW + draw(st.floats(-60, 60)),
        parse_address(draw(st.sampled_from(VALID))),
        count=draw(st.sampled_from([1, 1, 1, 0, 3])),
        app=draw(texts),
        user=draw(texts),
        path=draw(texts),
        status=draw(st.sampled_from([0, 401, 200])),
        via=draw(st.sampled_from([(), ("127.0.0.1",), ("10.0.0.1", "2001:db8::9")])),
        user_agent=draw(texts),
        jail=draw(st.sampled_from(["", "", "login"])),
    )
    line = event.to_line()
    return draw(
        st.sampled_from(
            [
                line,
                line,
                line + " ",
                line.replace("203.0.113.5", draw(st.sampled_from(ADDRESSES))),
                line.replace(":", ": ", 1),
            ]
        )
    )


def sshd_line(draw: st.DrawFn) -> str:
    """Give a line of sshd."""
    head = draw(
        st.sampled_from(
            ["Nov 18 11:06:%02d vm1 sshd[7]: ", "2026-11-18T11:06:%02d+00:00 vm1 sshd[7]: ", "Nov 31 11:06:%02d "]
        )
    )
    user = draw(st.sampled_from(["root", "a from 203.0.113.6 port 7 ssh2", "é", "\x1b[31m", ""]))
    rest = draw(
        st.sampled_from(
            [
                "Failed password for {} from {} port 7 ssh2",
                "Invalid user {} from {}",
                "message repeated 3 times: [ Failed password for {} from {} port 7 ssh2]",
            ]
        )
    )
    return head % draw(st.integers(0, 59)) + rest.format(user, draw(st.sampled_from(ADDRESSES)))


@st.composite
def lines_of(draw: st.DrawFn) -> bytes:
    """Give a line that is nearly as common ones are, or a very odd one."""
    make = draw(st.sampled_from([nginx_line, json_line, event_line, sshd_line, None]))
    return draw(logged()) if make is None else make(draw).encode()


logs = st.lists(lines_of(), min_size=1, max_size=40)


def told_in_brief(made: Filter, lines: Sequence[bytes]) -> int:
    """Give how many lines are told in brief; fail if `match` does not tell the same of one."""
    assert isinstance(made, TellsBriefly)
    briefs = made.briefs(lines, [NOW] * len(lines))
    assert list(map(id, briefs.lines)) == list(map(id, lines))
    for at, (line, what) in enumerate(zip(lines, briefs.whats, strict=True)):
        event = made.match(line, NOW)
        if isinstance(event, Named):  # its addresses are not known yet
            assert what is None
        elif what == ():
            assert event is None
        elif what:
            assert event is not None
            host, time, path, via = row_of(briefs, at)
            assert (event.kind, event.status) == what
            assert (event.address.text, event.time, event.path, event.via) == (host_text(host), time, path, via)
            assert (event.count, event.jail) == (1, "")
    return sum(map(bool, briefs.whats))


def row_of(briefs: Briefs, at: int) -> tuple[Host, float, str, tuple[str, ...]]:
    """Give a row without what it tells of and its line."""
    return briefs.hosts[at], briefs.times[at], briefs.path_of(briefs.paths[at]), briefs.vias[at]


@pytest.mark.parametrize("name", FILTERS)
@given(lines=logs)
@example(lines=[b"Nov 20 09:11:02 host sshd[812]: Failed password for root from some.host.example port 57894 ssh2"])
def test_a_brief_says_what_the_whole_event_does(name: str, lines: list[bytes]) -> None:
    """Of each line that is told in brief, `match` tells the same."""
    told_in_brief(FILTERS[name], lines)


@pytest.mark.parametrize("name", [name for name in OWN if isinstance(OWN[name], TellsBriefly)])
def test_samples_are_told_in_brief_as_they_are(name: str) -> None:
    """Of each sample of any filter a brief is right, whatever bytes its texts have."""
    texts = b"root", "\u00e9 \u00a0".encode(), b"\xff\x85 "
    lines = [line.replace(b"root", text) for line in SAMPLES for text in texts]
    assert told_in_brief(OWN[name], lines) > 0 or name in BY_STATUS


@pytest.mark.parametrize("name", [name for name in FILTERS if name.partition(" ")[0] in COMMON])
def test_common_lines_are_told_in_brief(name: str) -> None:
    """What most lines of a log are like is not left to be read one by one."""
    lines = COMMON[name.partition(" ")[0]]
    assert told_in_brief(FILTERS[name], lines) == len(lines)


def test_lines_of_a_known_shape_are_told_in_brief() -> None:
    """Once a regex was searched for in a line, lines that differ from it in digits are not left to be read."""
    made = RegexFilter("regex", FilterOptions(failregex=(PASSWORD,)))
    line = b"Nov 18 11:06:4%d vm1 sshd[7]: Failed password for ann from 203.0.113.%d port 7 ssh2"
    assert list(made.briefs([line % (0, 5)], [NOW]).whats) == [None]
    assert made.match(line % (0, 5), NOW) is not None
    briefs = made.briefs([line % (1, 6)], [NOW])
    assert (list(briefs.whats), row_of(briefs, 0)) == ([(LOGIN_FAIL, 0)], ("203.0.113.6", NOW + 1, "", ()))


def test_a_status_stands_behind_the_request() -> None:
    """What a client has written like one at the end of its request is none, if the line ends there."""
    line = b'203.0.113.5 - - [18/Nov/2026:11:06:40 +0000] "GET /x HTTP/1.1 404 "'
    made = NginxFilter()
    assert list(made.briefs([line], [NOW]).whats) == [None]
    assert made.match(line, NOW) is None


def test_what_is_remembered_of_requests_is_short() -> None:
    """Many long requests and user names, each another, take no memory."""
    made = NginxFilter()
    tracemalloc.start()
    try:
        for number in range(300):
            for user, path in (("-", "x" * 7_900), ("x" * 7_900, "")):
                line = f'203.0.113.5 - {number}{user} [18/Nov/2026:11:06:40 +0000] "GET /{number}{path} HTTP/1.1" 404 1'
                made.briefs([line.encode()], [NOW])
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_one_odd_line_makes_no_other_odd() -> None:
    """Lines are decoded together, and so are addresses and times: each tells what it tells alone."""
    line = COMMON["appguard"][0]
    hosts = (b"203.0.113.5", b"203.0.113.5x"), (b"203.0.113.5", b"2001:db8::1")
    changed = *hosts, (b":40.", b":41."), (b"000Z", b"00+Z"), (b"26-", b"2O-")
    odd = (b"{", line[:-1], *(line.replace(*each, 1) for each in changed))
    made = EventLogFilter([LOGIN_FAIL])
    lines = [each for other in odd for each in (line, other, line)]
    briefs = made.briefs(lines, ())
    alone = [made.briefs([line], ()) for line in lines]
    assert list(briefs.whats) == [each.whats[0] for each in alone]
    told = [at for at, what in enumerate(briefs.whats) if what]
    assert [row_of(briefs, at) for at in told] == [row_of(alone[at], 0) for at in told]
    assert len(told) == 2 * len(odd) + 2


def test_kinds_remembered_are_few_and_short() -> None:
    """An app may write events of any kind: of those that are many or long, little is kept."""
    made, line = EventLogFilter(), COMMON["appguard"][0]
    tracemalloc.start()
    try:
        for number in range(5_000):
            for kind in (b"k%d" % number, b"k%d" % number * 1_000):
                made.briefs([line.replace(LOGIN_FAIL.encode(), kind)], ())
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_nobody_else_is_told_who_a_line_came_through() -> None:
    """A line whose proxy is no address tells nothing in brief, and those beside it what they tell alone."""
    line = COMMON["appguard"][0]
    odd = line.replace(b'"127.0.0.1"', b'"127.0.0.x"')
    assert odd != line
    briefs = EventLogFilter([LOGIN_FAIL]).briefs([line, odd, line], ())
    assert [bool(what) for what in briefs.whats] == [True, False, True]
    assert briefs.vias[0] == briefs.vias[2] == ("127.0.0.1",)


@pytest.mark.parametrize("inside", ["[", '{"a":'])
def test_an_event_line_nested_too_deep_tells_nothing(inside: str) -> None:
    """What an app of any user may write ends nobody who reads it, in brief or whole."""
    begin = b'{"time":"2026-11-18T11:06:40.000000Z","event":"authn_login_fail","source_ip":"203.0.113.5","x":'
    line = (begin + inside.encode() * LINE_MOST)[:LINE_MOST]
    made = EventLogFilter([LOGIN_FAIL])
    assert list(made.briefs([line], [NOW]).whats) == [None]
    assert made.match(line, NOW) is None


JAILS = (
    Jail("probing", maxretry=3, findtime=20, bantime="1h", events=[PROBE, "authz_fail"], statuses=[403, 404]),
    Jail("logins", maxretry=2, findtime=30, bantime="2h"),
    Jail("any", maxretry=4, findtime=5, bantime="1h", events=[REQUEST], exempt_paths=["*.css"]),
    Jail("many", maxretry=300, findtime=60, bantime="1h", events=[REQUEST]),
    Jail("paths", maxretry=2, findtime=60, bantime="1h", events=[PROBE, LOGIN_FAIL], distinct="path"),
    Jail("users", maxretry=2, findtime=60, bantime="1h", key="user"),
    Jail(
        "safe",
        maxretry=2,
        findtime=60,
        bantime="1h",
        events=[PROBE, LOGIN_FAIL],
        safelist=["203.0.113.6", "2001:db8:0:2::2"],
    ),
    Jail("once", maxretry=1, findtime=60, bantime="1h", events=[LOGIN_FAIL], paths=["/login", "*.css"]),
)


def run(made: Filter, jails: Sequence[Jail], chunks: Sequence[Sequence[bytes]], most: int, size: int) -> list[object]:
    """Feed chunks and give all that can be seen of it."""
    windows = [JailWindow(jail, Grouping([parse_network("2001:db8:0:1::/64")]), most) for jail in jails]
    routes = [Route(made, window, behind=("192.0.2.1",) if window.jail.name == "logins" else ()) for window in windows]
    pipeline = Pipeline(
        {"log": routes}, NetworkSet([parse_network("198.51.100.0/24"), parse_network("2001:db8:5::/48")])
    )
    seen: list[object] = []
    for lines in chunks:
        outcome, touched = Outcome(), dict[str, set[str]]()
        for at in range(0, len(lines), size):
            part = pipeline.feed("log", Chunk("origin", Block.of(lines[at : at + size])), NOW)
            outcome.bans += part.bans
            for jail, keys in part.touched.items():
                touched.setdefault(jail, set()).update(keys)
        counts = pipeline.counts("log")
        seen.append((outcome.bans, touched, counts.matched, counts.untimely, counts.lines))
        seen.append([(window.total_failed, window.currently_failed, list(window)) for window in windows])
    return seen


@pytest.mark.parametrize("name", FILTERS)
@given(
    chunks=st.lists(logs, min_size=1, max_size=3),
    jails=st.sets(st.sampled_from(range(len(JAILS))), min_size=1),
    most=st.sampled_from([2, 1000]),
)
def test_many_at_a_time_is_one_by_one(name: str, chunks: list[list[bytes]], jails: set[int], most: int) -> None:
    """Bans, their order and evidence, and all that is kept, are the same, also where there is room for two keys."""
    chosen = [JAILS[number] for number in sorted(jails)]
    chunks = [[line[:LINE_MOST] for line in lines] for lines in chunks]
    one_by_one = run(OneByOne(FILTERS[name]), chosen, chunks, most, 1)
    assert run(FILTERS[name], chosen, chunks, most, 1000) == one_by_one
