"""Any `log_format` as a filter: what it reads, what it refuses, and that no client forges or hides a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.errors import ConfigError
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, PROBE, REQUEST, time_text
from appguard.filters.log_format import LogFormatFilter
from appguard.sieve import Sieve
from appguard.sources.base import LINE_MOST
from tests.strategies import hostile_text

COMBINED = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)
TABS = "$msec\t$remote_addr\t$remote_user\t$request_uri\t$http_host\t$request_method\t$status"
JSON = (
    'escape=json {"ip":"$remote_addr","t":"$time_iso8601","u":"$remote_user",'
    '"r":"$request","s":$status,"a":"$http_user_agent"}'
)
LAST = "[$time_local] $status $remote_addr $request_method ${request_id} $request_uri"
VALUES = {
    "remote_addr": "203.0.113.5",
    "time_local": "20/Nov/2026:09:11:02 +0000",
    "time_iso8601": "2026-11-20T09:11:02+00:00",
    "msec": "1795165862.000",
    "status": "401",
    "body_bytes_sent": "30",
    "request_method": "POST",
    "request_id": "0af7651916cd43dd8448eb211c80319c",
}
FORMATS = {"combined": COMBINED, "tabs": TABS, "json": JSON, "last": LAST}
SHORT = {ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
ESCAPES = {byte: f"\\u{byte:04X}" for byte in range(32)} | SHORT


def default_escape(text: str) -> str:
    """Write a value as nginx does without `escape=`."""
    return "".join(
        f"\\x{byte:02X}" if byte in b'"\\' or byte < 32 or byte > 126 else chr(byte)
        for byte in text.encode(errors="replace")
    )


def json_escape(text: str) -> str:
    """Write a value as nginx does with `escape=json`."""
    return text.encode(errors="replace").decode().translate(ESCAPES)


def line_of(name: str, texts: dict[str, str], **values: str) -> bytes:
    """Write a line of a format as nginx does; what a client sends is escaped."""
    form = FORMATS[name].removeprefix("escape=json ")
    escape = json_escape if name == "json" else default_escape
    written = VALUES | {key: escape(text) for key, text in texts.items()} | values
    for variable in sorted(written, key=len, reverse=True):
        form = form.replace("${" + variable + "}", written[variable]).replace(f"${variable}", written[variable])
    return form.encode()


fake = st.sampled_from(
    [
        '" 200 1 "-" "-"',
        " [20/Nov/2020:09:11:02 +0000] ",
        '"',
        "\\",
        "\t200",
        "\t192.0.2.66\t",
        "\n192.0.2.66 - ",
        '","s":200',
    ]
)
hostile = st.lists(st.one_of(fake, hostile_text.map(lambda text: text[:50])), max_size=4).map("".join)


@pytest.mark.parametrize("name", FORMATS)
@given(user=hostile, query=hostile, host=hostile, agent=hostile)
def test_nothing_a_client_sends_forges_or_hides_a_failure(
    name: str, user: str, query: str, host: str, agent: str
) -> None:
    """Whatever a client sends, a failed login is that of its client at its time, and nothing else is one."""
    texts = {
        "remote_user": f"x{user}",
        "request_uri": f"/login?{query}",
        "request": f"POST /login?{query} HTTP/1.1",
        "http_host": host,
        "http_referer": host,
        "http_user_agent": agent,
    }
    made = LogFormatFilter(name, FORMATS[name])
    assert not made.warnings
    event = made.match(line_of(name, texts), 0.0)
    assert event is not None
    assert (event.kind, event.address.text, event.path) == (LOGIN_FAIL, "203.0.113.5", "/login")
    assert time_text(event.time) == "2026-11-20T09:11:02.000000Z"
    assert made.match(line_of(name, texts, status="200"), 0.0) is None
    line = line_of(name, texts)
    assert Sieve(made.needs, LINE_MOST).candidates(line + b"\n") == [line]


@pytest.mark.parametrize("name", FORMATS)
def test_stage_one_leaves_out_what_tells_of_nothing(name: str) -> None:
    """A line whose status tells of nothing is not looked at, unless a jail counts any request."""
    texts = dict.fromkeys(("remote_user", "http_host", "http_referer", "http_user_agent"), "-")
    line = line_of(name, texts | {"request_uri": "/x", "request": "GET /x HTTP/1.1"}, status="200")
    assert Sieve(LogFormatFilter(name, FORMATS[name]).needs, LINE_MOST).candidates(line + b"\n") == []
    of_all = LogFormatFilter(name, FORMATS[name], [REQUEST])
    assert Sieve(of_all.needs, LINE_MOST).candidates(line + b"\n") == [line]
    assert of_all.match(line, 0.0) is not None


@pytest.mark.parametrize("name", ["combined", "tabs", "json"])
@pytest.mark.parametrize("length", range(LINE_MOST - 60, LINE_MOST + 10))
def test_a_long_line_hides_no_failed_login(name: str, length: int) -> None:
    """A login is found in a line whose end was cut off, wherever the cut falls."""
    texts = dict.fromkeys(("remote_user", "http_host", "http_referer", "http_user_agent"), "-")
    filler = "x" * (length - len(line_of(name, texts | {"request_uri": "", "request": ""})))
    texts |= {"request_uri": f"/login?{filler}", "request": f"POST /login?{filler} HTTP/1.1"}
    event = LogFormatFilter(name, FORMATS[name]).match(line_of(name, texts)[:LINE_MOST], 0.0)
    assert event is not None
    assert (event.kind, event.address.text) in ((LOGIN_FAIL, "203.0.113.5"), (PROBE, "203.0.113.5"))


def test_limit_req_is_a_refusal_whatever_the_status() -> None:
    """A format with $limit_req_status says which 503 was nginx's own refusal."""
    made = LogFormatFilter("x", '$remote_addr $limit_req_status $status "$request"')
    event = made.match(b'203.0.113.5 REJECTED 503 "GET / HTTP/1.1"', 7.0)
    assert event is not None
    assert (event.kind, event.time) == (LIMIT_EXCEEDED, 7.0)
    for status, candidates in ((b"REJECTED", 1), (b"PASSED", 0)):
        assert len(Sieve(made.needs, LINE_MOST).candidates(b'203.0.113.5 %s 503 "GET /"\n' % status)) == candidates
    assert made.match(b'203.0.113.5 PASSED 503 "GET / HTTP/1.1"', 7.0) is None
    assert made.match(b'203.0.113.5 - 503 "GET / HTTP/1.1"', 7.0) is None


