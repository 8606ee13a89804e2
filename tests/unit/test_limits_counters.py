"""Counters in storages of the limits package: in memory, and in a real Redis that may stop answering."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
from limits.storage import storage_from_string

from appguard.config import app_config
from appguard.errors import ConfigError
from appguard.limit import Hit, Limit
from appguard.middleware import Middleware
from appguard.stores.breaker import FAILURES, Breaker
from appguard.stores.limits_counters import THREADS, LimitsCounters, parse_uri
from tests.counting import remaining
from tests.forked import forked
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server
from tests.threads import no_more_threads

LIMIT = Limit("5/minute")
HIT = Hit("203.0.113.5 5/minute", LIMIT)


@pytest.fixture(params=["memory://", "redis"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the URI of a storage."""
    monkeypatch.setattr("appguard.stores.limits_counters.BUDGET", 5.0)  # a busy machine is not what is asked about
    if request.param == "memory://":
        yield "memory://"
        return
    with redis_server(tmp_path) as server:
        yield server.uri


@pytest.mark.parametrize("strategy", ["sliding-window-counter", "moving-window", "fixed-window"])
def test_every_strategy_counts_by_threads_and_on_a_loop(uri: str, strategy: str) -> None:
    """The amount is admitted and no more, however asked; another client and another app have their own."""
    counters, other = (LimitsCounters(f"{uri}?strategy={strategy}", app, "closed") for app in ("shop", "blog"))

    async def ask() -> list[bool]:
        return [(await counters.check_async([HIT])).refused is None for _ in range(3)]

    assert all(counters.check([HIT]).refused is None for _ in range(3))
    assert asyncio.run(ask()) == [True, True, False]
    refused = counters.check([HIT])
    assert refused.refused == HIT
    assert 0 < refused.wait <= 61
    assert counters.check([Hit("203.0.113.50 5/minute", LIMIT)]).refused is None
    assert other.check([HIT]).refused is None or uri == "memory://"
    counters.reset("203.0.113.5")
    assert counters.check([HIT]).refused is None
    for each in (counters, other):
        each.close()
        each.close()


def test_one_refusal_counts_nothing(uri: str) -> None:
    """If one limit refuses, the others have not counted the request; a cost is so many, and none only asks."""
    counters = LimitsCounters(uri, "shop", "closed")
    narrow, wide = Hit("c narrow", Limit("1/minute")), Hit("c wide", Limit("4/minute"))
    assert [counters.check([narrow, wide]).refused for _ in range(3)] == [None, narrow, narrow]
    assert counters.check([Hit("c wide", wide.limit, 4)]).refused is not None
    assert [counters.check([Hit("c wide", wide.limit, cost)]).refused is None for cost in (3, 0)] == [True, False]
    assert counters.check([]).refused is None
    counters.close()


def test_a_busy_event_loop_is_no_slow_storage() -> None:
    """The storage answers at once and the loop is late: every request is counted there, and none by this process."""
    counters = LimitsCounters("memory://", "shop")

    async def work() -> None:
        while True:
            time.sleep(0.06)  # noqa: ASYNC251 - it is to block
            await asyncio.sleep(0)

    async def ask() -> list[int]:
        working = asyncio.create_task(work())
        left = [remaining(await counters.check_async([HIT])) for _ in range(4)]
        working.cancel()
        return left

    assert remaining(counters.check([HIT])) == 4
    assert asyncio.run(ask()) == [3, 2, 1, 0]
    counters.close()


