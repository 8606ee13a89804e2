"""The clock of a daemon's host is set hours ahead, and is right again later: no ban is lost, wherever bans are kept."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.fleet_hosts import published
from tests.lab import Process, wait_until
from tests.netns import has_table, run
from tests.redis_server import RedisServer, redis_server
from tests.replicas import AGREE_WITHIN, bans_kept

pytestmark = pytest.mark.lab

JAIL = {"maxretry": 1, "bantime": "1h"}
BANNED = {f"203.0.113.{number}" for number in range(1, 6)}
LIFTED, MEANWHILE = "203.0.113.9", "203.0.113.10"
AHEAD = 7200.0


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give the directories of a daemon whose clock can be set, and take its table away afterwards."""
    yield Place(open_tmp_path, skew=0.0)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def divergences(place: Place, server: RedisServer | None, expected: set[str]) -> dict[str, set[str]]:
    """Give the networks about which a place that keeps bans is wrong."""
    copies = {"kernel": set(in_kernel()), "apps": published(place), "daemon": set(place.banned())}
    if server is not None:
        copies["Redis"] = set(bans_kept(server.uri))
    return {where: kept ^ expected for where, kept in copies.items() if kept != expected}


def agree(place: Place, server: RedisServer | None, expected: set[str], daemon: Process) -> None:
    """Wait until every place that keeps bans has the expected ones, and print the number of divergences."""
    wait_until(
        lambda: not divergences(place, server, expected),
        AGREE_WITHIN,
        lambda: f"{divergences(place, server, expected)}\n{daemon.output()}",
    )
    print(f"divergences {len(divergences(place, server, expected))}, {len(expected)} bans")


@pytest.mark.parametrize("is_restarted", [False, True], ids=["runs on", "restarted meanwhile"])
@pytest.mark.parametrize("has_redis", [False, True], ids=["local", "Redis away"])
def test_bans_are_in_force_again_when_the_clock_is_right(
    place: Place, tmp_path: Path, has_redis: bool, is_restarted: bool
) -> None:
    """Bans that ended by a clock two hours ahead are back in kernel, apps, daemon and a Redis that lost all it had."""
    with ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path)) if has_redis else None
        meanwhile = set[str]() if server is not None else {MEANWHILE}
        place.configure(web_jail(place, JAIL), f'store = "{server.uri}"' if server else "")
        daemon = stack.enter_context(running_daemon(place))
        for address in (*BANNED, LIFTED):
            place.append(address)
        wait_until(lambda: len(in_kernel()) == 6, 5, daemon.output)
        assert place.run("unban", LIFTED).returncode == 0
        agree(place, server, BANNED, daemon)
        if server is not None:
            server.kill()
        place.set_clock(AHEAD)
        agree(place, None, set(), daemon)
        for address in meanwhile:
            place.append(address)
        agree(place, None, meanwhile, daemon)
        if is_restarted:
            daemon.stop()
            daemon = stack.enter_context(running_daemon(place))
            agree(place, None, meanwhile, daemon)
        place.set_clock(0.0)
        if server is not None:
            server.start()
        agree(place, server, BANNED | meanwhile, daemon)
        wait_until(lambda: all(3400 < left <= 3600 for left in in_kernel().values()), AGREE_WITHIN, daemon.output)
