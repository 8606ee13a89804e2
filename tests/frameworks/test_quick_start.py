"""One line in the app, no arguments: what it does, what it says, and how it is switched off."""

import logging
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from appguard import AppGuard, report_auth_failure
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller, EventFile


async def page(_: Request) -> PlainTextResponse:
    """Answer a page."""
    return PlainTextResponse("hello")


async def login(request: Request) -> PlainTextResponse:
    """Refuse a login, and report it."""
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)


ROUTES = [Route("/", page), Route("/login", login, methods=["POST"])]


@pytest.fixture(params=[FastAPI, Starlette])
def app(request: pytest.FixtureRequest) -> Starlette:
    """Give the same small app, once as FastAPI and once as Starlette."""
    made = request.param(routes=ROUTES)
    assert isinstance(made, Starlette)
    return made


def admitted_before_refusal(caller: Caller) -> int:
    """Give how many requests were answered before the first 429; -1 if none of 1,000 was refused."""
    for before in range(10):
        statuses = caller.statuses(100)
        if 429 in statuses:
            return before * 100 + statuses.index(429)
    return -1


def test_no_arguments_are_needed(app: Starlette) -> None:
    """The app answers as before, and the client's address is taken from its socket."""
    app.add_middleware(AppGuard)
    reply = Caller(app).get("/")
    assert (reply.status, reply.text) == (200, "hello")


def test_the_default_limit_is_100_a_second(app: Starlette) -> None:
    """A flood from one address is refused after its first hundred; another address is not."""
    app.add_middleware(AppGuard)
    assert admitted_before_refusal(Caller(app)) >= 100
    assert Caller(app, (MALLORY, 1)).get("/").status == 200


def test_an_empty_list_removes_the_default_limit(app: Starlette) -> None:
    """`limits=[]` lets any number of requests pass."""
    app.add_middleware(AppGuard, limits=[])
    assert admitted_before_refusal(Caller(app)) == -1


def test_failures_may_go_to_the_logger(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    """With `event_log="logger"` a failed login is one line of the logger `appguard.events`."""
    app.add_middleware(AppGuard, event_log="logger", name="shop")
    with caplog.at_level(logging.WARNING, "appguard.events"):
        assert Caller(app).post("/login").status == 401
    (record,) = [record for record in caplog.records if record.name == "appguard.events"]
    assert (
        '"event":"authn_login_fail","source_ip":"203.0.113.5","count":1,"app":"shop","user":"alice"' in record.message
    )


def test_one_line_says_what_is_in_force(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    """The first request logs store, limits, event log and trusted proxies, once."""
    app.add_middleware(
        AppGuard,
        name="shop",
        store="memory://",
        limits=["5/minute"],
        trusted_proxies=["10.0.0.0/8", "unix:"],
        event_log="logger",
    )
    with caplog.at_level(logging.INFO, "appguard"):
        Caller(app).statuses(3)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == [
        "AppGuard protects shop: store memory://, limits 5/minute, event log logger, trusted proxies 10.0.0.0/8, unix:"
    ]


def test_the_name_is_the_directory_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events carry the name of the project's directory."""
    directory = tmp_path / "bookshop"
    directory.mkdir()
    monkeypatch.chdir(directory)
    events = EventFile(tmp_path / "events.jsonl")
    app = Starlette(routes=ROUTES)
    app.add_middleware(AppGuard, event_log=str(events))
    Caller(app).post("/login")
    assert events.read()[0]["app"] == "bookshop"


def test_switched_off_it_passes_everything(app: Starlette, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`enabled=False` limits nothing, writes nothing, and a report is heard in silence."""
    events = EventFile(tmp_path / "events.jsonl")
    app.add_middleware(AppGuard, enabled=False, limits=["1/hour"], event_log=str(events))
    assert Caller(app).statuses(5) == [200] * 5
    assert Caller(app).post("/login").status == 401
    assert events.read() == []
    assert caplog.records == []


def test_the_environment_switches_it_off(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    """APPGUARD_ENABLED=0 needs no change of the code."""
    monkeypatch.setenv("APPGUARD_ENABLED", "0")
    app.add_middleware(AppGuard, limits=["1/hour"])
    assert Caller(app).statuses(3) == [200] * 3


def test_a_plain_asgi_app_is_wrapped(tmp_path: Path) -> None:
    """`AppGuard(app)` protects any ASGI app, with no framework at all."""
    events = EventFile(tmp_path / "events.jsonl")
    inner = Starlette(routes=ROUTES)
    guarded = AppGuard(inner, limits=["2/hour"], event_log=str(events))
    assert Caller(guarded).statuses(4) == [200, 200, 429, 429]
    assert Caller(inner, (ALICE, 1)).statuses(4) == [200] * 4
