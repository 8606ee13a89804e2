"""Sixty-four guesses at once against a limit of five wrong ones: the app sees five, whatever the store."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from flask import Flask

from appguard import AppGuard, Limit
from appguard.flask import AppGuard as FlaskAppGuard
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import ALICE, Caller
from tests.frameworks.sites import of_wsgi
from tests.lab import wait_until
from tests.redis_server import redis_server

GUESSES = 64
LIMITS = {
    "failures": Limit("5/hour", path="/login", count="auth_failure"),
    "failures of a bucket": Limit("5/hour", path="/login", count="auth_failure", burst=5),
    "statuses": Limit("5/hour", path="/login", count=[401]),
    "any login path": Limit("5/hour", count="auth_failure"),
}


@pytest.fixture(params=["memory", "local", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the URI of a store of each kind."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where the shared table lies
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)  # a busy machine is not what is asked about
    monkeypatch.setattr("appguard.middleware.BUDGET", 5.0)
    with ExitStack() as stack:
        yield stack.enter_context(redis_server(tmp_path)).uri if request.param == "redis" else f"{request.param}://"


@pytest.mark.parametrize("limit", LIMITS)
def test_on_an_event_loop(store: str, limit: str) -> None:
    """All are asked before the app has answered one: five reach the password check, the others are refused."""
    tried: list[int] = []

    async def guess_all() -> list[int]:
        all_there = asyncio.Event()
        answered: list[int] = []
        app = FastAPI()

        async def login() -> Response:
            tried.append(1)
            if len(tried) + len(answered) == GUESSES:
                all_there.set()
            await asyncio.wait_for(all_there.wait(), 20)
            return Response(status_code=401)

        app.add_api_route("/login", login, methods=["POST"])
        guarded = AppGuard(app, store=store, limits=[LIMITS[limit]], event_log="logger")
        caller = Caller(guarded, (ALICE, 4711))

        async def guess() -> None:
            reply = await caller.ask(caller.http("POST", "/login"))
            answered.append(reply.status)
            if len(tried) + len(answered) == GUESSES:
                all_there.set()

        await asyncio.gather(*(guess() for _ in range(GUESSES)))
        assert (await caller.ask(caller.http("POST", "/login"))).status == 429
        middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return answered

    answers = asyncio.run(guess_all())
    assert (len(tried), answers.count(401), answers.count(429)) == (5, 5, GUESSES - 5)


def test_in_threads(store: str) -> None:
    """The same in a WSGI server's threads."""
    tried: list[int] = []
    answered: list[int] = []
    all_there = threading.Event()
    app = Flask("shop")

    def login() -> tuple[str, int]:
        tried.append(1)
        assert all_there.wait(20)
        return "no", 401

    app.add_url_rule("/login", "login", login, methods=["POST"])
    FlaskAppGuard(app, store=store, limits=[LIMITS["failures"]], event_log="logger")
    ask = of_wsgi(app)
    threads = [threading.Thread(target=lambda: answered.append(ask("POST", "/login").status)) for _ in range(GUESSES)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(tried) + len(answered) == GUESSES, 20, "not all guesses arrived")
    all_there.set()
    for thread in threads:
        thread.join()
    guarded = app.wsgi_app
    assert isinstance(guarded, WsgiAppGuard) and guarded._middleware  # pyright: ignore[reportPrivateUsage]
    guarded._middleware.close()  # pyright: ignore[reportPrivateUsage]
    assert (len(tried), answered.count(401), answered.count(429)) == (5, 5, GUESSES - 5)


def test_pictures_of_a_page_are_no_guesses() -> None:
    """Forty requests at once, none of them a login, pass a limit of two wrong passwords; so do known credentials."""
    app = FastAPI()
    missing = [0]

    async def picture() -> str:
        missing[0] -= 1
        if not missing[0]:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), 20)
        return "picture"

    app.add_api_route("/picture", picture)
    guarded = AppGuard(app, store="memory://", limits=[Limit("2/hour", count="auth_failure")], event_log="logger")
    caller = Caller(guarded, (ALICE, 4711))
    basic = {"authorization": "Basic YWxpY2U6d29uZGVybGFuZA=="}

    async def ask(headers: dict[str, str], number: int) -> list[int]:
        missing[0] = number
        all_there.clear()
        replies = await asyncio.gather(*(caller.ask(caller.http("GET", "/picture", headers)) for _ in range(number)))
        return [reply.status for reply in replies]

    async def load() -> list[int]:
        return await ask({}, 40) + await ask(basic, 1) + await ask(basic, 40)

    all_there = asyncio.Event()
    assert asyncio.run(load()) == [200] * 81
