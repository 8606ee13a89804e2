"""Everything that can happen to Redis while hosts ban and lift: after it, all agree, and nothing is lost or comes back.

Each test runs replicas as the daemons run them, breaks Redis for real while they decide, and waits until all of them
and Redis agree; the number of divergences is printed.
"""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appguard.address import parse_address, parse_network
from appguard.ban import Ban
from appguard.stores.redis_bans import RedisBanSet
from tests.lab import wait_until
from tests.redis_groups import cluster, sentinel_group
from tests.redis_server import RedisServer, redis_server
from tests.replicas import CHANGES, FACTS, Fleet, bans_kept, facts_kept, fleet, versions
from tests.slow_relay import slow_relay
from tests.threads import no_more_threads

LIFTED, KEPT = "203.0.113.1", "203.0.113.2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server without persistence."""
    with redis_server(tmp_path) as running:
        yield running


def some_history(hosts: Fleet) -> None:
    """Ban two addresses on the first host, and lift one on the second."""
    hosts.ban(0, LIFTED)
    hosts.ban(0, KEPT)
    wait_until(lambda: hosts.is_banned(1, LIFTED), 5, "the ban did not arrive")
    hosts.lift(1, LIFTED)
    hosts.agree([KEPT])


@contextmanager
def deciding(hosts: Fleet) -> Generator[list[str]]:
    """Let all hosts ban, and lift every third ban on another host, for the length of the block; give what stays."""
    stays: list[str] = []
    is_over = threading.Event()

    def decide() -> None:
        number = 0
        while not is_over.wait(0.005):
            address = f"198.18.{number // 250}.{number % 250 + 1}"
            hosts.ban(number % len(hosts.hosts), address)
            if number % 3:
                stays.append(address)
            else:
                hosts.lift(number % len(hosts.hosts), address)
            number += 1

    thread = threading.Thread(target=decide)
    thread.start()
    try:
        wait_until(lambda: len(stays) > 20, 10, "nothing was decided")
        yield stays
        count = len(stays)
        wait_until(lambda: len(stays) > count + 20, 10, "nothing more was decided")
    finally:
        is_over.set()
        thread.join()


def test_killed_and_restarted_without_its_data(server: RedisServer) -> None:
    """Redis dies while hosts decide and comes back empty: every ban and every lift is told again."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            server.kill()
            time.sleep(1)  # a while without Redis, in which hosts decide
            server.start()
        hosts.agree([KEPT, *stays])


def test_killed_and_restarted_with_old_data(tmp_path: Path) -> None:
    """Redis comes back with data from before the last bans and lifts: what it lost is told again."""
    options = ("--save", "3600 1000000", "--dbfilename", "old.rdb")
    with redis_server(tmp_path, *options) as server, fleet(server.uri) as hosts:
        hosts.ban(0, LIFTED)
        hosts.ban(0, KEPT)
        hosts.agree([LIFTED, KEPT])
        assert server.command("SAVE") == b"+OK\r\n"
        hosts.lift(1, LIFTED)
        with deciding(hosts) as stays:
            wait_until(lambda: LIFTED not in bans_kept(server.uri), 5, "the lift was not told")
            server.kill()
            server.start()
        hosts.agree([KEPT, *stays])


def test_restarted_with_all_its_data(tmp_path: Path) -> None:
    """Redis with an append-only file dies and comes back: nobody has to read everything anew, and all agree."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path, *options) as server, fleet(server.uri) as hosts:
        some_history(hosts)
        server.kill()
        hosts.ban(2, "192.0.2.9")
        server.start()
        hosts.agree([KEPT, "192.0.2.9"])


def test_connections_are_cut_while_writing(server: RedisServer) -> None:
    """CLIENT KILL again and again while hosts decide loses nothing and repeats nothing."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            for _ in range(10):
                server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                time.sleep(0.1)
        hosts.agree([KEPT, *stays])


def test_flushed_with_one_host_alone(server: RedisServer) -> None:
    """A host tells again what it has decided, with nobody else to do it, and with the versions it had."""
    with fleet(server.uri, (0.0,)) as hosts:
        hosts.ban(0, LIFTED)
        hosts.ban(0, KEPT)
        hosts.lift(0, LIFTED)
        hosts.agree([KEPT])
        before = versions(hosts.hosts[0].facts())
        server.command("FLUSHALL")
        hosts.agree([KEPT])
        assert versions(list((facts_kept(server.uri) or {}).values())) == before


def test_what_is_restored_after_redis_was_read_is_told(server: RedisServer) -> None:
    """Bans that only a daemon's state has kept reach the fleet, also those that were back when Redis had been read."""
    now = time.time()
    with fleet(server.uri, (0.0, 0.0)) as hosts:
        hosts.hosts[0].begin_restore()
        hosts.hosts[0].restore([Ban(parse_network(KEPT), "old", now - 9, now + 3600, version=int(now * 1e6) - 9)])
        hosts.hosts[0].end_restore()
        hosts.agree([KEPT])


