"""What requests on an event loop ask a real Redis the usual way: each hears its verdict, whatever becomes of Redis."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from appguard import AppGuard
from appguard.limit import CLOSED_WAIT, Hit, Least, Limit, Verdict, admitted
from appguard.stores.redis import RedisStore
from tests.counting import remaining
from tests.redis_server import RedisServer, redis_server

HUNDRED = Limit("100/hour")
CLIENTS = [(Hit(f"192.0.2.{client} {HUNDRED.name}", HUNDRED),) for client in range(64)]
who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def store(server: RedisServer, tmp_path: Path) -> Iterator[RedisStore]:
    """Give a store of that server, which refuses while it does not answer."""
    with RedisStore(server.uri, "shop", "closed", directory=tmp_path) as opened:
        yield opened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores wait as long as a busy machine needs."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)
    monkeypatch.setattr("appguard.middleware.BUDGET", 5.0)


class Caller:
    """A request that notes what it hears, and has all decided if that admits it."""

    def __init__(self, hits: tuple[Hit, ...], noted: list[str] | None = None) -> None:
        self.hits: Sequence[Hit] = hits
        self.heard: list[Verdict] = []
        self._noted = noted

    def hear(self, verdict: Verdict) -> bool:
        """Note a verdict."""
        self.heard.append(verdict)
        if self._noted is not None:
            self._noted.append("heard")
        return verdict.refused is None

    def admit(self, time: float, least: Least | None) -> bool:
        """Note a verdict that admits."""
        return self.hear(admitted(time, least))


async def ask(store: RedisStore, caller: Caller) -> Verdict:
    """Ask the usual way, which must be open; give the verdict, which must have been heard, once."""
    asked = store.ask(caller)
    assert asked is not None
    is_decided = await asked
    (verdict,) = caller.heard
    assert is_decided is (verdict.refused is None)
    return verdict


def on_a_loop(store: RedisStore, run: Callable[[], Awaitable[Any]]) -> Any:
    """Run on an event loop where all clients were counted once."""

    async def all_of_it() -> object:
        await asyncio.gather(*(store.check_async(hits) for hits in CLIENTS))
        try:
            return await run()
        finally:
            await store.close_connections()

    return asyncio.run(all_of_it())


def is_of_redis(verdict: Verdict) -> bool:
    """Say whether a verdict is of Redis, and not the refusal while it does not answer."""
    return verdict.wait != CLOSED_WAIT


async def _page(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


async def _nobody() -> Any:
    raise AssertionError("nobody reads")


async def visit(guarded: AppGuard, client: int, name: str = "") -> dict[str, Any]:
    """Visit an app as a client; give the beginning of the answer. `name` is noted in the context."""
    who.set(name)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await guarded({**scope, "client": (f"192.0.2.{client}", 1)}, _nobody, send)
    return sent[0]


@pytest.mark.usefixtures("patient")
def test_all_hear_their_verdicts_before_anybody_goes_on(store: RedisStore) -> None:
    """The verdicts that arrive together are heard one after the other, each by who asked, and count as any other."""
    noted: list[str] = []

    async def run() -> list[Verdict]:
        return await asyncio.gather(*(visiting(hits) for hits in CLIENTS[:8]))

    async def visiting(hits: tuple[Hit, ...]) -> Verdict:
        verdict = await ask(store, Caller(hits, noted))
        noted.append("went on")
        return verdict

    assert [verdict.least for verdict in on_a_loop(store, run)] == [(0, 98, 3600.0)] * 8
    assert noted == ["heard"] * 8 + ["went on"] * 8


@pytest.mark.usefixtures("patient")
def test_of_several_limits_the_one_with_least_left_is_told(server: RedisServer) -> None:
    """Asked the usual way too, and one of wrong passwords is told of neither alone nor among others."""
    wrong = Limit("1/hour", path="/", count="auth_failure")
    several = [wrong, Limit("90/hour"), Limit("20/hour", name="few"), Limit("20/day")]

    async def told(name: str, limits: Sequence[Limit]) -> list[bytes]:
        guarded = AppGuard(_page, name=name, store=server.uri, limits=limits, event_log="logger")
        headers = [(await visit(guarded, 1))["headers"] for _ in range(3)]
        middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return [value.partition(b";t")[0] for fields in headers for name, value in fields if name == b"ratelimit"]

    assert asyncio.run(told("shop", several)) == [b'"few";r=%d' % left for left in (19, 18, 17)]
    assert asyncio.run(told("other", [wrong])) == []


@pytest.mark.usefixtures("patient")
def test_only_the_usual_question_is_asked_so(server: RedisServer, store: RedisStore) -> None:
    """What was not asked before, or while something is wrong, is for `check_async`."""

    async def run() -> None:
        known = CLIENTS[1]
        assert store.ask(Caller((Hit(f"198.51.100.1 {HUNDRED.name}", HUNDRED),))) is None
        assert store.ask(Caller((Hit(known[0].key, HUNDRED, 2),))) is None  # as one at another cost
        await ask(store, Caller(known))
        server.kill()
        assert not is_of_redis(await ask(store, Caller(known)))
        assert store.ask(Caller(known)) is None
        server.start()
        assert is_of_redis(await store.check_async(known))
        assert is_of_redis(await ask(store, Caller(known)))

    on_a_loop(store, run)
    assert asyncio.run(_none(store))  # another loop has no connection yet


async def _none(store: RedisStore) -> bool:
    return store.ask(Caller(CLIENTS[1])) is None


@pytest.mark.usefixtures("patient")
def test_requests_after_a_forgotten_script_are_counted_once(server: RedisServer) -> None:
    """After SCRIPT FLUSH all that are on their way have their answers, and each is counted once."""
    guarded = AppGuard(_page, name="shop", store=server.uri, limits=["100/hour"], event_log="logger")

    async def run() -> list[bytes]:
        await visit(guarded, 1)
        await visit(guarded, 1)
        server.command("SCRIPT", "FLUSH")
        told = await asyncio.gather(*(visit(guarded, 1) for _ in range(10)))
        middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return [each["headers"][1][1] for each in told]

    assert sorted(asyncio.run(run())) == [b'"100/hour";r=%d;t=3600' % left for left in range(88, 98)]


def test_forgotten_script_counts_nothing(server: RedisServer, store: RedisStore) -> None:
    """Where Redis knows no script whoever asked is told that there is no verdict yet."""

    async def run() -> tuple[bool, list[Verdict]]:
        server.command("SCRIPT", "FLUSH")
        caller = Caller(CLIENTS[1])
        asked = store.ask(caller)
        assert asked is not None
        return await asked, caller.heard

    assert on_a_loop(store, run) == (False, [])


@pytest.mark.usefixtures("patient")
def test_answer_makes_well_again(store: RedisStore) -> None:
    """If another call failed while one was on its way, its answer says that Redis answers."""

    async def run() -> bool:
        breaker = store._breaker  # pyright: ignore[reportPrivateUsage]
        caller = Caller(CLIENTS[1])
        asked = store.ask(caller)
        assert asked is not None
        breaker.failed(TimeoutError())
        assert not breaker.is_well
        assert caller.heard == [] and await asked and len(caller.heard) == 1
        return breaker.is_well

    assert on_a_loop(store, run)


def test_caller_that_raises_harms_nobody_else(store: RedisStore) -> None:
    """What a request raises when it hears is its own error, and those after it have their verdicts."""

    class Deaf(Caller):
        def hear(self, verdict: Verdict) -> bool:
            raise IndexError(verdict)

    async def run() -> Verdict:
        asked = store.ask(Deaf(CLIENTS[1]))
        assert asked is not None
        other = asyncio.create_task(store.check_async(CLIENTS[2]))
        with pytest.raises(IndexError):
            await asked
        return await other

    assert is_of_redis(on_a_loop(store, run))


@pytest.mark.usefixtures("patient")
def test_who_leaves_takes_no_answer_from_others(store: RedisStore) -> None:
    """Requests that are cancelled before or after they are sent hear nothing."""

    async def run() -> list[Verdict]:
        for turns in range(3):
            callers = [Caller(hits) for hits in CLIENTS[:20]]
            calls = [asyncio.create_task(ask(store, caller)) for caller in callers]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            left = await asyncio.gather(*calls[::2], return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in left)
            await asyncio.gather(*calls[1::2])
            assert [len(caller.heard) for caller in callers] == [0, 1] * 10
        return await asyncio.gather(*(ask(store, Caller(hits)) for hits in CLIENTS[1:20:2]))

    assert [remaining(verdict) for verdict in on_a_loop(store, run)] == [100 - 1 - 3 - 1] * 10


async def _answers_again(store: RedisStore) -> None:
    for _ in range(100):
        if is_of_redis(await store.check_async(CLIENTS[1])):
            return
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("fate", ["killed", "connection", "replica", "frozen"])
def test_nobody_fails_because_redis_does(server: RedisServer, store: RedisStore, fate: str) -> None:
    """All that are on their way when Redis fails hear a verdict in time, and the next are of Redis again."""

    async def run() -> tuple[list[Verdict], float]:
        loop = asyncio.get_running_loop()
        if fate == "killed":
            server.kill()
        elif fate == "connection":
            server.command("CLIENT", "KILL", "TYPE", "normal")
        elif fate == "replica":
            server.command("REPLICAOF", "127.0.0.1", "1")
        else:
            server.freeze()
        begun = loop.time()
        left = [store.ask(Caller(hits)) for hits in CLIENTS[:8]]
        asking = asyncio.gather(*(ask(store, Caller(hits)) for hits in CLIENTS))
        await asyncio.sleep(0)
        for each in left:
            assert each is not None and each.cancel()
        verdicts = await asking
        took = loop.time() - begun
        if fate == "killed":
            server.start()
        server.thaw()
        server.command("REPLICAOF", "NO", "ONE")
        await _answers_again(store)
        assert is_of_redis(await ask(store, Caller(CLIENTS[1])))
        return verdicts, took

    verdicts, took = on_a_loop(store, run)
    assert fate == "connection" or not any(map(is_of_redis, verdicts))
    assert took < 1.0  # a bound for a busy machine, where without one the frozen server would be waited for


def test_reply_that_is_none_is_no_verdict(store: RedisStore, server: RedisServer) -> None:
    """What cannot be read, as of another program under this name, is a failure of Redis, not of the request."""

    async def run() -> Verdict:
        calls = store._calls  # pyright: ignore[reportPrivateUsage]
        calls[CLIENTS[1][0].key] = CLIENTS[1], b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n"
        return await ask(store, Caller(CLIENTS[1]))

    assert not is_of_redis(on_a_loop(store, run))
    assert server.is_up()


def test_loop_that_is_not_of_asyncio(server: RedisServer) -> None:
    """On another library's event loop no request fails: it is counted in the process."""
    guarded = AppGuard(_page, name="shop", store=server.uri, limits=["3/hour"], event_log="logger")

    def step() -> int:
        visiting = visit(guarded, 1)
        try:
            visiting.send(None)
        except StopIteration as end:
            status: int = end.value["status"]
            return status
        raise AssertionError("it waits for a loop")

    assert [step() for _ in range(4)] == [200, 200, 200, 429]
    middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
    assert middleware is not None
    middleware.close()


@pytest.mark.usefixtures("patient")
def test_refusal_is_logged_in_the_context_of_its_request(server: RedisServer) -> None:
    """What was noted in a context variable before the guard is there when a log handler asks for it."""
    refused: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refused.append(who.get())

    handler, logger = Handler(), logging.getLogger("appguard.events")
    guarded = AppGuard(_page, name="shop", store=server.uri, limits=["3/hour"], event_log="logger")

    async def run() -> list[int]:
        answers = [await visit(guarded, client, "first") for client in range(4)]
        for number in range(3):
            visits = [asyncio.create_task(visit(guarded, client, f"{number} of {client}")) for client in range(4)]
            answers += await asyncio.gather(*visits)
        middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
        return [answer["status"] for answer in answers]

    logger.addHandler(handler)
    try:
        assert asyncio.run(run()) == [200] * 12 + [429] * 4
    finally:
        logger.removeHandler(handler)
    assert sorted(refused) == [f"2 of {client}" for client in range(4)]
