"""The filter for JSON logs: its options, and that no field is taken for another."""

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.config_jails import read_jail
from appguard.errors import ConfigError
from appguard.event import ACCESS_FAIL, LOGIN_FAIL, PROBE
from appguard.filters.json_fields import JsonFilter
from appguard.filters.open import open_filter
from appguard.sieve import Sieve
from appguard.sources.base import LINE_MOST
from tests.filtering import told
from tests.strategies import hostile_text

OPTIONS = {"address": "client.ip", "time": "ts", "user": "user", "where": {"event": "login_failed"}}
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile_text.map(lambda text: text[:50])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@given(address=values, time=values, user=values, event=values, status=values)
def test_any_values_are_an_event_or_nothing(
    address: object, time: object, user: object, event: object, status: object
) -> None:
    """No JSON makes the filter raise, and what it finds can be written as an event line."""
    made = JsonFilter("json", OPTIONS | {"status": "status", "count": "status", "method": "user", "path": "user"})
    for client in (address, {"ip": address}, {"ip": "203.0.113.5"}):
        for name in (event, "login_failed"):
            record = {"client": client, "ts": time, "user": user, "event": name, "status": status}
            found = made.match(json.dumps(record).encode(), 0.0)
            assert found is None or found.to_line().isascii()


ODD = {"address": ["a/b", 'client "é"'], "where": {"k\\": ["x", "login/failed"], "n": [5, "é"]}}
SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/"}


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """Write JSON as any writer may: each letter as it is or as an escape."""
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{" + ",".join([f"{draw(written(key))}:{draw(written(each))}" for key, each in pairs]) + "}"
    if not isinstance(value, str):
        return json.dumps(value)
    ways = (
        (f"\\u{ord(each):04x}", SHORT.get(each, each), each if each not in '"\\' else SHORT[each]) for each in value
    )
    return '"' + "".join([draw(st.sampled_from(each)) for each in ways]) + '"'


@given(data=st.data(), value=st.sampled_from(["x", "login/failed", "y"]), number=st.sampled_from([5, 5.0, "é", 6]))
def test_every_event_has_what_stage_one_looks_for(data: st.DataObject, value: str, number: object) -> None:
    """However a writer writes its JSON, no line that is an event is left out, and one without the value is."""
    made = JsonFilter("json", ODD)
    record: dict[str, object] = {"k\\": value, "n": number, "a/b": {'client "é"': "203.0.113.5"}}
    line = data.draw(written(record)).encode()
    is_event = value != "y" and number != 6
    assert (made.match(line, 0.0) is not None) == is_event
    candidates = Sieve(made.needs, LINE_MOST).candidates(line + b"\n")
    assert candidates == [line] or not is_event
    assert Sieve(made.needs, LINE_MOST).candidates(b'{"level":"info"}\n') == []


@given(user=hostile_text)
def test_a_user_name_is_a_user_name(user: str) -> None:
    """Whatever is in one field, the others are what they are."""
    line = json.dumps({"user": user, "event": "login_failed", "ts": 5, "client": {"ip": "203.0.113.5"}})
    found = JsonFilter("json", OPTIONS).match(line.encode(), 0.0)
    assert found is not None
    sent = user.encode(errors="replace").decode()
    assert (found.kind, found.address.text, found.time) == (LOGIN_FAIL, "203.0.113.5", 5.0)
    assert found.user == ("" if sent == "-" else sent)


def test_a_status_says_the_kind() -> None:
    """An access log in JSON is read as any other access log; a line without a status is no event."""
    made = JsonFilter("json", {"address": "ip", "status": "s", "method": "m", "path": "p"})
    kinds = {(403, "GET", "/"): ACCESS_FAIL, (404, "GET", "/"): PROBE, (401, "POST", "/login"): LOGIN_FAIL}
    for (status, method, path), kind in kinds.items():
        line = json.dumps({"ip": "203.0.113.5", "s": status, "m": method, "p": path}).encode()
        found = made.match(line, 7.0)
        assert found is not None
        assert (found.kind, found.time, found.status) == (kind, 7.0, status)
    assert made.match(b'{"ip":"203.0.113.5","m":"GET"}', 7.0) is None
    assert made.match(b'{"ip":"203.0.113.5","s":200}', 7.0) is None


def test_a_kind_and_a_key_with_a_dot() -> None:
    """A setting may say the kind, and a list of keys where a key holds a dot."""
    made = JsonFilter("json", {"address": ["client.ip"], "kind": "guard_probe"})
    found = made.match(b'{"client.ip":"203.0.113.5"}', 7.0)
    assert found is not None
    assert found.kind == PROBE
    assert made.match(b'{"client":{"ip":"203.0.113.5"}}', 7.0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "address is missing"),
        ({"adress": "ip"}, "unknown key 'adress'"),
        ({"address": ""}, "address = '': expected the key"),
        ({"address": 5}, "address = 5: expected the key"),
        ({"address": "ip", "kind": "bad"}, "kind = 'bad': expected one of"),
        ({"address": "ip", "kind": "by_status"}, "needs status"),
        ({"address": "ip", "where": "x"}, "where = 'x': expected a table"),
        ({"address": "ip", "where": {"a": {}}}, "where.a = {}: expected a text"),
        ({"address": "ip", "where": {"a": []}}, r"where.a = \[\]: expected a text"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    """The message says which option is wrong and what is accepted."""
    with pytest.raises(ConfigError, match=message):
        JsonFilter("json", options)


def test_a_jail_gives_the_options_as_a_table() -> None:
    """`filter = { name = "json", ... }` becomes one text, which opens the filter and is its name."""
    settings = {"source": "/var/log/app.jsonl", "filter": {"name": "json", **OPTIONS}}
    config = read_jail("app", settings, "[jails.app]")
    found = told(
        open_filter(config.filter), b'{"user":"x","event":"login_failed","ts":5,"client":{"ip":"203.0.113.5"}}', 0.0
    )
    assert found is not None
    assert open_filter(config.filter).name == config.filter
    with pytest.raises(ConfigError, match=r"\[jails.app\]: filter = "):
        read_jail("app", {"source": "/x", "filter": {"address": "ip"}}, "[jails.app]")
    with pytest.raises(ConfigError, match="options: Expecting"):
        open_filter("json:{x")