def test_requests_that_come_first_together_count_in_one_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a storage takes to be opened, who comes meanwhile does not open another and count there."""
    made: list[str] = []
    another = Barrier(2)

    def slow(uri: str, **options: object) -> object:
        made.append(uri)
        with suppress(BrokenBarrierError):
            another.wait(0.2)
        return storage_from_string(uri)

    monkeypatch.setattr("appguard.stores.limits_counters.BUDGET", 5.0)
    monkeypatch.setattr("appguard.stores.limits_counters.storage_from_string", slow)
    with closing(LimitsCounters("memory://", "shop")) as counters, ThreadPoolExecutor(THREADS) as threads:
        verdicts = list(threads.map(counters.check, [[HIT]] * THREADS))
    assert sum(verdict.refused is None for verdict in verdicts) == HIT.rate.amount
    assert len(made) == 1


def test_a_host_without_a_thread_to_spare_fails_no_request() -> None:
    """Where the system refuses another thread, as under attack, a request is counted in the process."""
    counters = LimitsCounters("memory://", "shop")
    with no_more_threads():
        assert [counters.check([HIT]).refused is None for _ in range(6)] == [True] * 5 + [False]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.mark.parametrize("fate", ["hung", "killed"])
def test_no_request_waits_for_a_dead_storage(server: RedisServer, fate: str, caplog: pytest.LogCaptureFixture) -> None:
    """Limits go on in the process, few calls wait, and its return is noticed."""
    counters = LimitsCounters(server.uri, "shop")
    wait_until(lambda: counters.check([Hit("c x", Limit("1000/minute"))]).refused is None, 5, "never connected")
    server.freeze() if fate == "hung" else server.kill()
    slow = 0
    for _ in range(100):
        before = time.monotonic()
        counters.check([HIT])
        asyncio.run(counters.check_async([Hit("198.51.100.7 5/minute", LIMIT)]))
        slow += time.monotonic() - before > 0.06
    assert slow <= 8
    assert counters.check([HIT]).refused == HIT
    assert [record.levelno for record in caplog.records if "does not answer" in record.getMessage()] == [logging.ERROR]
    server.thaw() if fate == "hung" else server.start()
    wait_until(lambda: counters.check([HIT]).refused is None, 10, "the recovery was not noticed")
    counters.close()


@pytest.mark.parametrize(
    ("choice", "is_refused", "said"),
    [("open", False, "no limit refuses anything until"), ("closed", True, "that a limit is about is refused until")],
)
def test_choice_for_a_dead_storage(choice: str, is_refused: bool, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """`on_store_error` admits or refuses without a storage, and the log says which."""
    counters = LimitsCounters("redis://127.0.0.1:1/0", "shop", choice)
    assert [counters.check([HIT]).refused is not None for _ in range(7)] == [is_refused] * 7
    assert said in caplog.text
    counters.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_has_threads_of_its_own(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child forked after the first request counts with its parent, by connections of its own."""
    monkeypatch.setattr("appguard.stores.limits_counters.BUDGET", 5.0)  # of a busy machine
    counters = LimitsCounters(server.uri, "shop", "closed")
    wait_until(lambda: counters.check([HIT]).refused is None, 5, "never connected")

    def ask() -> object:
        wait_until(lambda: counters.check([Hit("c x", Limit("1000/minute"))]).refused is None, 5, "never connected")
        answers = [counters.check([HIT]).refused is None for _ in range(5)]
        counters.close()
        return answers

    with forked(ask) as child:
        assert child.answer() == [True] * 4 + [False]
    counters.close()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nosuch://host", "no storage of the limits package is called 'nosuch': it has "),
        ("async+memory://", "called 'async+memory'"),
        ("memory://?strategy=guess", "strategy=guess: expected one of sliding-window-counter, "),
        ("", "called ''"),
        ("redis://me:hid/den@host:6379/0", "in a password / is written %2F"),
        ("redis://me:hid?den@host:6379/0", "? %3F"),
    ],
)
def test_wrong_uri_is_named(uri: str, message: str) -> None:
    """A scheme or strategy there is none of is refused, and no password is printed."""
    with pytest.raises(ConfigError, match="counters: ") as caught:
        parse_uri(uri)
    assert message in str(caught.value)
    assert "hid" not in str(caught.value)
    assert parse_uri("redis+unix:///run/r@b.sock")[0] == "redis+unix:///run/r@b.sock"
    assert parse_uri("memcached://a:1,b:2?strategy=fixed-window&x=1") == ("memcached://a:1,b:2?x=1", "fixed-window")


def test_limits_such_counters_cannot_count_are_refused_at_the_start() -> None:
    """A burst is no strategy of the limits package."""
    with pytest.raises(ConfigError, match="have no burst"):
        Middleware(app_config({"counters": "memory://", "limits": [Limit("5/minute", burst=9)]}, {}))


def test_app_counts_there_and_has_its_bans_in_its_store() -> None:
    """With `counters=` the store keeps the bans; outcomes are counted after they are known."""
    limits = ["2/hour", Limit("1/hour", path="/login", count=[401])]
    middleware = Middleware(app_config({"store": "memory://", "counters": "memory://", "limits": limits}, {}))
    assert isinstance(middleware.counters, LimitsCounters)
    assert middleware.store.name == "memory://"
    middleware.close()


def test_breaker_of_a_forked_child_is_held_by_nobody() -> None:
    """A thread that notes a failure while another one forks keeps nobody waiting in the child."""
    breaker = Breaker("a store", "local", time.monotonic)

    def log_slowly(record: logging.LogRecord) -> bool:
        watched.removeFilter(log_slowly)  # not in the child too
        with forked(lambda: breaker.failed(OSError("down in the child"))) as child:
            answers.append(child.answer())
        return bool(record)

    answers: list[object] = []
    watched = logging.getLogger("appguard.stores")
    watched.addFilter(log_slowly)
    for _ in range(FAILURES):
        breaker.failed(OSError("down"))
    assert answers == [None]
    assert not breaker.may_ask()
