"""Two hosts in namespaces of their own and one Redis between them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban
from appguard.state import State
from appguard.stores.local import PublishedBans
from appguard.stores.redis_bans import RedisBanSet
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.fleet_hosts import Host, two_hosts
from tests.lab import wait_until
from tests.netns import has_table, run
from tests.redis_server import RedisServer, redis_server
from tests.replicas import bans_kept

pytestmark = pytest.mark.lab

MANY = 3_000  # more than a replica makes at once


@pytest.fixture
def server(open_tmp_path: Path) -> Iterator[RedisServer]:
    """Give the Redis of the fleet."""
    with redis_server(open_tmp_path, address="0.0.0.0") as running:
        yield running


@pytest.fixture
def fleet(open_tmp_path: Path, server: RedisServer) -> Iterator[tuple[Host, Host]]:
    """Give two hosts whose daemons share a Redis on a third machine, the lab's own."""
    with two_hosts(open_tmp_path, server) as hosts:
        yield hosts


def test_failure_on_one_host_is_dropped_on_the_other(fleet: tuple[Host, Host]) -> None:
    """A prober seen by alpha is in beta's kernel, and a lift on beta lifts it on alpha; the times are printed."""
    alpha, beta = fleet
    began = time.monotonic()
    alpha.place.append("203.0.113.5", 3)
    wait_until(lambda: beta.drops("203.0.113.5"), 5, beta.daemon.output)
    banned = time.monotonic()
    assert alpha.drops("203.0.113.5")
    assert beta.place.run("unban", "203.0.113.5").returncode == 0
    lifting = time.monotonic()
    wait_until(lambda: not alpha.drops("203.0.113.5"), 5, alpha.daemon.output)
    lifted = time.monotonic()
    print(f"log line on alpha to kernel of beta {1000 * (banned - began):.0f} ms, ", end="")
    print(f"lift on beta to kernel of alpha {1000 * (lifted - lifting):.0f} ms")
    assert beta.place.banned() == []


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give the directories of root's daemon on the lab's own machine, and take its table away afterwards."""
    (open_tmp_path / "daemon").mkdir()
    yield Place(open_tmp_path / "daemon", None)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def test_host_that_joins_a_fleet_of_many_bans(place: Place, server: RedisServer) -> None:
    """It takes all bans over, a lift and a ban that come meanwhile count, and apps, state and Redis agree."""
    bans = RedisBanSet(server.uri)
    assert bans.wait_synced(10)
    for number in range(MANY):
        bans.ban(Ban.of(f"10.0.{number >> 8}.{number & 255}", bantime="1h"))
    wait_until(lambda: len(bans_kept(server.uri)) == MANY, 30, "Redis does not have all")
    place.configure(web_jail(place), f'store = "{server.uri}"')
    with running_daemon(place) as daemon:
        bans.unban(parse_network("10.0.0.1"))
        bans.ban(Ban.of("203.0.113.5", bantime="1h"))
        expected = {*(f"10.0.{number >> 8}.{number & 255}" for number in range(MANY)), "203.0.113.5"} - {"10.0.0.1"}
        app = PublishedBans(place.runtime)
        wait_until(lambda: {ban.key for ban in app.snapshot().bans} == expected, 30, daemon.output)
        wait_until(lambda: set(in_kernel()) == expected, 30, daemon.output)
        assert set(place.banned()) == expected
        app.close()
    bans.close()
    state = State(place.state)
    state.open()
    assert {ban.key for ban in state.bans()} == expected
    state.close()
