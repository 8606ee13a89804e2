"""The Redis store against a real server: what is shared, what wins, and what happens while it does not answer."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from appguard.address import parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.limit import Hit, Limit, Verdict
from appguard.stores.redis import RedisStore
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_commands import scan_ahead
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import parse_record
from appguard.stores.redis_uri import parse_redis_uri
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server
from tests.replicas import FACTS, bans_kept

ATTACKER = parse_address("203.0.113.5")
NETWORK = parse_network("203.0.113.5")
FIVE = Limit("5/minute")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def replicas(server: RedisServer) -> Iterator[tuple[RedisBanSet, RedisBanSet]]:
    """Give two replicas of one ban set, in step."""
    with ExitStack() as stack:
        made = (RedisBanSet(server.uri), RedisBanSet(server.uri))
        for each in made:
            stack.callback(each.close)
            assert each.wait_synced(5)
        yield made


def hit(client: str = "203.0.113.5", limit: Limit = FIVE) -> tuple[Hit, ...]:
    """Give one hit of a client."""
    return (Hit(f"{client} {limit.name}", limit),)


def ask_on_a_loop(store: RedisStore, client: str = "203.0.113.5") -> Verdict:
    """Ask on an event loop of its own, and leave nothing of it."""

    async def ask() -> Verdict:
        try:
            return await store.check_async(hit(client))
        finally:
            await store.close_connections()

    return asyncio.run(ask())


def test_bans_and_lifts_reach_the_other_replica(replicas: tuple[RedisBanSet, RedisBanSet]) -> None:
    """What one replica decides, ban, extension or lift, the other knows, with all its fields."""
    here, there = replicas
    ban = Ban(NETWORK, "login", time.time(), time.time() + 600, "why", 5, ("line",), ("10.0.0.1",), automatic=True)
    kept = here.ban(ban)
    assert kept is not None
    found = wait_until(lambda: there.get(ATTACKER), 5, "the ban did not arrive")
    assert found is not None
    assert (found.key, found.jail, found.reason, found.failures) == ("203.0.113.5", "login", "why", 5)
    assert (found.evidence, found.via, found.automatic, found.version) == (("line",), ("10.0.0.1",), True, kept.version)
    assert found.end == pytest.approx(ban.end, abs=0.1)
    assert there.unban(NETWORK) is not None
    wait_until(lambda: here.get(ATTACKER) is None, 5, "the lift did not arrive")


def test_new_replica_reads_everything(server: RedisServer, replicas: tuple[RedisBanSet, RedisBanSet]) -> None:
    """A replica that starts later has all bans, networks, IPv6 and permanent ones included, and no lifted one."""
    here, _ = replicas
    names = ["203.0.113.5", "2001:db8::/64", "198.51.0.0/16", "192.0.2.77"]
    for name in names:
        here.ban(Ban.of(name, bantime=-1))
    here.unban(parse_network("192.0.2.77"))
    late = RedisBanSet(server.uri)
    try:
        wait_until(lambda: {ban.key for ban in late.snapshot().bans} == set(names[:3]), 5, "not in step")
        assert all(ban.end is None for ban in late.snapshot().bans)
    finally:
        late.close()


def test_lift_wins_over_what_was_decided_before_it(server: RedisServer) -> None:
    """A host that was cut off while another lifted a ban tells it again when it returns; it stays lifted everywhere."""
    here, there = RedisBanSet(server.uri), RedisBanSet(server.uri)
    try:
        kept = here.ban(Ban.of("203.0.113.5", bantime="1h"))
        assert kept is not None
        wait_until(lambda: there.get(ATTACKER), 5, "the ban did not arrive")
        here.close()
        assert there.unban(NETWORK) is not None
        wait_until(lambda: bans_kept(server.uri) == [], 5, "not lifted in Redis")
        restarted = RedisBanSet(server.uri)
        restarted.restore([kept])
        try:
            wait_until(lambda: restarted.get(ATTACKER) is None, 5, "the lift did not come with the connection")
            assert there.get(ATTACKER) is None
        finally:
            restarted.close()
    finally:
        here.close()
        there.close()


def test_lift_that_redis_never_heard_outlives_a_restart(server: RedisServer) -> None:
    """A daemon that lifted while Redis was away, and was restarted, tells the lift when it has Redis again."""
    there = RedisBanSet(server.uri)
    restarted = RedisBanSet(server.uri)
    try:
        kept = there.ban(Ban.of("203.0.113.5", bantime="1h"))
        assert kept is not None
        wait_until(lambda: bans_kept(server.uri) == ["203.0.113.5"], 5, "not told")
        restarted.restore_lifts([Fact.lifting(kept, kept.version + 1, "web-7")])
        restarted.restore([kept])
        assert restarted.get(ATTACKER) is None
        wait_until(lambda: bans_kept(server.uri) == [], 10, "the lift was not told")
        wait_until(lambda: there.get(ATTACKER) is None, 5, "the lift did not arrive")
        assert restarted.get(ATTACKER) is None
        assert [lift.host for lift in there.lifted()] == ["web-7"]
    finally:
        restarted.close()
        there.close()


def test_lost_data_is_told_again(server: RedisServer, replicas: tuple[RedisBanSet, RedisBanSet]) -> None:
    """After FLUSHALL, and after a restart without persistence, bans are back in Redis and in every replica."""
    here, there = replicas
    kept = here.ban(Ban.of("203.0.113.5", bantime="1h"))
    there.ban(Ban.of("198.51.100.7", bantime="1h"))
    wait_until(lambda: len(here.snapshot().bans) == len(there.snapshot().bans) == 2, 5, "not in step")
    for fate in ("flushed", "restarted"):
        if fate == "flushed":
            server.command("FLUSHALL")
        else:
            server.kill()
            server.start()
        wait_until(lambda: len(bans_kept(server.uri)) == 2, 10, "not told again")
        wait_until(lambda: len(here.snapshot().bans) == len(there.snapshot().bans) == 2, 10, "not in step")
    again = there.get(ATTACKER)
    assert kept is not None and again is not None
    assert again.version == kept.version


def test_strangers_records_do_no_harm(server: RedisServer, replicas: tuple[RedisBanSet, RedisBanSet]) -> None:
    """Records that are no facts are skipped, whatever wrote them, and the replicas go on."""
    here, there = replicas
    for record in ("", "1", "1 2 3", "x y z {}", '1 9999999999999 0 {"jail":"a b","start":0}', "1 0 0 []", "\xff"):
        server.command("HSET", "appguard:b:{main}:facts", "203.0.113.9", record)
        server.command("XADD", "appguard:b:{main}:changes", "*", "network", "203.0.113.9", "fact", record)
        assert parse_record(b"203.0.113.9", record.encode("latin-1"), 0.0) is None
    server.command("XADD", "appguard:b:{main}:changes", "*", "something", "else")
    here.ban(Ban.of("203.0.113.5", bantime="1h"))
    wait_until(lambda: there.get(ATTACKER), 5, "the ban did not arrive")
    assert [ban.key for ban in there.snapshot().bans] == ["203.0.113.5"]


def test_a_hash_is_read_whole_and_no_answer_is_left_behind(server: RedisServer) -> None:
    """All fields come, the server being asked for more ahead; who stops half way finds the next answer his own."""
    with closing(connect_to(parse_redis_uri(server.uri), 2.0, FACTS)) as client:
        for number in range(3_000):
            client.execute_command("HSET", FACTS, number, number)
        found = [each for page in scan_ahead(client, FACTS, 100) for each in page]
        assert {int(field) for field in found[::2]} == set(range(3_000))
        assert found[::2] == found[1::2]
        next(scan_ahead(client, FACTS, 100))
        assert client.execute_command("HLEN", FACTS) == 3_000


def test_limit_is_exact_over_processes(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stores of one app share a limit; another app and another client have their own; threads and loop agree."""
    monkeypatch.setattr("appguard.stores.redis_counters.BUDGET", 5.0)  # as long as a busy machine needs
    with (
        RedisStore(server.uri, "shop", directory=tmp_path) as one,
        RedisStore(server.uri, "shop", directory=tmp_path) as two,
    ):
        admitted = [store.check(hit()).refused is None for store in (one, two, one, two, one, two)]
        assert admitted == [True] * 5 + [False]
        assert ask_on_a_loop(two).wait == pytest.approx(60, abs=1)
        assert one.check(hit("198.51.100.7")).refused is None
        with RedisStore(server.uri, "blog", directory=tmp_path) as blog:
            assert blog.check(hit()).refused is None
        one.reset("203.0.113.5")
        assert two.check(hit()).refused is None


