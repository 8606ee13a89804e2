"""What hosts tell each other through a real Redis: whom each protects, and the safelist, through what Redis loses."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.protection import write_protection
from appguard.safelisted import ENDED_MOST, REMEMBERED, Safelisted
from appguard.stores.fleet_roster import LEASE
from tests.daemon import Place, running_daemon
from tests.fleet_sharing import SharingHost, protected, sharing
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server
from tests.threads import no_more_threads

OWN = parse_network("192.0.2.1")
HOSTS, SAFELIST = "appguard:d:{main}:hosts", "appguard:d:{main}:safelist"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server."""
    with redis_server(tmp_path) as running:
        yield running


def test_hosts_learn_of_each_other(server: RedisServer) -> None:
    """Each learns what the other protects, until a day from now by its own clock, and what is new of it."""
    with sharing(server.uri, skew=300.0) as (alpha, beta):
        wait_until(lambda: protected(alpha) == ["192.0.2.4/32"], 10, "alpha has not learnt")
        wait_until(lambda: protected(beta) == ["192.0.2.5/32"], 10, "beta has not learnt")
        assert beta.others["alpha"].until == pytest.approx(time.time() + 300 + LEASE, abs=20)
        beta.protect("192.0.2.9")
        wait_until(lambda: protected(alpha) == ["192.0.2.9/32"], 10, "no news")