def test_the_directive_is_accepted_as_it_stands() -> None:
    """The text of an nginx configuration, quotes, pieces, escapes and all, is the format that nginx makes of it."""
    text = 'log_format main escape=default \'$remote_addr\\t"$request" \'\n    "$status \\"$http_user_agent\\"";'
    event = LogFormatFilter("x", text).match(b'203.0.113.5\t"GET /x HTTP/1.1" 404 "it\'s"', 0.0)
    assert event is not None
    assert (event.kind, event.path, event.user_agent) == (PROBE, "/x", "it's")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$remote_user [$time_local]", r"\$remote_addr is missing"),
        ("$remote_addr [$time_local]", r"\$status is missing"),
        ("$http_x_forwarded_for $remote_addr $request $status", r"could forge \$remote_addr"),
        ('$remote_addr $remote_user $status $http_host "$request"', r"could forge \$status"),
        ("$remote_addr $status $remote_user $time_local $request", r"could forge \$time_local"),
        ("$remote_addr$remote_user $status", r"could forge \$remote_addr"),
        ("escape=none $remote_addr $status", "escape=none lets clients write any line"),
        ("$remote_addr $status $", "a '\\$' must begin the name of a variable"),
        ("log_format main $remote_addr $status;", "expected texts in quotes"),
    ],
)
def test_a_format_that_a_client_could_forge_is_refused(text: str, message: str) -> None:
    """The message says which variable is not safe, or what is missing."""
    with pytest.raises(ConfigError, match=message):
        LogFormatFilter("x", text)


def test_texts_side_by_side_are_not_read_and_said() -> None:
    """Two texts that nobody can tell apart are passed over with a warning; the rest is read."""
    made = LogFormatFilter("x", '$remote_addr $remote_user $http_host [$time_local] "$request" $status')
    assert made.warnings == (
        "$remote_user cannot be read: put quotes around $remote_user and $http_host in the log_format",
    )
    event = made.match(b'203.0.113.5 a b c [20/Nov/2026:09:11:02 +0000] "POST /login HTTP/1.1" 401', 0.0)
    assert event is not None
    assert (event.user, event.path) == ("", "/login")
