"""Every way to reach a Redis, against real servers: bans spread and limits are counted, by threads and on a loop."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import redis

from appguard.address import parse_address
from appguard.ban import Ban
from appguard.limit import CLOSED_WAIT, Hit, Limit, Verdict
from appguard.stores.open import open_store
from appguard.stores.redis import RedisStore
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_commands import AsyncCommands
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_uri import parse_redis_uri
from tests.certificates import make_certificates, tls_options
from tests.forked import forked
from tests.lab import free_port, wait_until
from tests.redis_groups import Cluster, cluster, sentinel_group
from tests.redis_server import redis_server

ATTACKER = "203.0.113.5"
FIVE, TEN = Limit("5/minute"), Limit("10/minute")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a Cluster for all tests that leave it whole."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def hits(client: str) -> tuple[Hit, ...]:
    """Give hits under two limits."""
    return tuple(Hit(f"{client} {limit.name}", limit) for limit in (TEN, FIVE))


def is_counted(store: RedisStore, hits: Sequence[Hit]) -> bool:
    """Count once; say whether it was in Redis."""
    return store.check(hits).wait != CLOSED_WAIT


def complains(bans: RedisBanSet, words: tuple[str, ...]) -> bool:
    """Say whether one of these is what is wrong with a ban set."""
    return any(each in bans.complaint for each in words)


async def ask_until_connected(store: RedisStore) -> None:
    """Ask on a loop until it has a connection."""
    for _ in range(250):
        if (await store.check_async(hits("192.0.2.99"))).wait != CLOSED_WAIT:
            return
        await asyncio.sleep(0.02)  # the connection is still being made


async def ask(store: RedisStore, hits: Sequence[Hit], times: int) -> list[Verdict]:
    """Ask on a loop as often as said, when it has a connection."""
    try:
        await ask_until_connected(store)
        return [await store.check_async(hits) for _ in range(times)]
    finally:
        await store.close_connections()


def works(uri: str, directory: Path, clients: int = 3) -> None:
    """Ban with a daemon's code, follow and count with an app's, for some clients; leave nothing open."""
    daemon = RedisBanSet(uri)
    with RedisStore(uri, "shop", "closed", directory=directory) as app:
        try:
            assert daemon.wait_synced(10), daemon.complaint
            assert daemon.ban(Ban.of(ATTACKER, bantime="1h")) is not None
            wait_until(lambda: app.get(parse_address(ATTACKER)), 5, "the ban did not arrive")
            for number in range(clients):
                client = f"192.0.2.{number}"
                wait_until(partial(is_counted, app, hits(client)), 5, "nothing is counted")
                app.reset(client)
                admitted = [app.check(hits(client)).refused is None for _ in range(3)]
                admitted += [each.refused is None for each in asyncio.run(ask(app, hits(client), 3))]
                assert admitted.count(True) == 5
        finally:
            daemon.close()


def test_unix_socket(tmp_path: Path) -> None:
    """A server is reached by its socket, and another database of it is another store."""
    path = tmp_path / "redis.sock"
    with redis_server(tmp_path, "--unixsocket", str(path)):
        works(f"redis+unix://{path}?db=1", tmp_path, clients=1)
        works(f"redis+unix://{path}", tmp_path, clients=1)


def test_password_from_a_file_and_its_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User and password open the server; a new password in the file opens it after the old one was withdrawn."""
    file = tmp_path / "password"
    file.write_text("first\n")
    monkeypatch.setenv("REDIS_PASSWORD", "first")
    with redis_server(tmp_path, "--user", *["me", "on", ">first", "~*", "+@all"]) as server:
        place = f"127.0.0.1:{server.port}"
        works(f"redis://me:${{REDIS_PASSWORD}}@{place}", tmp_path, clients=1)
        daemon = RedisBanSet(f"redis://me:file:{file}@{place}")
        try:
            assert daemon.wait_synced(5)
            server.command("ACL", "SETUSER", "me", "resetpass", ">second")
            server.command("CLIENT", "KILL", "USER", "me")
            wait_until(lambda: "WRONGPASS" in daemon.complaint or "username" in daemon.complaint, 5, "let in")
            file.write_text("second\n")
            wait_until(lambda: not daemon.complaint, 5, "not let in")
        finally:
            daemon.close()


