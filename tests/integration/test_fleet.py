"""Two hosts in namespaces of their own and one Redis between them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet_hosts import Host, two_hosts
from tests.lab import wait_until
from tests.netns import run
from tests.redis_server import RedisServer, redis_server
from tests.replicas import bans_kept

pytestmark = pytest.mark.lab


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


def test_lift_survives_a_partition(fleet: tuple[Host, Host]) -> None:
    """What beta lifts while alpha is cut off from Redis stays lifted when alpha returns; alpha's new bans arrive."""
    alpha, beta = fleet
    alpha.place.append("203.0.113.5", 3)
    wait_until(lambda: beta.drops("203.0.113.5"), 5, beta.daemon.output)
    run("ip", "link", "set", "alpha", "down")
    assert beta.place.run("unban", "203.0.113.5").returncode == 0
    alpha.place.append("198.51.100.7", 3)
    wait_until(lambda: alpha.drops("198.51.100.7"), 5, alpha.daemon.output)
    assert alpha.drops("203.0.113.5")
    assert not beta.drops("198.51.100.7")
    run("ip", "link", "set", "alpha", "up")
    wait_until(lambda: not alpha.drops("203.0.113.5"), 20, alpha.daemon.output)
    wait_until(lambda: beta.drops("198.51.100.7"), 20, beta.daemon.output)
    assert not beta.drops("203.0.113.5")
    assert alpha.place.banned() == beta.place.banned() == ["198.51.100.7"]


def test_kernels_agree_after_redis_lost_everything(fleet: tuple[Host, Host], server: RedisServer) -> None:
    """FLUSHALL, and a lift while Redis is away: both kernels and a new reader of Redis agree, nothing comes back."""
    alpha, beta = fleet
    for address in ("203.0.113.5", "198.51.100.7"):
        alpha.place.append(address, 3)
        wait_until(lambda: beta.drops(address), 5, beta.daemon.output)  # noqa: B023  # asked before the next
    server.kill()
    assert beta.place.run("unban", "203.0.113.5").returncode == 0
    server.start()
    wait_until(lambda: not alpha.drops("203.0.113.5"), 5, alpha.daemon.output)
    server.command("FLUSHALL")
    wait_until(lambda: bans_kept(server.uri.replace("0.0.0.0", "127.0.0.1")) == ["198.51.100.7"], 5, "not told again")
    for host in fleet:
        assert host.place.banned() == ["198.51.100.7"]
        assert host.drops("198.51.100.7")
        assert not host.drops("203.0.113.5")
