"""An operator mistypes `store`: app and daemon say within seconds what is wrong and what to do; requests go on."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appguard.limit import Hit, Limit
from appguard.stores.breaker import Breaker
from appguard.stores.redis import RedisStore
from appguard.stores.redis_advice import explained
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_uri import parse_redis_uri
from tests.certificates import make_certificates, tls_options
from tests.forked import forked
from tests.lab import free_port, wait_until
from tests.redis_roles import roles_server
from tests.redis_server import RedisServer, redis_server

MISTAKES = {  # what the log says to do about each
    "wrong password": "look at user and password in store",
    "no password": "the server wants a password",
    "a password where there is none": "that server has no password",
    "another role": "name the user of this app or daemon in store",
    "a database too many": "must be less than `databases`",
    "TLS to a plain port": "redis:// instead of rediss://",
    "plain to a TLS port": "rediss:// instead of redis://",
    "no socket": "store must name the `unixsocket`",
    "a service the Sentinel does not know": "another service than the Sentinels'",
    "a server for a Sentinel": "that is no Sentinel",
    "a Sentinel for a server": "if that is a Sentinel",
    "a server for a Cluster": "that is a server of its own",
    "one server of a Cluster": "that server belongs to a Cluster",
}


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Give a URI for each mistake, with servers behind it."""
    directory = tmp_path_factory.mktemp("mistakes")
    make_certificates(directory)
    tls = free_port()
    with ExitStack() as stack:
        roles = stack.enter_context(roles_server(directory))
        plain = stack.enter_context(redis_server(directory))
        stack.enter_context(redis_server(directory, "--tls-port", str(tls), *tls_options(directory)))
        member = stack.enter_context(redis_server(directory, "--cluster-enabled", "yes"))
        sentinel = RedisServer(directory, sentinel=f"sentinel monitor fleet 127.0.0.1 {plain.port} 1\n")
        stack.callback(sentinel.kill)
        sentinel.start()
        yield {
            "wrong password": f"redis://appguard-shop:wrong@127.0.0.1:{roles.server.port}/0",
            "no password": f"redis://127.0.0.1:{roles.server.port}/0",
            "a password where there is none": f"redis://:secret@127.0.0.1:{plain.port}/0",
            "another role": roles.uri("admin"),
            "a database too many": f"redis://127.0.0.1:{plain.port}/99",
            "TLS to a plain port": f"rediss://127.0.0.1:{plain.port}/0",
            "plain to a TLS port": f"redis://127.0.0.1:{tls}/0",
            "no socket": f"redis+unix://{directory}/none.sock",
            "a service the Sentinel does not know": f"redis+sentinel://127.0.0.1:{sentinel.port}/flet/0",
            "a server for a Sentinel": f"redis+sentinel://127.0.0.1:{plain.port}/fleet/0",
            "a Sentinel for a server": f"redis://127.0.0.1:{sentinel.port}/0",
            "a server for a Cluster": f"redis+cluster://127.0.0.1:{plain.port}",
            "one server of a Cluster": f"redis://127.0.0.1:{member.port}/0",
        }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_told_with_what_to_do(
    mistake: str, uris: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are counted without Redis, on a loop and in threads, and both the app's log and a daemon say why."""
    hits = (Hit("203.0.113.5 third", Limit("2/hour", name="third")),)

    def is_told() -> bool:
        return any(MISTAKES[mistake] in record.getMessage() for record in caplog.records)

    async def ask(store: RedisStore) -> list[bool]:
        admitted = [(await store.check_async(hits)).refused is None for _ in range(3)]
        await store.close_connections()
        return admitted

    with RedisStore(uris[mistake], "shop", directory=tmp_path) as store:
        assert asyncio.run(ask(store)) == [True, True, False]
        wait_until(lambda: store.check(hits).refused is not None and is_told(), 5, lambda: caplog.text)
    daemon = RedisBanSet(uris[mistake])
    try:
        assert not daemon.wait_synced(0.0)
        wait_until(lambda: MISTAKES[mistake] in daemon.complaint, 5, lambda: daemon.complaint)
    finally:
        daemon.close()
    assert "wrong@" not in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("command", ["AUTH", "EVALSHA"])
def test_what_a_server_repeats_of_a_call_is_not_told(
    command: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that does not know a command says with what it was called: a password, or the address of a client."""
    hits = (Hit("203.0.113.5 third", Limit("2/hour", name="third")),)
    with redis_server(tmp_path, "--rename-command", command, "") as server:
        uri = server.uri.replace("//", "//me:hidden@" if command == "AUTH" else "//")
        with RedisStore(uri, "shop", directory=tmp_path) as store:
            wait_until(
                lambda: store.check(hits) and f"unknown command '{command}'" in caplog.text, 5, lambda: caplog.text
            )
    assert "hidden" not in caplog.text
    assert "203.0.113.5" not in caplog.text


def test_replica_is_told_with_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A replica lets bans be read, and counts nothing."""
    hits = (Hit("203.0.113.5 first", Limit("1/hour", name="first")),)
    with redis_server(tmp_path) as master, redis_server(tmp_path, "--replicaof", f"127.0.0.1 {master.port}") as replica:
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), 10, lambda: "no replica")
        with RedisStore(replica.uri, "shop", directory=tmp_path) as store:
            wait_until(
                lambda: store.check(hits).refused is not None and "is a replica" in caplog.text, 5, lambda: caplog.text
            )


@pytest.mark.lab
def test_socket_of_another_group_is_told_with_what_to_do(open_tmp_path: Path) -> None:
    """Who may not open the socket is told of its group."""
    path = open_tmp_path / "redis.sock"
    with redis_server(open_tmp_path, "--unixsocket", str(path), "--unixsocketperm", "700"):

        def complaint() -> str:
            daemon = RedisBanSet(f"redis+unix://{path}")
            daemon.wait_synced(0.5)
            daemon.close()
            return daemon.complaint

        with forked(complaint, uid=65534) as child:
            assert "must be in the group of that socket" in str(child.answer())


@pytest.mark.parametrize(
    ("uri", "said", "advice"),
    [
        ("redis://127.0.0.1/0", "Connection refused", ""),
        ("redis://127.0.0.1/0", "no answer in time", ""),
        ("redis+cluster://127.0.0.1", "Hash slot not served", ""),
        ("rediss://127.0.0.1/0", "certificate verify failed", "ca=FILE"),
        ("redis://127.0.0.1/0", "MOVED 866 127.0.0.1:7001", "redis+cluster://"),
    ],
)
def test_what_is_clear_gets_no_advice(uri: str, said: str, advice: str) -> None:
    """An error that may have any cause is told as it is."""
    text = explained(OSError(said), parse_redis_uri(uri))
    assert text.startswith(said)
    assert (text == said) if not advice else (advice in text)


def test_reason_that_is_known_later_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where at first only the time was over, the first error that says why is told too, and no further one."""
    breaker = Breaker("redis://127.0.0.1/0", "local", lambda: 0.0)
    late = [TimeoutError("no answer in time")] * 3
    for error in [*late, OSError("invalid password"), *late, OSError("another")]:
        breaker.failed(error)
    told = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert told == ["no answer in time", "invalid password"]