def test_flushed_while_writing(server: RedisServer) -> None:
    """FLUSHALL under a steady stream of decisions, where the stream goes on at once, is noticed and repaired."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            server.command("FLUSHALL")
        hosts.agree([KEPT, *stays])


@pytest.mark.parametrize("lost", [FACTS, CHANGES])
def test_half_of_the_ban_set_is_lost(server: RedisServer, lost: str) -> None:
    """Facts or changes vanish alone, as an eviction makes them: both are whole again, for new replicas too."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        server.command("DEL", lost)
        hosts.ban(1, "192.0.2.9")
        hosts.agree([KEPT, "192.0.2.9"])
        with fleet(server.uri, (0.0,)) as late:
            late.agree([KEPT, "192.0.2.9"])


def test_facts_are_lost_again_before_anybody_looked(server: RedisServer) -> None:
    """What was read as lost, is told again and then lost anew within the second until the next look, is told again."""
    with fleet(server.uri) as hosts:  # which have read that there are none
        hosts.ban(0, KEPT)
        wait_until(lambda: hosts.is_banned(1, KEPT) and hosts.is_banned(2, KEPT), 5, "the ban did not arrive")
        server.command("DEL", FACTS)
        hosts.agree([KEPT])


def test_lift_stays_when_its_maker_is_gone(server: RedisServer) -> None:
    """The host that lifted ends, Redis loses everything, the host that had banned tells it again: it stays lifted."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        hosts.hosts[1].close()
        server.command("FLUSHALL")
        wait_until(lambda: bans_kept(server.uri) == [KEPT], 5, "not told again")
        with fleet(server.uri, (0.0,)) as late:
            wait_until(lambda: late.bans(0) == [KEPT], 5, "not read")
        hosts.hosts[1].start()
        hosts.agree([KEPT])


def test_full(tmp_path: Path) -> None:
    """A full Redis refuses writes; hosts go on and say so, and tell all when it has room again."""
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server, fleet(server.uri) as hosts:
        some_history(hosts)
        server.command("CONFIG", "SET", "maxmemory", "1mb")  # less than it holds
        with deciding(hosts) as stays:
            wait_until(lambda: all("maxmemory" in host.complaint for host in hosts.hosts), 5, "not full")
        assert bans_kept(server.uri) == [KEPT]
        server.command("CONFIG", "SET", "maxmemory", "200mb")
        hosts.agree([KEPT, *stays])
        wait_until(lambda: not any(host.complaint for host in hosts.hosts), 5, "they still complain")


def test_full_and_evicting(tmp_path: Path) -> None:
    """A full Redis throws the ban set away, again and again: when it has room again all are back."""
    options = ("--maxmemory", "8mb", "--maxmemory-policy", "allkeys-random")
    with redis_server(tmp_path, *options) as server, fleet(server.uri) as hosts:
        some_history(hosts)

        def is_lost() -> bool:
            server.command("SET", f"other:{time.monotonic()}", "x" * 300_000)
            return server.command("EXISTS", FACTS) == b":0\r\n"

        with deciding(hosts) as stays:
            for _ in range(3):
                wait_until(is_lost, 5, "never thrown away")
        server.command("CONFIG", "SET", "maxmemory", "200mb")
        hosts.agree([KEPT, *stays])


def test_hung(server: RedisServer) -> None:
    """Redis accepts and does not answer for a while: what is decided meanwhile is told when it does."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            server.freeze()
            time.sleep(3.5)  # longer than an answer may take
            server.thaw()
        hosts.agree([KEPT, *stays])


def test_slow(server: RedisServer) -> None:
    """Redis takes 200 ms for every answer while hosts decide and lift: nobody complains, and soon all agree."""
    with slow_relay(server.port) as relay, fleet(f"redis://127.0.0.1:{relay.port}/0") as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            time.sleep(2)  # while hosts decide
        hosts.agree([KEPT, *stays])
        assert not any(host.complaint for host in hosts.hosts)


def test_slow_and_losing_everything(server: RedisServer) -> None:
    """A Redis that is slow loses its data and is fast again: what was decided meanwhile is told, nothing is lost."""
    with slow_relay(server.port) as relay, fleet(f"redis://127.0.0.1:{relay.port}/0") as hosts:
        some_history(hosts)
        with deciding(hosts) as stays:
            server.command("FLUSHALL")
            time.sleep(1)  # while hosts decide
            relay.delay = 0.0
        hosts.agree([KEPT, *stays])


def test_clocks_five_minutes_apart(server: RedisServer) -> None:
    """Hosts whose clocks differ by ten minutes agree on what is banned and until when; a lift beats an earlier ban."""
    with fleet(server.uri, (300.0, -300.0, 0.0)) as hosts:
        some_history(hosts)
        for host, address in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.3")):
            hosts.ban(host, address, "2m")
        hosts.agree([KEPT, "192.0.2.1", "192.0.2.2", "192.0.2.3"])
        for host, address in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.3")):
            assert hosts.ends(address) == pytest.approx([time.time() + 120] * 3, abs=8)
            hosts.lift((host + 1) % 3, address)
        hosts.agree([KEPT])
        server.command("FLUSHALL")
        hosts.agree([KEPT])


