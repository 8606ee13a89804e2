"""Calls to a real Redis on connections of our own: few trips, every answer to its caller, and no failure that lasts."""

import asyncio
import gc
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from appguard.limit import CLOSED_WAIT, Hit, Limit, Verdict
from appguard.stores.redis import RedisStore
from appguard.stores.redis_connection import connect_async
from appguard.stores.redis_uri import parse_redis_uri
from appguard.stores.redis_wire import DirectCommands
from tests.counting import remaining
from tests.forked import forked
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server

HUNDRED = Limit("100/hour")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def new_store(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], RedisStore]]:
    """Give what makes stores of that server, which wait as long as a busy machine needs and count nowhere else."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)
    made: list[RedisStore] = []

    def make() -> RedisStore:
        made.append(RedisStore(server.uri, "shop", "closed", directory=tmp_path))
        return made[-1]

    yield make
    for store in made:
        store.close()


def hits(client: int, cost: int = 1) -> tuple[Hit, ...]:
    """Give the hits of a client's request."""
    return (Hit(f"192.0.2.{client} {HUNDRED.name}", HUNDRED, cost),)


def is_of_redis(verdict: Verdict) -> bool:
    """Say whether a verdict is of Redis, and not the refusal while it does not answer."""
    return verdict.wait != CLOSED_WAIT


class Trips:
    """How often the server has read, and how many connections it got, since this was made."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        first, second = self._numbers(), self._numbers()
        self._before = [2 * now - then for now, then in zip(second, first, strict=True)]  # and what asking costs

    def _numbers(self) -> list[int]:
        told = self._server.command("INFO", "stats")
        names = (rb"total_reads_processed:(\d+)", rb"total_connections_received:(\d+)")
        return [int(number) for name in names for number in re.findall(name, told)]

    def since(self) -> list[int]:
        """Give reads and connections."""
        return [now - then for now, then in zip(self._numbers(), self._before, strict=True)]


def test_calls_of_one_turn_are_one_write_on_one_connection(
    server: RedisServer, new_store: Callable[[], RedisStore]
) -> None:
    """Sixty-four requests at once are sixty-four commands, and one read for the server."""
    store = new_store()
    seen: list[int] = []

    async def run() -> list[Verdict]:
        await store.check_async(hits(99))
        trips = Trips(server)
        verdicts = await asyncio.gather(*(store.check_async(hits(client)) for client in range(64)))
        seen.extend(trips.since())
        await store.close_connections()
        return verdicts

    assert all(verdict.least == (0, 99, 3600.0) for verdict in asyncio.run(run()))
    assert seen == [1, 0]


def test_every_answer_reaches_its_caller_though_others_leave(new_store: Callable[[], RedisStore]) -> None:
    """Callers that are cancelled before or after their call is sent take no answer from those that stay."""
    store = new_store()

    async def run() -> list[Verdict]:
        await store.check_async(hits(99))
        for turns in range(3):
            calls = [asyncio.create_task(store.check_async(hits(client, client + 1))) for client in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls[::2], return_exceptions=True)
            await asyncio.gather(*calls[1::2])
        verdicts = [await store.check_async(hits(client)) for client in range(1, 20, 2)]
        await store.close_connections()
        return verdicts

    assert [remaining(verdict) for verdict in asyncio.run(run())] == [
        100 - 3 * (client + 1) - 1 for client in range(1, 20, 2)
    ]


def test_server_that_forgot_the_script_is_told_it(server: RedisServer, new_store: Callable[[], RedisStore]) -> None:
    """After SCRIPT FLUSH nobody is answered differently, by threads or on a loop, and the script is known again."""
    store = new_store()
    assert remaining(store.check(hits(1))) == 99
    server.command("SCRIPT", "FLUSH")
    assert remaining(store.check(hits(1))) == 98
    server.command("SCRIPT", "FLUSH")

    async def run() -> list[Verdict]:
        verdicts = await asyncio.gather(*(store.check_async(hits(1)) for _ in range(10)))
        await store.close_connections()
        return verdicts

    assert sorted(remaining(verdict) for verdict in asyncio.run(run())) == list(range(88, 98))
    assert b"cmdstat_eval:" in server.command("INFO", "commandstats")


@pytest.mark.parametrize("fate", ["killed", "restarted", "replica"])
def test_lost_connection_is_made_anew(server: RedisServer, new_store: Callable[[], RedisStore], fate: str) -> None:
    """A connection closed by the server, a restart, and a master that is none any more cost a call, not more."""
    store = new_store()

    def fail() -> None:
        if fate == "killed":
            server.command("CLIENT", "KILL", "TYPE", "normal")
        elif fate == "restarted":
            server.kill()
            server.start()
        else:
            server.command("REPLICAOF", "127.0.0.1", "1")

    async def run() -> int:
        failed = 0
        await store.check_async(hits(1))
        fail()
        await asyncio.sleep(0)
        failed += not is_of_redis(await store.check_async(hits(1)))
        if fate == "replica":
            server.command("REPLICAOF", "NO", "ONE")
        failed += not is_of_redis(await store.check_async(hits(1)))
        await store.close_connections()
        return failed

    assert asyncio.run(run()) <= 1
    assert is_of_redis(store.check(hits(1)))
    fail()
    failed = not is_of_redis(store.check(hits(1)))
    if fate == "replica":
        assert failed
        server.command("REPLICAOF", "NO", "ONE")
    assert is_of_redis(store.check(hits(1)))


def test_connection_lost_before_it_is_used_is_made_anew(server: RedisServer) -> None:
    """One that ends between its making and its first call fails those who wait, and the next call has another."""

    async def run() -> object:
        client = cast("Any", connect_async(parse_redis_uri(server.uri), 5.0))
        connection = client._connection
        connect = connection.connect

        async def connect_and_lose() -> None:
            await connect()
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        connection.connect = connect_and_lose
        with pytest.raises(RedisConnectionError):
            await client.execute_command("PING")
        connection.connect = connect
        answer = await client.execute_command("PING")
        await client.aclose()
        return answer

    assert asyncio.run(run()) == b"PONG"


@pytest.mark.parametrize("is_connected", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_what_is_closed_stays_closed(server: RedisServer, turns: int, is_connected: bool) -> None:
    """Calls on their way when it is closed, and those after it, fail at once: a connection would have no owner."""

    async def run() -> None:
        client = cast("Any", connect_async(parse_redis_uri(server.uri), 60.0))
        if is_connected:
            await client.execute_command("PING")
        call = client.execute_command("PING")
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(client.aclose(), 10)
        with suppress(RedisConnectionError):
            assert await asyncio.wait_for(call, 10) == b"PONG"
        with pytest.raises(RedisConnectionError):
            await asyncio.wait_for(client.execute_command("PING"), 10)
        wait_until(lambda: b"name=appguard" not in server.command("CLIENT", "LIST"), 5, "it is open")

    asyncio.run(run())
    gc.collect()  # what was left open would warn, and fail the test


def test_late_answers_are_dropped(
    server: RedisServer, new_store: Callable[[], RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not wait any more is not answered later, nor is anybody else with that answer."""
    store = new_store()

    async def run() -> list[Verdict]:
        await store.check_async(hits(1))
        await store.close_connections()
        monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 0.5)
        await store.check_async(hits(1))
        server.freeze()
        late = await store.check_async(hits(2, 7))
        server.thaw()
        verdicts = [late, *[await store.check_async(hits(client)) for client in (1, 2, 3)]]
        await store.close_connections()
        return verdicts

    late, one, two, three = asyncio.run(run())
    assert not is_of_redis(late)
    assert [remaining(one), remaining(two), remaining(three)] == [97, 92, 99]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_loop_has_a_connection_of_its_own(new_store: Callable[[], RedisStore]) -> None:
    """Loops one after the other, though none is tidied up, and loops at the same time in several threads."""
    store = new_store()
    for number in range(3):
        assert remaining(asyncio.run(store.check_async(hits(1)))) == 99 - number
    seen: list[bool] = []

    def run() -> None:
        async def ask() -> None:
            seen.extend([is_of_redis(await store.check_async(hits(2))) for _ in range(20)])
            await store.close_connections()

        asyncio.run(ask())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 80
    gc.collect()  # what the ended loops had
    assert remaining(store.check(hits(2))) == 19