def test_a_host_without_a_thread_to_spare_shares_later(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system refuses another thread that is said once, and a later start begins to share."""
    with sharing(server.uri) as (alpha, _):
        late = SharingHost(server.uri, "late")
        late.protect("192.0.2.99")
        with no_more_threads():
            late.roster.start()
            late.roster.start()
        assert late.roster.complaint == "can't start new thread"
        assert sum("can't start new thread" in record.getMessage() for record in caplog.records) == 1
        late.roster.start()
        wait_until(lambda: "192.0.2.99/32" in protected(alpha), 10, "alpha has not learnt")
        late.roster.close()


def test_a_clone_of_a_host_takes_an_identity_of_its_own(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Two daemons with one identity: one of them takes another, says so once, and both are protected."""
    with sharing(server.uri) as (alpha, beta):
        wait_until(lambda: beta.others.get("alpha"), 10, "not told")
        clone = SharingHost(server.uri, "clone", own_id="alpha")
        clone.protect("192.0.2.77")
        clone.roster.start()
        wait_until(lambda: protected(beta) == ["192.0.2.5/32", "192.0.2.77/32"], 20, "not both are protected")
        wait_until(lambda: len(alpha.ids) + len(clone.ids) == 3, 10, "no identity of its own")
        assert sum("identity" in record.getMessage() for record in caplog.records) == 1
        assert server.command("HLEN", HOSTS) == b":4\r\n"  # three hosts and the version
        clone.roster.close()


def test_a_restarted_daemon_keeps_its_identity(server: RedisServer) -> None:
    """What a daemon told before its restart, or what a server that took over has of that, makes no new identity."""
    with sharing(server.uri) as (alpha, beta):
        wait_until(lambda: beta.others.get("alpha"), 10, "not told")
        before = server.command("HGET", HOSTS, "alpha").split(b"\r\n")[1].decode()
        alpha.roster.close()
        again = SharingHost(server.uri, "alpha")
        again.protect("192.0.2.78")
        again.roster.start()
        wait_until(lambda: protected(beta) == ["192.0.2.78/32"], 10, "not told after a restart")
        server.command("HSET", HOSTS, "alpha", before)
        server.command("HSET", HOSTS, "version", "0-0")
        wait_until(lambda: b"192.0.2.78" in server.command("HGET", HOSTS, "alpha"), 10, "not told again")
        assert again.ids == ["alpha"]
        again.roster.close()


def test_the_safelist_is_one(server: RedisServer) -> None:
    """An entry made on one host is there on the other, ends at the same moment, and goes when either removes it."""
    with sharing(server.uri, skew=300.0) as (alpha, beta):
        alpha.let_off("203.0.113.5", 1)
        wait_until(lambda: "203.0.113.5" in beta.entries, 10, "not told")
        until = beta.entries["203.0.113.5"].until
        assert until is not None
        assert until == pytest.approx(time.time() + 300 + 60, abs=20)
        beta.let_off("203.0.113.5", 2, is_removed=True)
        alpha.let_off("203.0.113.5", 1)
        wait_until(lambda: alpha.entries["203.0.113.5"].is_removed, 10, "not removed")


def test_what_has_ended_is_not_brought_back_by_who_was_away(server: RedisServer) -> None:
    """A host comes back with an entry for ever that was given an end meanwhile; one that was renewed stays renewed."""
    with sharing(server.uri) as (alpha, beta):
        alpha.let_off("203.0.113.5", 2, seconds=-5)
        alpha.let_off("203.0.113.6", 3, seconds=60)
        wait_until(lambda: len(beta.entries) == 2, 10, "not told")
        away = SharingHost(server.uri, "away")
        away.roster.put(Safelisted(parse_network(f"203.0.113.{number}"), None, "ours", "away", 1) for number in (5, 6))
        away.roster.put((Safelisted(parse_network("203.0.113.7"), None, "ours", "away", 1),))
        away.roster.start()
        for host in (alpha, beta, away):
            wait_until(lambda: len(host.entries) == 3, 10, "not learnt")  # noqa: B023  # asked before the next
            found = {key: (entry.version, entry.in_force(time.time())) for key, entry in host.entries.items()}
            assert found == {"203.0.113.5": (2, False), "203.0.113.6": (3, True), "203.0.113.7": (1, True)}
        away.roster.close()


def test_redis_remembers_the_newest_ends_only(server: RedisServer) -> None:
    """What ended is kept until there is too much of it; the oldest goes, what is in force stays."""
    now = int(time.time() * 1000)
    for number in range(0, ENDED_MOST + 5, 1_001):
        fields: list[str] = []
        for each in range(number, min(number + 1_001, ENDED_MOST + 5)):
            fields += [f"198.51.{each // 250}.{each % 250}", f'{each + 1} {now - 1} [1,"","",{each + 1},false]']
        server.command("HSET", SAFELIST, *fields)
    server.command("HSET", SAFELIST, "192.0.2.7", '1 0 [null,"","",1,false]')
    with sharing(server.uri):
        wait_until(lambda: server.command("HLEN", SAFELIST) == f":{ENDED_MOST + 1}\r\n".encode(), 10, "not swept")
        assert server.command("HEXISTS", SAFELIST, "198.51.0.4") == b":0\r\n"
        assert server.command("HEXISTS", SAFELIST, "198.51.0.5") == b":1\r\n"
        assert server.command("HEXISTS", SAFELIST, "192.0.2.7") == b":1\r\n"


def test_ends_move_with_the_clock(server: RedisServer) -> None:
    """A host's clock is set a week ahead: protections and safelist end when they would have, not at once."""
    with sharing(server.uri) as (alpha, beta):
        alpha.let_off("203.0.113.5", 1)
        wait_until(lambda: "203.0.113.5" in beta.entries and "alpha" in beta.others, 10, "not told")
        beta.skew = 7 * 86_400.0
        wait_until(lambda: beta.others["alpha"].until > beta.now(), 10, "alpha is not protected any more")
        assert beta.others["alpha"].until == pytest.approx(beta.now() + LEASE, abs=20)
        assert beta.entries["203.0.113.5"].until == pytest.approx(beta.now() + 60, abs=20)


def test_what_a_failover_loses_is_missed(server: RedisServer) -> None:
    """A server that took over has forgotten an entry and was told another: no host takes that for what it knows."""
    with sharing(server.uri) as (alpha, beta):
        wait_until(lambda: alpha.others and beta.others, 10, "have not learnt")
        version = server.command("HGET", HOSTS, "version").decode().split()[1]
        alpha.let_off("203.0.113.5", 1)
        wait_until(lambda: "203.0.113.5" in beta.entries, 10, "not told")
        alpha.roster.close()
        beta.roster.close()
        server.command("HDEL", SAFELIST, "203.0.113.5")
        server.command("HSET", HOSTS, "version", version)
        gamma = SharingHost(server.uri, "gamma")
        gamma.let_off("203.0.113.6", 1)
        gamma.roster.start()
        wait_until(lambda: "203.0.113.6" in gamma.entries, 10, "not told")
        gamma.roster.close()
        beta.roster.start()
        wait_until(lambda: "203.0.113.6" in beta.entries, 10, "beta takes it that it knows all")


def test_what_redis_loses_is_told_again(server: RedisServer) -> None:
    """FLUSHALL, and a restart without data: protections and safelist, removals too, are whole again."""
    with sharing(server.uri) as (alpha, beta):
        alpha.let_off("203.0.113.5", 1)
        beta.let_off("203.0.113.6", 1, is_removed=True)
        wait_until(lambda: len(alpha.entries) == len(beta.entries) == 2, 10, "not told")
        server.command("FLUSHALL")
        wait_until(lambda: server.command("HLEN", HOSTS) == b":3\r\n", 10, "hosts are not told again")
        wait_until(lambda: server.command("HLEN", SAFELIST) == b":2\r\n", 10, "the safelist is not told again")
        server.kill()
        wait_until(lambda: alpha.roster.complaint, 10, "no complaint")
        alpha.let_off("203.0.113.7", 1)
        server.start()
        wait_until(lambda: len(beta.entries) == 3, 10, "not told when it is back")
        wait_until(lambda: protected(beta) == ["192.0.2.5/32"], 10, "alpha is not protected any more")
        assert beta.entries["203.0.113.6"].is_removed


def test_a_host_that_is_gone_for_long_protects_no_more(server: RedisServer) -> None:
    """A record whose lease is over goes with the next word of anybody; what is nonsense goes too."""
    now = int(time.time() * 1000)
    server.command("HSET", HOSTS, "gone", f"{now - 1} {write_protection('gone', [(OWN, 'its own')])}")
    server.command("HSET", HOSTS, "there", f"{now + 60_000} {write_protection('there', [(OWN, 'its own')])}")
    server.command("HSET", HOSTS, "odd", "nonsense")
    server.command("HSET", SAFELIST, "192.0.2.7", f'1 {now - int(REMEMBERED * 1000) - 1} [1,"","",1,false]')
    with sharing(server.uri) as (alpha, _):
        wait_until(lambda: "there" in alpha.others, 10, "has not learnt")
        assert set(alpha.others) <= {"there", "beta"}
        assert server.command("HEXISTS", HOSTS, "gone") == b":0\r\n"
        assert server.command("HEXISTS", HOSTS, "odd") == b":0\r\n"
        assert server.command("HLEN", SAFELIST) == b":0\r\n"


@pytest.mark.lab
def test_status_says_why_nothing_is_shared(server: RedisServer, open_tmp_path: Path) -> None:
    """A key of somebody else's where hosts tell of themselves: status says what is wrong, until it is gone."""
    place = Place(open_tmp_path)
    place.configure("", f'store = "{server.uri}"\n[firewall]\nkind = "dry_run"')
    server.command("SET", HOSTS, "not ours")
    with running_daemon(place):
        said = f"{server.uri}, not sharing protections and safelist: "
        wait_until(lambda: "WRONGTYPE" in place.ask("status")["store"].partition(said)[2], 10, "not said")
        server.command("DEL", HOSTS)
        wait_until(lambda: place.ask("status")["store"] == server.uri, 10, "still said")