def test_a_connection_without_its_password_is_closed(tmp_path: Path) -> None:
    """A server that was reached, but not logged in to because the password's file is missing, is left at once."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        RedisStore(f"redis://me:file:%2Fnone@127.0.0.1:{server.getsockname()[1]}", directory=tmp_path) as store,
    ):
        server.settimeout(5)
        store.check(hits("192.0.2.1"))
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            assert connection.recv(1) == b""


def test_tls(tmp_path: Path) -> None:
    """The server's certificate is checked against the authority, and its name; a client's own may be demanded."""
    make_certificates(tmp_path)
    port = free_port()
    trusted = f"ca={tmp_path}/ca.crt"
    own = f"cert={tmp_path}/client.crt&key={tmp_path}/client.key"
    with redis_server(tmp_path, "--tls-port", str(port), *tls_options(tmp_path)):
        works(f"rediss://127.0.0.1:{port}/0?{trusted}&{own}", tmp_path)
        refusals = {
            f"rediss://127.0.0.1:{port}/0?{own}": ("certificate verify failed",),
            f"rediss://localhost:{port}/0?{trusted}&{own}": ("certificate is not valid for 'localhost'",),
            f"rediss://127.0.0.1:{port}/0?{trusted}": ("certificate required", "EOF", "reset by"),  # it hangs up
        }
        for uri, words in refusals.items():
            daemon = RedisBanSet(uri)
            try:
                assert not daemon.wait_synced(0.5)
                wait_until(partial(complains, daemon, words), 3, daemon.complaint)
            finally:
                daemon.close()


def test_sentinel(tmp_path: Path) -> None:
    """The master is found by the Sentinels, also when the first of them hangs and another is dead."""
    with sentinel_group(tmp_path) as group:
        works(group.uri, tmp_path, clients=1)
        group.sentinels[0].freeze()
        group.sentinels[1].kill()
        try:
            works(group.uri, tmp_path, clients=1)
        finally:
            group.sentinels[0].thaw()


def test_cluster(shards: Cluster, tmp_path: Path) -> None:
    """All limits of a client are counted in one shard, clients are spread over the shards, the ban set is in one."""
    works(shards.uri, tmp_path, clients=20)
    for shard in shards.shards:
        assert b"appguard:l:shop:" in shard.master.command("KEYS", "*")


def test_what_is_no_cluster_is_left(tmp_path: Path) -> None:
    """A server that was asked for its shards, and has none, is left at once: who tries again makes no heap of them."""
    with redis_server(tmp_path) as server:
        uri = parse_redis_uri(f"redis+cluster://127.0.0.1:{server.port}")
        gc.disable()
        try:
            with pytest.raises(redis.ConnectionError):
                connect_to(uri, 1.0, "key")
            wait_until(lambda: b"name=appguard" not in server.command("CLIENT", "LIST"), 5, "the connection is kept")
        finally:
            gc.enable()


def test_cluster_with_limits_of_several_keys(shards: Cluster, tmp_path: Path) -> None:
    """A request counted under an address and a user, in different shards, is refused by either and told of both."""
    with RedisStore(shards.uri, "blog", "closed", directory=tmp_path) as store:
        for number in range(20):
            both = (Hit(f"192.0.2.{number} {TEN.name}", TEN), Hit(f"user:{number} {FIVE.name}", FIVE))
            wait_until(partial(is_counted, store, both[:1]), 5, "nothing is counted")
            verdicts = [store.check(both) for _ in range(2)] + asyncio.run(ask(store, both, 4))
            assert [verdict.refused is None for verdict in verdicts] == [True] * 5 + [False]
            assert verdicts[5].refused is both[1]
            told = [verdict.least and verdict.least[:2] for verdict in verdicts]
            assert told == [(1, 4), (1, 3), (1, 2), (1, 1), (1, 0), None]
            other = (Hit(f"user:{number} other", FIVE, 4), both[0])
            assert store.check(other).least == (0, 1, 60.0)


def test_a_busy_event_loop_is_no_slow_cluster(shards: Cluster, tmp_path: Path) -> None:
    """The shards answer at once and the loop is late: everything is counted there all the same."""

    async def work() -> None:
        while True:
            time.sleep(0.06)  # noqa: ASYNC251 - it is to block
            await asyncio.sleep(0)

    async def ask_beside_work(store: RedisStore) -> list[float]:
        await ask_until_connected(store)
        working = asyncio.create_task(work())
        more = [Hit("192.0.2.99 more", Limit("1000/minute"))]  # in the same shard
        waits = [(await store.check_async(more)).wait for _ in range(4)]
        working.cancel()
        await store.close_connections()
        return waits

    with RedisStore(shards.uri, "busy", "closed", directory=tmp_path) as store:
        assert asyncio.run(ask_beside_work(store)) == [0.0] * 4


def test_forked_child_has_connections_of_its_own(tmp_path: Path) -> None:
    """A child of a process that uses the store follows and counts by itself."""
    with redis_server(tmp_path) as server, RedisStore(server.uri, directory=tmp_path) as store:
        assert store.wait_synced(5)
        store.check(hits("192.0.2.1"))

        def child() -> str:
            store.get(parse_address(ATTACKER))
            wait_until(lambda: store.get(parse_address(ATTACKER)), 8, "the child does not follow")
            return str(store.check(hits("192.0.2.1")).refused)

        with forked(child) as process:
            other = RedisBanSet(server.uri)
            try:
                other.ban(Ban.of(ATTACKER, bantime="1h"))
                assert process.answer() == "None"
            finally:
                other.close()


def test_threads_that_begin_loops_at_the_same_time_fail_no_request(tmp_path: Path) -> None:
    """Who looks for loops that have ended minds no other thread that meanwhile forgets one of them and adds its own."""

    class Ended:
        def is_closed(self) -> bool:
            del clients[cast("asyncio.AbstractEventLoop", self)]
            clients[asyncio.new_event_loop()] = client
            return True

    async def begin() -> AsyncCommands:
        return store._client_of_loop()  # pyright: ignore[reportPrivateUsage]

    with RedisStore("redis://127.0.0.1", directory=tmp_path) as store:
        clients, client = store._async_clients, asyncio.run(begin())  # pyright: ignore[reportPrivateUsage]
        clients[cast("asyncio.AbstractEventLoop", Ended())] = client
        assert asyncio.run(begin()) is not client
        (others,) = (loop for loop in clients if not loop.is_closed())
        others.close()


def test_store_is_opened_by_every_scheme() -> None:
    """`open_store` takes every scheme and opens nothing."""
    for uri in ("redis://h", "rediss://h", "redis+unix:///p", "redis+sentinel://h/s", "rediss+cluster://h"):
        assert open_store(uri).name.startswith(uri.partition("://")[0])
