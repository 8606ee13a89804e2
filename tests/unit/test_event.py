"""The event line: what goes in comes out, strangers forge nothing, and bad lines are refused, not fatal."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import parse_address
from appguard.errors import EventError
from appguard.event import (
    ACCESS_FAIL,
    LOGIN_FAIL,
    PATH_MOST,
    TOKEN_FAIL,
    USER_MOST,
    Event,
    is_login_path,
    kind_of_answer,
    parse_line,
    time_text,
)
from appguard.sources.base import LINE_MOST
from tests.strategies import any_v4, any_v6, hostile_text

TIME = 1_763_629_862.123456
EVENT = Event(
    LOGIN_FAIL,
    TIME,
    parse_address("203.0.113.5"),
    count=3,
    app="shop",
    user="alice",
    method="POST",
    path="/login",
    status=401,
    via=("127.0.0.1", "2001:db8::1"),
    request_id="r1",
    user_agent="curl/8",
    jail="login",
)
ANCHORED = re.compile(
    r'\{"time":"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z","event":"[a-z_]+","source_ip":"(?P<address>[0-9a-f.:]+)",'
)


def line_with(**changes: object) -> str:
    """Give a good event line with some keys changed; None takes a key out."""
    record: dict[str, object] = json.loads(EVENT.to_line()) | changes
    return json.dumps({key: value for key, value in record.items() if value is not None})


def test_line_is_what_the_design_shows() -> None:
    """The line is compact JSON in the documented order, with the time in UTC."""
    assert EVENT.to_line() == (
        '{"time":"2025-11-20T09:11:02.123456Z","event":"authn_login_fail","source_ip":"203.0.113.5","count":3,'
        '"app":"shop","user":"alice","method":"POST","path":"/login","status":401,"via":["127.0.0.1","2001:db8::1"],'
        '"request_id":"r1","user_agent":"curl/8","jail":"login"}'
    )


def test_empty_details_are_left_out_and_a_count_of_nothing_is_not() -> None:
    """A line says only what is known; a repetition that must not count still says so."""
    line = Event(LOGIN_FAIL, TIME, parse_address("203.0.113.5"), count=0).to_line()
    assert list(json.loads(line)) == ["time", "event", "source_ip", "count"]
    assert parse_line(line).count == 0


@given(
    address=st.one_of(any_v4, any_v6).map(str),
    time=st.floats(0, 4e9),
    count=st.integers(0, 1_000_000),
    status=st.integers(0, 999),
    texts=st.lists(hostile_text, min_size=6, max_size=6),
)
def test_round_trip_and_no_forgery(address: str, time: float, count: int, status: int, texts: list[str]) -> None:
    """Whatever strangers choose, there is one short ASCII line, its first three keys are ours, and it comes back."""
    user, path, method, agent, request_id, app = texts
    event = Event(
        LOGIN_FAIL,
        time,
        parse_address(address),
        count,
        app=app,
        user=user,
        method=method,
        path=path,
        status=status,
        user_agent=agent,
        request_id=request_id,
    )
    line = event.to_line()
    assert line.isascii()
    assert line.isprintable()  # no line end, escape or NUL of any kind
    assert len(line) < LINE_MOST
    anchored = ANCHORED.match(line)
    assert anchored is not None
    assert anchored["address"] == event.address.text
    back = parse_line(line)
    assert (back.kind, back.address, back.count, back.status) == (event.kind, event.address, count, status)
    assert abs(back.time - time) < 1e-5
    most = {"user": USER_MOST, "path": PATH_MOST}
    for name in ("user", "path", "method", "user_agent", "request_id", "app"):
        whole = getattr(event, name).encode(errors="replace").decode()
        kept = getattr(back, name)
        assert whole.startswith(kept)
        assert len(kept) >= min(len(whole), 64)
        assert len(kept) <= most.get(name, 256)


@given(user=st.text(max_size=USER_MOST), path=st.text(max_size=256))
def test_ordinary_texts_come_back_whole(user: str, path: str) -> None:
    """A name or path within its cap is not changed, whatever its alphabet."""
    event = EVENT._replace(user=user, path=path, user_agent="")
    assert parse_line(event.to_line()) == event


def test_line_of_the_longest_texts_is_not_cut_by_readers() -> None:
    """A path of characters that need twelve bytes each does not make a line that no reader sees whole."""
    long = EVENT._replace(path="/" + "😀" * 5_000, user="\U0001f600" * 500, user_agent="\x01" * 500, via=("::1",) * 99)
    assert len(long.to_line()) < LINE_MOST
    assert parse_line(long.to_line()).address == EVENT.address


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-11-20T09:11:02.123456Z", TIME),
        ("2025-11-20T09:11:02Z", 1_763_629_862.0),
        ("2025-11-20T10:11:02+01:00", 1_763_629_862.0),
        ("2025-11-20T00:11:02-09:00", 1_763_629_862.0),
        ("1970-01-01T00:00:00Z", 0.0),
    ],
)
def test_time_with_a_zone_is_understood(text: str, seconds: float) -> None:
    """Times are instants, in whatever zone they are written."""
    assert parse_line(line_with(time=text)).time == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["2025-11-20T09:11:02", "2025-11-20", "20251120", "yesterday", "1763629862", "", "2025-13-01T00:00:00Z"]
)
def test_time_without_a_zone_or_sense_is_refused(text: str) -> None:
    """A time that means another instant on another host is an error, not a guess."""
    with pytest.raises(EventError, match="time"):
        parse_line(line_with(time=text))


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_text_is_read_back(time: datetime) -> None:
    """A time of any year is written so that it can be read."""
    assert datetime.fromisoformat(time_text(time.timestamp())).timestamp() == pytest.approx(time.timestamp(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"event": None}, "'event' is not a text"),
        ({"event": ""}, "'event' is not a text"),
        ({"event": 5}, "'event' is not a text"),
        ({"source_ip": None}, "'source_ip' is not a text"),
        ({"source_ip": "203.0.113.999"}, "'203.0.113.999' is not an IP address"),
        ({"source_ip": ["203.0.113.5"]}, "'source_ip' is not a text"),
        ({"time": None}, "'time' is not a text"),
        ({"time": 1_763_629_862}, "'time' is not a text"),
        ({"time": "0001-01-01T00:00:00+23:59"}, "is not of these centuries"),
        ({"time": "9999-12-31T23:59:59-23:59"}, "is not of these centuries"),
        ({"user": 5}, "'user' is not a text"),
        ({"count": -1}, "'count' is not a whole number from 0 to 1000000"),
        ({"count": 1_000_001}, "'count' is not"),
        ({"count": 1.5}, "'count' is not"),
        ({"count": True}, "'count' is not"),
        ({"count": "1"}, "'count' is not"),
        ({"count": 10**400}, "'count' is not"),
        ({"count": float("nan")}, "'count' is not"),
        ({"status": 1000}, "'status' is not"),
        ({"via": "127.0.0.1"}, "'via' is not a list"),
        ({"via": [1]}, "'via' has something else than texts"),
        ({"via": ["\ud800"]}, "is not an IP address"),
        ({"via": ["x" * 100_000]}, "is not an IP address"),
    ],
)
def test_wrong_value_is_named(changes: dict[str, object], complaint: str) -> None:
    """A line with one wrong value is refused for that value."""
    with pytest.raises(EventError) as caught:
        parse_line(line_with(**changes))
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "5",
        "NaN",
        "[" * 100_000,
        '{"time":' * 100_000,
        '{"count":' + "9" * 10_000 + "}",
        EVENT.to_line()[:-1],
        EVENT.to_line() + EVENT.to_line(),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_what_is_no_event_is_refused(line: str) -> None:
    """Anything but one event is an `EventError`, deep nesting and endless numbers too."""
    with pytest.raises(EventError):
        parse_line(line)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile_text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(json.loads(EVENT.to_line()))), values))
def test_any_values_make_an_event_or_an_event_error(changes: dict[str, object]) -> None:
    """No value of any key makes the reader fail in another way, and what it reads can be written and encoded again."""
    try:
        event = parse_line(line_with(**changes))
    except EventError:
        return
    for name in ("kind", "user", "path", "method", "app", "request_id", "user_agent", "jail"):
        assert getattr(event, name).encode().decode() == getattr(event, name)
    assert parse_line(event.to_line()).address == event.address


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode(errors="replace"))))
def test_any_text_is_an_event_or_an_event_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    with pytest.raises(EventError):
        parse_line(text)


def test_unknown_keys_and_kinds_are_no_error() -> None:
    """A newer app may say more than this reader knows."""
    event = parse_line(line_with(event="authn_new_kind", colour="red", more={"a": [1]}))
    assert event._replace(kind=LOGIN_FAIL) == EVENT


@pytest.mark.parametrize(
    ("status", "scheme", "method", "path", "kind"),
    [
        (401, "basic", "GET", "/", LOGIN_FAIL),
        (401, "", "POST", "/login", LOGIN_FAIL),
        (401, "", "POST", "/api/v1/token/", LOGIN_FAIL),
        (401, "bearer", "POST", "/login", LOGIN_FAIL),
        (401, "bearer", "GET", "/api", TOKEN_FAIL),
        (401, "", "GET", "/login", ""),
        (401, "", "POST", "/api", ""),
        (401, "digest", "GET", "/", ""),
        (403, "basic", "POST", "/login", ACCESS_FAIL),
        (200, "basic", "POST", "/login", ""),
        (404, "", "POST", "/login", ""),
        (401, "", "post", "/login", LOGIN_FAIL),
    ],
)
def test_kind_of_answer(status: int, scheme: str, method: str, path: str, kind: str) -> None:
    """A 401 is a failed login only where credentials were sent; a first 401 that asks for them is nothing."""
    assert kind_of_answer(status, scheme=scheme, method=method, path=path) == kind


@pytest.mark.parametrize(
    ("path", "login_paths", "is_login"),
    [
        ("/login", ("login",), True),
        ("/a/b/login//", ("login",), True),
        ("/LogIn", ("login",), True),
        ("/login\n", ("login",), True),
        ("/api/session/\n", ("/api/session",), True),
        ("/login/reset", ("login",), False),
        ("/xlogin", ("login",), False),
        ("/api/session", ("/api/session/",), True),
        ("/api/session/", ("/api/session",), True),
        ("/v2/api/session", ("/api/session",), False),
        ("/", ("login",), False),
        ("", ("login",), False),
    ],
)
def test_login_path(path: str, login_paths: tuple[str, ...], is_login: bool) -> None:
    """An entry with a slash is a whole path, one without a last segment; case and what ends the path do not matter."""
    assert is_login_path(path, login_paths) is is_login
