"""A Redis that answers late: however many questions a request has for it, it waits for them a bounded time."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appguard import AppGuard, Limit
from appguard.asgi import Message, Receive, Scope, Send
from appguard.config import AppOptions
from appguard.limit import Hit
from appguard.stores.redis import RedisStore
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import Caller
from tests.frameworks.sites import of_wsgi
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server
from tests.slow_relay import SlowRelay, slow_relay

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WAIT_MOST = 0.06
BUSY = 0.07  # seconds of each turn of a busy event loop
TRIES = 3  # the quickest counts: what a busy machine makes a request wait is not what is asked about
TRIPS = 5  # of each request: the limit, and those in dry run, each by itself


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


def options_of(relay: SlowRelay, name: str) -> AppOptions:
    """Give an app with several questions for the Redis behind the relay."""
    tried = [Limit("1000/hour", dry_run=True, name=f"tried {number}") for number in range(TRIPS - 1)]
    return {
        "store": f"redis://127.0.0.1:{relay.port}/0",
        "limits": ["1000/hour", *tried],
        "name": name,
        "event_log": "logger",
    }


async def home(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    last: Message = {"type": "http.response.body", "body": b"home"}
    await send(last)


def wsgi_home(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Answer."""
    start_response("200 OK", [])
    return [b"home"]


def longest_of_asgi(relay: SlowRelay, seconds: float, name: str) -> float:
    """Give the seconds that the first request takes once answers are so late."""
    app = AppGuard(home, **options_of(relay, name))

    async def ask() -> float:
        caller = Caller(app)
        relay.delay = 0.0
        assert (await caller.ask(caller.http())).status == 200  # connects
        relay.delay = seconds
        begun = time.monotonic()
        assert (await caller.ask(caller.http())).status == 200
        taken = time.monotonic() - begun
        middleware = app._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return taken

    return asyncio.run(ask())


def longest_of_wsgi(relay: SlowRelay, seconds: float, name: str) -> float:
    """Do the same in a thread."""
    with closing(WsgiAppGuard(wsgi_home, **options_of(relay, name))) as app:
        ask = of_wsgi(app)
        relay.delay = 0.0
        assert ask().status == 200
        relay.delay = seconds
        begun = time.monotonic()
        assert ask().status == 200
        return time.monotonic() - begun


@pytest.mark.parametrize("longest", [longest_of_asgi, longest_of_wsgi], ids=["asgi", "wsgi"])
@pytest.mark.parametrize("seconds", [0.03, 0.2], ids=["late", "too late"])
def test_a_request_waits_for_all_its_answers_together(
    server: RedisServer, longest: Callable[[SlowRelay, float, str], float], seconds: float
) -> None:
    """Five trips to a Redis that answers late are not five waits: what is not known in time is counted here."""
    with slow_relay(server.port, 0.0) as relay:
        taken = [longest(relay, seconds, f"shop{number}") for number in range(TRIES)]
    assert min(taken) >= min(seconds, 0.04)  # it is asked, and waited for
    assert min(taken) < WAIT_MOST


def test_a_busy_event_loop_is_no_slow_redis(server: RedisServer) -> None:
    """Redis answers at once and the app is late: right passwords are still given back, and nobody is locked out."""
    options: AppOptions = {
        "store": f"redis://127.0.0.1:{server.port}/0",
        "limits": [
            "1000/hour",
            Limit("1000/hour", dry_run=True, name="tried"),
            Limit("2/hour", path="/login", methods=["POST"], count="auth_failure"),
        ],
        "event_log": "logger",
    }
    app = AppGuard(home, **options)

    async def work() -> None:
        while True:
            time.sleep(BUSY)  # noqa: ASYNC251 - it is to block
            await asyncio.sleep(0)

    async def log_in() -> list[int]:
        caller = Caller(app)
        assert (await caller.ask(caller.http())).status == 200  # connects
        working = asyncio.create_task(work())
        statuses = [(await caller.ask(caller.http("POST", "/login"))).status for _ in range(4)]
        working.cancel()
        middleware = app._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return statuses

    assert asyncio.run(log_in()) == [200] * 4


def test_what_a_request_has_no_time_for_is_not_held_against_redis(server: RedisServer) -> None:
    """However many requests give up their last question early, the next one's first is asked."""
    with closing(RedisStore(server.uri, app="shop")) as counters:
        hits = [Hit("203.0.113.5 all", Limit("1000/hour"))]
        assert counters.check(hits).time < 0.0  # by the server's clock
        server.freeze()
        assert [counters.check(hits, 0.005).time > 0.0 for _ in range(4)] == [True] * 4
        server.thaw()
        wait_until(server.is_up, 10, lambda: "it does not answer")
        assert counters.check(hits).time < 0.0


def test_an_answer_that_comes_late_costs_no_connection(server: RedisServer) -> None:
    """Threads go on with the connection on which a request gave up early, so the next one is counted in Redis too."""
    with (
        slow_relay(server.port, 0.0) as relay,
        closing(WsgiAppGuard(wsgi_home, **options_of(relay, "shop"))) as app,
    ):
        ask = of_wsgi(app)
        assert ask().status == 200
        before = relay.connections
        relay.delay = 0.025
        left = [int(ask().headers["ratelimit"].partition("r=")[2].partition(";")[0]) for _ in range(6)]
    assert relay.connections == before
    assert min(left) < 996  # one that a busy machine keeps waiting even longer is counted here


def test_a_closed_app_refuses_no_longer_than_redis_is_silent(server: RedisServer, tmp_path: Path) -> None:
    """Whom nobody could count is told so by a 503, and let in by the next request that is counted; he is no event."""
    events = tmp_path / "events.jsonl"
    options: AppOptions = {
        "store": server.uri,
        "limits": ["1000/hour"],
        "on_store_error": "closed",
        "event_log": str(events),
    }
    with closing(WsgiAppGuard(wsgi_home, **options)) as app:
        ask = of_wsgi(app)
        wait_until(lambda: ask().status == 200, 5, "it does not connect")
        server.freeze()
        refused = ask()
        server.thaw()
        wait_until(server.is_up, 10, lambda: "it does not answer")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        wait_until(lambda: ask().status == 200, 0.3, "it goes on refusing")  # not one call: a machine may be busy
    assert not events.exists() or not events.read_text()
