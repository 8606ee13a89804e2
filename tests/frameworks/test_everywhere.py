"""One scenario through FastAPI, Starlette, Flask, Django sync and Django async: the same answers and events."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appguard import Jail, Limit
from tests.frameworks.sites import RIGHT, SITES, WRONG, Site

BOB = "198.51.100.7"


@pytest.fixture(params=SITES, name="make")
def make_site(request: pytest.FixtureRequest) -> Callable[..., Site]:
    """Give the maker of the site in each framework."""
    made: Callable[..., Site] = SITES[request.param]
    return made


def events_in(path: Path) -> list[dict[str, object]]:
    """Give the events of an event log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_scenario(make: Callable[..., Site], tmp_path: Path) -> None:
    """Pages are served, each kind of failure is one event, and neither a first challenge nor a right login is any."""
    log = tmp_path / "events.jsonl"
    ask = make(name="shop", store="memory://", event_log=str(log))
    assert (ask().status, ask().text) == (200, "home")
    assert ask(path="/nowhere").status == 404
    assert ask(path="/basic").status == 401
    assert events_in(log) == []
    assert ask(path="/basic", headers={"Authorization": RIGHT}).status == 200
    assert events_in(log) == []
    assert ask(path="/basic", headers={"Authorization": WRONG}).status == 401
    assert ask("POST", "/login", {"X-User": "bob"}).status == 401
    assert ask(path="/denied").status == 403
    found = [(event["event"], event.get("user", ""), event["path"], event["status"]) for event in events_in(log)]
    assert found == [
        ("authn_login_fail", "alice", "/basic", 401),
        ("authn_login_fail", "bob", "/login", 401),
        ("authz_fail", "", "/denied", 403),
    ]
    assert {event["app"] for event in events_in(log)} == {"shop"}
    assert {event["source_ip"] for event in events_in(log)} == {"203.0.113.5"}


def test_limits(make: Callable[..., Site]) -> None:
    """Each client has its own limits, by path and method, before routing; a refusal says when to come back."""
    limits = [Limit("3/minute", path="/nowhere"), Limit("2/minute", path="/login", methods=["POST"])]
    ask = make(store="memory://", limits=limits, event_log="logger")
    assert [ask(path="/nowhere").status for _ in range(4)] == [404, 404, 404, 429]
    assert [ask("POST", "/login").status for _ in range(3)] == [401, 401, 429]
    refused = ask("POST", "/login/")
    assert (refused.status, refused.headers["retry-after"]) == (429, "60")
    assert ask("POST", "/login", peer=BOB).status == 401
    assert ask().status == 200


def test_ban_by_the_apps_own_jail(make: Callable[..., Site], tmp_path: Path) -> None:
    """Without a daemon the app's own jail bans, and the answer names the reference to quote."""
    jails = [Jail("login", maxretry=2, bantime="1h")]
    ask = make(store="memory://", jails=jails, event_log=str(tmp_path / "events.jsonl"))
    assert [ask("POST", "/login", {"X-User": user}).status for user in ("a", "b", "c")] == [401, 401, 403]
    refused = ask(headers={"Accept": "application/json"})
    assert refused.status == 403
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.text)["reference"]
    assert ask(peer=BOB).status == 200
    assert [event["jail"] for event in events_in(tmp_path / "events.jsonl")] == ["login", "login"]


def test_clients_behind_a_proxy(make: Callable[..., Site], tmp_path: Path) -> None:
    """Behind a trusted proxy the client is the last hop; what a client writes before it changes nothing."""
    log = tmp_path / "events.jsonl"
    ask = make(store="memory://", limits=["2/minute"], trusted_proxies=["127.0.0.1"], event_log=str(log))

    def through(forwarded: str) -> int:
        return ask(headers={"X-Forwarded-For": forwarded}, peer="127.0.0.1").status

    assert [through(f"10.0.0.{i}, 203.0.113.9") for i in range(3)] == [200, 200, 429]
    assert through("203.0.113.10") == 200
    assert events_in(log)[0]["source_ip"] == "203.0.113.9"
    assert events_in(log)[0]["via"] == ["127.0.0.1"]


def test_switched_off(make: Callable[..., Site], tmp_path: Path) -> None:
    """With enabled=False everything passes, and reports are harmless."""
    log = tmp_path / "events.jsonl"
    ask = make(enabled=False, limits=["1/minute"], event_log=str(log))
    assert [ask("POST", "/login").status for _ in range(3)] == [401, 401, 401]
    assert events_in(log) == []