def test_forked_child_and_its_parent_both_go_on(new_store: Callable[[], RedisStore]) -> None:
    """A child asks on connections of its own, by threads and on a loop, and its parent's answers stay its parent's."""
    store = new_store()

    async def once() -> int:
        left = remaining(await store.check_async(hits(1)))
        await store.close_connections()
        return left

    async def run() -> list[int]:
        left = [remaining(await store.check_async(hits(1))), remaining(store.check(hits(1)))]
        with forked(lambda: [remaining(store.check(hits(1)))]) as child:
            assert child.answer() == [97]
            left.append(remaining(await store.check_async(hits(1))))
            left.append(remaining(store.check(hits(1))))
        await store.close_connections()
        return left

    assert asyncio.run(run()) == [99, 98, 96, 95]
    with forked(lambda: asyncio.run(once())) as child:
        assert child.answer() == 94


def test_threads_ask_in_one_trip_each(server: RedisServer, new_store: Callable[[], RedisStore]) -> None:
    """A call is one read for the server, and threads that take turns share a connection."""
    store = new_store()
    store.check(hits(1))
    trips = Trips(server)
    for _ in range(10):
        thread = threading.Thread(target=store.check, args=(hits(1),))
        thread.start()
        thread.join()
    assert trips.since() == [10, 0]
    assert remaining(store.check(hits(1))) == 88


def test_time_a_connection_took_is_not_spent_again() -> None:
    """A call on a connection that had to be made first waits for its answer only as long as is left."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"+PONG\r\n")

    class Connection:
        """A connection that takes half a second to be made."""

        _sock = ours

        def connect(self) -> None:
            """Take that time."""
            threading.Event().wait(0.5)

        def disconnect(self) -> None:
            """End it."""
            ours.close()

    with theirs:
        client = DirectCommands(Connection, 8.0, lambda: None)
        assert client.execute_command("PING") == b"PONG"
        waited = ours.gettimeout()
        assert waited is not None
        assert 0 < waited <= 7.5
        client.close()


def test_what_is_no_redis_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that speaks another protocol fails no call and hangs none."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 1.0)

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1000):
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        finally:  # also where the loop ends before the client's leaving was heard of
            writer.close()

    async def run() -> Verdict:
        listening = await asyncio.start_server(other, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", "shop", "closed", directory=tmp_path)
        verdict = await store.check_async(hits(1))
        await store.close_async()
        listening.close()
        return verdict

    assert asyncio.run(run()).wait == CLOSED_WAIT


def test_a_connection_that_the_server_has_closed_meanwhile_fails_no_thread(
    server: RedisServer, new_store: Callable[[], RedisStore]
) -> None:
    """A server with a `timeout` closes what nobody uses: the next call goes out on another connection."""
    server.command("CONFIG", "SET", "timeout", "1")
    store = new_store()
    for _ in range(3):
        assert is_of_redis(store.check(hits(1)))
        wait_until(lambda: clients(server) == 0, 10, "the server keeps the connection")


def clients(server: RedisServer) -> int:
    """Give how many others are connected."""
    return server.command("CLIENT", "LIST").count(b"name=appguard")
