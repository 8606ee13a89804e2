"""Limits in a real Redis: the scripts count as the pure model, and what was reserved comes back from where it is."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha1
from itertools import count, pairwise
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import example, given, settings

from appguard.flask import AppGuard
from appguard.limit import Hit, Least, Limit, Verdict
from appguard.stores.redis import RedisStore
from appguard.stores.redis_commands import Script
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.counting import UNIT, Model, alone, hits_of, requests
from tests.frameworks.sites import Site, of_wsgi
from tests.redis_server import RedisServer, redis_server

fresh = count()
FIVE = Limit("5/hour", count="auth_failure", path="/login")
NOW_IN_REDIS = "redis.call('TIME')"
NOW_OF_A_TEST = "{redis.call('GET', 'test:seconds'), redis.call('GET', 'test:microseconds')}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def store(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisStore]:
    """Give a store of that server that waits as long as a busy machine needs."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)
    with RedisStore(server.uri, "shop", directory=tmp_path) as made:
        yield made


def with_time_of_the_test(script: Script) -> None:
    """Let a script read two keys instead of the server's clock; nothing else of it changes."""
    text = script._text  # pyright: ignore[reportPrivateUsage]
    assert text.count(NOW_IN_REDIS) == 1
    changed = text.replace(NOW_IN_REDIS, NOW_OF_A_TEST)
    script._text = changed  # pyright: ignore[reportPrivateUsage]
    script._digest = sha1(changed.encode(), usedforsecurity=False).hexdigest()  # pyright: ignore[reportPrivateUsage]


def set_now(server: RedisServer, now: float) -> None:
    """Set the time that such a script reads."""
    server.command("MSET", "test:seconds", str(int(now)), "test:microseconds", f"{now % 1 * 1e6:.0f}")


def agrees(verdict: Verdict, refused: str | None, wait: float, least: Least | None) -> None:
    """Expect what the model says."""
    assert (verdict.refused and verdict.refused.key) == refused
    assert wait <= verdict.wait <= wait + 0.001
    assert (verdict.least and verdict.least[:2]) == (least and least[:2])
    if verdict.least is not None and least is not None:
        assert least[2] <= verdict.least[2] <= least[2] + 0.001


def test_scripts_count_as_the_pure_model(server: RedisServer, store: RedisStore) -> None:
    """Windows and buckets, costs, several limits at once, what is given back: each decision is the model's.

    A wait is told in whole milliseconds, rounded up. Windows are a minute, so that no key ends by Redis's own clock.
    """
    with_time_of_the_test(store._count)  # pyright: ignore[reportPrivateUsage]
    with_time_of_the_test(store._give_back)  # pyright: ignore[reportPrivateUsage]

    # Twice in a row, with windows open and their oldest runs apart, after a limit that is not told, and once equal.
    quick = [(0, [(0, 1, 2)], False, 0), (112, [(0, 5, 3), (0, 1, 2), (0, 0, 1)], False, 0)]

    @settings(max_examples=60, deadline=None)
    @given(steps=requests)
    @example(steps=[*quick, (16, [(0, 5, 3), (0, 1, 3), (0, 0, 1)], False, 0)])
    def agree(steps: list[tuple[int, list[tuple[int, int, int]], bool, int]]) -> None:
        number, model, now = next(fresh), Model(), 1_800_000_000.0
        returning: list[tuple[float, Sequence[Hit], Verdict, float]] = []
        for gap, keys, is_reserved, after in steps:
            now += gap * UNIT
            for due, hits, verdict, at in [each for each in returning if each[0] <= now]:
                set_now(server, due)
                store.give_back(hits, verdict.time)
                model.give_back(hits, at, due)
            returning = [each for each in returning if each[0] > now]
            set_now(server, now)
            hits = hits_of(number, keys, is_reserved=is_reserved)
            verdict = store.check(hits)
            agrees(verdict, *model.check(hits, now))
            for each in alone(hits):
                agrees(store.check(each), *model.check(each, now))
            if is_reserved and verdict.refused is None:
                returning = sorted([*returning, (now + after * UNIT, hits, verdict, now)], key=lambda each: each[0])

    agree()


@pytest.mark.parametrize("burst", [0, 5])
def test_a_clock_that_is_set_back_keeps_nobody_out(server: RedisServer, store: RedisStore, burst: int) -> None:
    """A full counter of an hour from now, as Redis has it since, is begun anew; one of a moment from now is not."""
    with_time_of_the_test(store._count)  # pyright: ignore[reportPrivateUsage]
    limit = Limit("5/minute", burst=burst)
    hits = [Hit("203.0.113.5", limit, 1)]

    def admitted(now: float) -> int:
        set_now(server, now)
        return sum(store.check(hits).refused is None for _ in range(7))

    at = [admitted(1_800_000_000.0 + seconds) for seconds in (3600, 3599.5, 0, 59, 60)]
    assert at == ([5, 0, 5, 4, 1] if burst else [5, 0, 5, 0, 5])


@pytest.mark.parametrize("limits", [["5/minute"], ["9/minute", "5/minute"]])
def test_a_counter_is_kept_until_its_newest_run_has_left(
    server: RedisServer, store: RedisStore, limits: list[str]
) -> None:
    """Requests that join a run neither prolong what is kept nor make it be kept for ever."""
    hits = [Hit(f"203.0.113.5 {text}", Limit(text), 1) for text in limits]
    left: list[list[int]] = []
    for _ in range(3):
        assert store.check(hits).refused is None
        keys = server.command("KEYS", "appguard:l:*").decode().split()
        left.append([int(server.command("PTTL", key).decode().rpartition(":")[2]) for key in keys if "minute" in key])
    assert all(len(each) == len(limits) for each in left)
    assert all(66_000 >= first >= later > 0 for each in zip(*left, strict=True) for first, later in pairwise(each))