def test_clock_is_set_while_running(server: RedisServer) -> None:
    """A host's clock is set by five minutes: its bans end when the others' do, and what follows it reads anew."""
    with fleet(server.uri, (0.0, 0.0)) as hosts:

        def differ() -> float:
            here, there = hosts.ends(KEPT)
            return abs(here - there)

        hosts.ban(0, KEPT)
        hosts.agree([KEPT])
        cursor = hosts.hosts[0].snapshot().cursor
        for skew in (300.0, 0.0):
            hosts.skews[0] = skew
            assert differ() == pytest.approx(300, abs=1)
            wait_until(lambda: differ() < 1, 5, "the end was not moved")
            assert hosts.hosts[0].follow(cursor) is None
        hosts.agree([KEPT])


def test_what_ended_by_a_wrong_clock_comes_back(server: RedisServer) -> None:
    """A host whose clock was set far ahead, and that has dropped what ended by it, takes it from Redis again."""
    with fleet(server.uri, (0.0,)) as earlier:
        earlier.ban(0, KEPT)
        wait_until(lambda: bans_kept(server.uri) == [KEPT], 5, "the ban was not told")
    with fleet(server.uri, (0.0, 0.0)) as hosts:
        hosts.agree([KEPT])
        hosts.skews[0] += 7200
        assert [ban.key for ban in hosts.hosts[0].expire()] == [KEPT]
        hosts.agree([KEPT])


def test_automatic_bans_of_two_hosts_agree(server: RedisServer) -> None:
    """Two jails ban one address in the same moment for different times: both keep the longer, whoever was first."""
    with fleet(server.uri, (0.0, 0.0)) as hosts:
        for number in range(20):
            address = f"198.18.0.{number + 1}"
            for host in hosts.hosts if number % 2 else reversed(hosts.hosts):
                bantime = 3600 if host is hosts.hosts[0] else 600
                ban = Ban.of(address, jail="login", bantime=bantime, start=time.time())
                host.ban(Ban(ban.network, ban.jail, ban.start, ban.end, automatic=True))
        hosts.agree()
        for number in range(20):
            assert hosts.ends(f"198.18.0.{number + 1}") == pytest.approx([time.time() + 3600] * 2, abs=10)


def test_sentinel_fails_over_with_acknowledged_writes_lost(tmp_path: Path) -> None:
    """The master dies with bans and lifts that its replica never got: all are told to the new one."""
    with sentinel_group(tmp_path) as group, fleet(group.uri) as hosts:
        some_history(hosts)
        group.wait_until_copied()
        group.part()
        hosts.ban(0, "192.0.2.1")
        hosts.lift(1, KEPT)
        hosts.agree(["192.0.2.1"])  # all of them have seen it acknowledged
        with deciding(hosts) as stays:
            group.fail_over()
        hosts.agree(["192.0.2.1", *stays])


def test_cluster_shard_fails_over_with_acknowledged_writes_lost(tmp_path: Path) -> None:
    """The shard that holds the ban set loses its master and some acknowledged writes: all are told again."""
    with cluster(tmp_path) as shards, fleet(shards.uri) as hosts:
        some_history(hosts)
        shard = shards.shard_of(FACTS)
        shard.wait_until_copied()
        shard.part()
        hosts.ban(0, "192.0.2.1")
        hosts.lift(1, KEPT)
        hosts.agree(["192.0.2.1"])
        with deciding(hosts) as stays:
            shard.fail_over()
        hosts.agree(["192.0.2.1", *stays])


def test_strangers_fact_does_not_stop_the_others(server: RedisServer) -> None:
    """A record that is no fact, where a ban is to be kept, is replaced; an absurd version does not win for ever."""
    with fleet(server.uri) as hosts:
        server.command("HSET", FACTS, KEPT, "nonsense")
        server.command("HSET", FACTS, LIFTED, '99999999999999999 0 0 {"jail":"x","start":1}')
        hosts.ban(0, KEPT)
        hosts.ban(1, LIFTED)
        hosts.agree([KEPT, LIFTED])


def test_host_without_a_thread_to_spare_follows_later(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system refuses another thread, as under attack, no look-up fails, and a later one starts to follow."""
    with closing(RedisBanSet(server.uri)) as first, closing(RedisBanSet(server.uri)) as other:
        first.ban(Ban(parse_network(KEPT), "test", 0.0, None))
        assert first.wait_synced(5)
        address = parse_address(KEPT)
        with no_more_threads():
            assert other.get(address) is None
            assert other.get(address) is None
        assert "can't start new thread" in other.complaint
        assert len(caplog.messages) == 1
        wait_until(lambda: other.get(address), 5, "it does not follow")
        assert other.complaint == ""


def test_no_connection_is_left(server: RedisServer) -> None:
    """Closed replicas leave no connection behind."""
    with fleet(server.uri) as hosts:
        some_history(hosts)
    wait_until(lambda: server.command("CLIENT", "LIST").count(b"cmd=") == 1, 5, "connections are left")