def test_limits_are_all_or_nothing(server: RedisServer, tmp_path: Path) -> None:
    """A request refused by one limit is not counted under the other."""
    narrow, wide = Limit("1/minute", name="narrow"), Limit("3/minute", name="wide")
    both = hit(limit=narrow) + hit(limit=wide)
    with RedisStore(server.uri, directory=tmp_path) as store:
        assert [store.check(both).refused is None for _ in range(4)] == [True, False, False, False]
        assert [store.check(hit(limit=wide)).refused is None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("fate", ["refused", "hung"])
def test_no_request_waits_for_a_dead_redis(server: RedisServer, tmp_path: Path, fate: str) -> None:
    """With Redis refusing or hung limits go on in the process, few calls wait, and its return is noticed."""
    with RedisStore(server.uri, directory=tmp_path) as store:
        assert store.wait_synced(5)
        store.ban(Ban.of("203.0.113.5", bantime="1h"))
        assert store.check(hit("192.0.2.1")).refused is None
        server.freeze() if fate == "hung" else server.kill()
        slow = 0
        for _ in range(200):
            before = time.monotonic()
            store.check(hit())
            ask_on_a_loop(store, "198.51.100.7")
            slow += time.monotonic() - before > 0.05
        assert slow <= 6
        assert store.check(hit()).refused is not None
        assert store.get(ATTACKER) is not None
        server.thaw() if fate == "hung" else server.start()

        def is_counted() -> bool:
            store.check(hit("192.0.2.99"))
            return server.command("EXISTS", "appguard:l:app:{192.0.2.99}:5/minute") == b":1\r\n"

        wait_until(is_counted, 5, "the recovery was not noticed")


@pytest.mark.parametrize(("choice", "is_refused"), [("open", False), ("closed", True)])
def test_choice_for_a_dead_redis(tmp_path: Path, choice: str, is_refused: bool) -> None:
    """`on_store_error` admits or refuses without a Redis."""
    with RedisStore("redis://127.0.0.1:1/0", on_store_error=choice, directory=tmp_path) as store:
        assert [store.check(hit()).refused is not None for _ in range(7)] == [is_refused] * 7


def test_ended_bans_are_forgotten(server: RedisServer, tmp_path: Path) -> None:
    """A daemon lets Redis forget a ban that has ended; an app forgets it in its replica."""
    ended: list[Ban] = []

    class Noting(RedisStore):
        def expire(self) -> list[Ban]:
            ended.extend(found := super().expire())
            return found

    daemon = RedisBanSet(server.uri)
    with Noting(server.uri, directory=tmp_path) as app:
        try:
            daemon.ban(Ban.of("203.0.113.5", bantime="2s"))
            daemon.ban(Ban.of("198.51.100.7", bantime="1h"))
            wait_until(lambda: len(app.snapshot().bans) == 2, 5, "the bans did not arrive")
            wait_until(lambda: bans_kept(server.uri) == ["198.51.100.7"], 10, "not swept")
            wait_until(lambda: [ban.key for ban in ended] == ["203.0.113.5"], 10, "the app still holds it")
            assert [ban.key for ban in app.snapshot().bans] == ["198.51.100.7"]
        finally:
            daemon.close()