@pytest.mark.parametrize("burst", [0, 5])
@pytest.mark.parametrize("foreign", ["SET", "SET short", "SET long", "LPUSH"])
def test_what_a_stranger_put_where_a_counter_should_be_is_begun_anew(
    server: RedisServer, store: RedisStore, burst: int, foreign: str
) -> None:
    """Texts of any length and other types are written over, alone and beside a counter that is as it should be."""
    limits = Limit("5/minute", burst=burst, name="guess"), Limit("9/hour")
    hits = [Hit(f"203.0.113.5 {limit.name}", limit, 1) for limit in limits]
    assert store.check(hits).refused is None
    command, _, length = foreign.partition(" ")
    (key,) = [each for each in server.command("KEYS", "appguard:l:*").decode().split() if "guess" in each]
    server.command("DEL", key)
    server.command(command, key, {"": "x" * 36, "short": "x", "long": "x" * 1200}[length])
    server.command("CONFIG", "RESETSTAT")
    assert [store.check(hits).refused is None for _ in range(7)] == [True] * 5 + [False] * 2
    assert "errorstat_" not in server.command("INFO", "errorstats").decode()


def reserved(client: str = "203.0.113.5", cost: int = 1) -> list[Hit]:
    """Make a reserved hit."""
    return [Hit(f"{client} {FIVE.name}", FIVE, cost, None, is_reserved=True)]


def test_right_logins_use_up_nothing(server: RedisServer, store: RedisStore, tmp_path: Path) -> None:
    """Reserved by one process and given back by another, by threads and on a loop; wrong ones stay."""

    async def on_a_loop() -> None:
        verdict = await store.check_async(reserved())
        await store.give_back_async(reserved(), verdict.time)
        await store.close_connections()

    with RedisStore(server.uri, "shop", directory=tmp_path) as other:
        for _ in range(10):
            verdict = store.check(reserved())
            assert verdict.refused is None
            other.give_back(reserved(), verdict.time)
            asyncio.run(on_a_loop())
        assert [store.check(reserved()).refused is None for _ in range(6)] == [True] * 5 + [False]
        assert other.check([Hit(reserved()[0].key, FIVE, 0)]).refused is not None


def test_reservation_outlives_an_outage(server: RedisServer, store: RedisStore) -> None:
    """What Redis counted is not taken out of this process's own counters, nor the reverse; nothing fails."""
    in_redis = store.check(reserved())
    server.kill()
    for _ in range(4):
        store.check(reserved("192.0.2.1"))  # until the breaker opens
    alone = store.check(reserved())
    assert (in_redis.time < 0, alone.time > 0) == (True, True)
    store.give_back(reserved(), in_redis.time)
    store.give_back(reserved(), alone.time)
    assert [store.check(reserved()).refused is None for _ in range(6)] == [True] * 5 + [False]


def test_other_algorithm_is_another_counter(store: RedisStore) -> None:
    """A limit of one name that gets a burst on a live store starts anew, and neither reads the other's state."""
    for limit in (Limit("2/hour", name="login"), Limit("2/hour", name="login", burst=2)) * 2:
        assert limit.fixed is not None
        hit = Hit(f"203.0.113.5 {limit.counter(limit.fixed)}", limit)
        assert store.check([hit]).refused is None


def test_one_call_for_all_limits(server: RedisServer, store: RedisStore) -> None:
    """A request under six limits of both kinds is one command."""
    hits = hits_of(0, [(0, limit, 1) for limit in range(5)], is_reserved=False) + reserved()
    store.check(hits)
    server.command("CONFIG", "RESETSTAT")
    assert store.check(hits).refused is None
    stats = server.command("INFO", "commandstats").decode()
    assert "cmdstat_evalsha:calls=1," in stats


def test_two_apps_never_share_a_counter(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two apps with the same limits on one Redis count apart, at their routes too; two workers of one app together."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)

    def worker(name: str) -> Site:
        guard = AppGuard(
            name=name, store=server.uri, limits=[Limit("5/hour", path="/")], event_log=str(tmp_path / "events")
        )
        app = Flask(name)
        app.add_url_rule("/page", "page", guard.limit("3/hour", name="page")(lambda: "page"))
        guard.init_app(app)
        assert isinstance(app.wsgi_app, WsgiAppGuard)
        opened.callback(app.wsgi_app.close)
        return of_wsgi(app)

    with ExitStack() as opened:
        for path, amount in (("/", 5), ("/page", 3)):
            for name in ("shop", "blog"):
                first, second = worker(name), worker(name)
                seen = [ask("GET", path).status for ask in (first, second) * 4]
                assert seen[:amount].count(429) == 0
                assert set(seen[amount:]) == {429}


def test_no_request_fails_of_what_a_library_raises(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no client of Redis should raise, as asyncio's on a closing connection, is a Redis that is down."""

    def broken(*_: object) -> object:
        raise TypeError("'NoneType' object is not callable")

    monkeypatch.setattr("appguard.stores.redis_wire.DirectCommands.send", broken)
    monkeypatch.setattr("appguard.stores.redis_wire.PipelinedCommands.send", broken)
    hits = [Hit(f"library {next(fresh)}", Limit("1/hour"))]
    assert store.check(hits).refused is None
    assert store.check(hits).refused is not None  # counted here
    others = [Hit(f"library {next(fresh)}", Limit("1/hour"))]
    assert asyncio.run(store.check_async(others)).refused is None
