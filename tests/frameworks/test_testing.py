"""`appguard.testing` in the hands of a user: a fresh store, a clock, the events, and nothing left afterwards."""

from pathlib import Path

import pytest
from fastapi import FastAPI, Request

from appguard import AppGuard, Jail, Limit, report_auth_failure
from appguard.testing import Clock, isolated, recorded_events
from tests.frameworks.asgi_client import Caller


async def login(request: Request) -> str:
    """Report a failed login."""
    report_auth_failure(request, user="alice")
    return "no"


def make_app(log: Path) -> FastAPI:
    """Make an app as in production: its store is the daemon's, its log a file."""
    app = FastAPI()
    app.add_api_route("/login", login, methods=["POST"])
    app.add_middleware(
        AppGuard, limits=[Limit("3/minute", path="/login")], store=f"local://{log.parent}", event_log=str(log)
    )
    return app


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """Give an app made before any block."""
    return make_app(tmp_path / "events.jsonl")


def statuses(app: FastAPI, times: int) -> list[int]:
    """Log in several times."""
    return Caller(app).statuses(times, "POST", "/login")


def test_each_block_starts_anew(app: FastAPI, tmp_path: Path) -> None:
    """What was counted before a block, or in another one, is not counted in it; nothing is written to the log."""
    for _ in range(2):
        with isolated() as guarded:
            assert statuses(app, 4) == [200, 200, 200, 429]
            assert [event.kind for event in guarded.events] == [*["authn_login_fail"] * 3, "excess_rate_limit_exceeded"]
            assert {event.user for event in guarded.events} == {"alice", ""}
    assert not (tmp_path / "events.jsonl").exists()


def test_the_clock_ends_limits_and_bans(tmp_path: Path) -> None:
    """A minute on the clock is a minute for limits, for a jail's findtime and for its ban."""
    with isolated(Clock(1_800_000_000.0)) as guarded:
        app = make_app(tmp_path / "events.jsonl")
        assert statuses(app, 4) == [200, 200, 200, 429]
        guarded.clock.advance(59)
        assert statuses(app, 1) == [429]
        guarded.clock.advance(1)
        assert statuses(app, 1) == [200]
        assert guarded.events[0].time == 1_800_000_000.0
        banned = FastAPI()
        banned.add_api_route("/login", login, methods=["POST"])
        banned.add_middleware(AppGuard, limits=[], jails=[Jail("login", maxretry=2, bantime=60)])
        assert statuses(banned, 3) == [200, 200, 403]
        guarded.clock.advance(61)
        assert statuses(banned, 1) == [200]


def test_recorded_events(app: FastAPI, tmp_path: Path) -> None:
    """The events of a block are in a list, with the real clock."""
    with recorded_events() as events:
        assert statuses(app, 2) == [200, 200]
    assert [(event.kind, event.address.text, event.path) for event in events] == [
        ("authn_login_fail", "203.0.113.5", "/login")
    ] * 2
    assert not (tmp_path / "events.jsonl").exists()


def test_after_a_block_everything_is_as_before(app: FastAPI, tmp_path: Path) -> None:
    """The app counts in its own store and writes its own log again, also when the block has failed."""
    with pytest.raises(LookupError), isolated():
        raise LookupError("a failing test")
    assert statuses(app, 2) == [200, 200]
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
