"""Two hosts in namespaces of their own and one Redis between them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet_hosts import Host, two_hosts
from tests.lab import wait_until
from tests.redis_server import RedisServer, redis_server

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
