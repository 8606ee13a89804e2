"""On one event loop, with counters in a real Redis: whatever the guard decides while it waits for their answers."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from appguard import AppGuard, Jail, Limit, report_auth_failure
from appguard.config import AppOptions
from appguard.middleware import Middleware
from tests.frameworks.asgi_client import ALICE, Caller, Reply
from tests.frameworks.sites import django_handler
from tests.redis_server import RedisServer, redis_server

FEW, MANY = Limit("4/hour", name="few"), Limit("9/hour")
PREFLIGHT = {"origin": "https://shop.example", "access-control-request-method": "GET"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Middleware]:
    """Note what is made to be closed, and let it wait as long as a busy machine needs."""
    noted: list[Middleware] = []

    class Noted(Middleware):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            noted.append(self)

    for module in ("asgi", "django.middleware"):
        monkeypatch.setattr(f"appguard.{module}.Middleware", Noted)
    for module in ("middleware", "stores.redis_counters"):
        monkeypatch.setattr(f"appguard.{module}.BUDGET", 5.0)
    return noted


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


async def _login(request: Request) -> PlainTextResponse:
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)


def _starlette(options: AppOptions) -> Any:
    return AppGuard(Starlette(routes=[Route("/", _home), Route("/login", _login, methods=["POST"])]), **options)


def _django(options: AppOptions) -> Any:
    return django_handler(ASGIHandler, options)


@pytest.fixture(params=[_starlette, _django], ids=["starlette", "django-async"])
def visiting(request: pytest.FixtureRequest, server: RedisServer, made: list[Middleware]) -> Callable[..., Any]:
    """Give what runs a story on one event loop, of the caller of a site with these options."""

    def run(story: Callable[[Caller], Awaitable[object]], peer: str = ALICE, **options: Any) -> Any:
        async def all_of_it() -> object:
            caller = Caller(request.param({"store": server.uri, "name": "shop", **options}), (peer, 4711))
            try:
                return await story(caller)
            finally:
                for middleware in made:
                    await middleware.close_async()

        return asyncio.run(all_of_it())

    return run


async def ask(caller: Caller, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None) -> Reply:
    """Send a request."""
    return await caller.ask(caller.http(method, path, headers or {}))


def asked(server: RedisServer) -> int:
    """Give how many scripts the server has run."""
    found = re.findall(rb"cmdstat_(?:evalsha|eval):calls=(\d+)", server.command("INFO", "commandstats"))
    return sum(map(int, found))


def test_limits_are_counted_and_told(visiting: Callable[..., Any], server: RedisServer) -> None:
    """A preflight costs nothing, the refusal goes on where the answers ended, and Redis is asked of none refused."""

    async def story(caller: Caller) -> tuple[list[str], list[int], int]:
        told: list[str] = []
        for _ in range(4):
            told.append((await ask(caller)).headers["ratelimit"].partition(";t")[0])
            assert (await ask(caller, "OPTIONS", headers=PREFLIGHT)).status != 429
        first, before = (await ask(caller)).status, asked(server)
        return told, [first, *[(await ask(caller)).status for _ in range(3)]], asked(server) - before

    told, refused, questions = visiting(story, limits=[MANY, FEW], event_log="logger")
    assert told == [f'"few";r={left}' for left in (3, 2, 1, 0)]
    assert (refused, questions) == ([429] * 4, 0)


def test_known_client_is_banned(visiting: Callable[..., Any]) -> None:
    """By the app's own jail, after requests that were let in."""

    async def story(caller: Caller) -> list[int]:
        answers = [(await ask(caller)).status for _ in range(3)]
        answers += [(await ask(caller, "POST", "/login")).status for _ in range(2)]
        return [*answers, (await ask(caller)).status]

    jail = Jail("login", maxretry=2, findtime="10m", bantime="1h")
    assert visiting(story, limits=[MANY], jails=[jail], event_log="logger") == [200] * 3 + [401] * 2 + [403]


def test_wrong_passwords_are_limited(visiting: Callable[..., Any]) -> None:
    """What is reserved until the outcome is known is counted or given back; a limit in dry run only logs."""

    async def story(caller: Caller) -> list[int]:
        return [(await ask(caller, "POST", "/login")).status for _ in range(4)] + [(await ask(caller)).status]

    limits = [Limit("3/hour", path="/login", count="auth_failure"), Limit("1/hour", dry_run=True)]
    assert visiting(story, limits=limits, event_log="logger") == [401] * 3 + [429, 200]


def test_fields_only_who_wants_them(visiting: Callable[..., Any]) -> None:
    """With `headers="none"` nothing is told, of requests that are counted all the same."""

    async def story(caller: Caller) -> list[Reply]:
        return [await ask(caller) for _ in range(5)]

    answers: list[Reply] = visiting(story, limits=[FEW], headers="none", event_log="logger")
    assert [answer.status for answer in answers] == [200] * 4 + [429]
    assert not any("ratelimit" in name for answer in answers[:4] for name in answer.headers)


def test_unknown_client_is_explained(visiting: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """It is limited by nothing, and the log says why, once."""
    caplog.set_level(logging.INFO, "appguard")

    async def story(caller: Caller) -> list[int]:
        return [(await ask(caller)).status for _ in range(5)]

    assert visiting(story, "testclient", limits=[FEW], event_log="logger") == [200] * 5
    assert sum("testclient" in line for line in caplog.messages) == 1
