"""Whatever happens to Redis or the network: kernels, published bans, daemons and Redis agree within five seconds.

Two hosts in namespaces of their own ban and lift while it happens. Everything is compared with what they decided;
the number of divergences is printed.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest

from tests.control import ask
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.fleet_hosts import Host, published, two_hosts
from tests.lab import wait_until
from tests.netns import run
from tests.redis_groups import group_of
from tests.redis_server import RedisServer, redis_server
from tests.replicas import AGREE_WITHIN, FACTS, bans_kept
from tests.replicas import fleet as replicas
from tests.slow_relay import SlowRelay, slow_relay

pytestmark = pytest.mark.lab

JAIL = {"maxretry": 1, "bantime": "1h"}
LIFTED, KEPT, AWAY = "203.0.113.1", "203.0.113.2", "203.0.113.3"


def known(place: Place) -> set[str]:
    """Give what a daemon says that is banned."""
    status, answer = ask(place.control, "GET", "/v1/bans")
    assert status == 200, answer
    return {ban["network"] for ban in cast("list[dict[str, str]]", answer["bans"])}


class Fleet:
    """Two hosts, the Redis between them, and the bans that are to be in force."""

    def __init__(self, hosts: tuple[Host, Host], server: RedisServer, relay: SlowRelay) -> None:
        self.hosts = hosts
        self.server = server
        self.relay = relay
        self.banned: set[str] = set()

    def ban(self, host: int, *addresses: str) -> None:
        """Have attackers seen in the log of a host, and wait until it bans them."""
        for address in addresses:
            self.hosts[host].place.append(address)
        self.banned.update(addresses)
        wait_until(lambda: set(addresses) <= self.hosts[host].kernel().keys(), 5, self.hosts[host].daemon.output)

    def lift(self, host: int, address: str) -> None:
        """Lift a ban on a host."""
        status, answer = ask(self.hosts[host].place.control, "DELETE", f"/v1/bans/{address}")
        assert status == 200, answer
        self.banned.discard(address)

    def decide(self) -> None:
        """Have both hosts ban some, and the second lift what the first had banned."""
        self.ban(0, *(f"198.18.0.{number}" for number in range(1, 6)))
        self.lift(1, AWAY)
        self.ban(1, *(f"198.18.1.{number}" for number in range(1, 6)))

    def copies(self) -> dict[str, set[str]]:
        """Give what each place that keeps bans has."""
        found = {"Redis": set(bans_kept(f"redis://127.0.0.1:{self.server.port}/0"))}
        for host in self.hosts:
            name = host.machine.name
            found |= {f"kernel of {name}": set(host.kernel()), f"apps of {name}": published(host.place)}
            found[f"daemon of {name}"] = known(host.place)
        return found

    def divergences(self) -> dict[str, set[str]]:
        """Give the networks about which a place is wrong."""
        return {place: kept ^ self.banned for place, kept in self.copies().items() if kept != self.banned}

    def agree(self) -> None:
        """Wait until nothing diverges, and print it."""
        began = time.monotonic()
        wait_until(lambda: not self.divergences(), AGREE_WITHIN, lambda: f"divergences: {self.divergences()}")
        print(f"divergences {len(self.divergences())} after {time.monotonic() - began:.1f} s, {len(self.banned)} bans")


@contextmanager
def started(directory: Path, skews: Mapping[str, float]) -> Generator[Fleet]:
    """Run two hosts with some history, on a Redis that saves when it is told to, for the length of the block."""
    options = ("--save", "3600 1000000", "--dbfilename", "old.rdb")
    with ExitStack() as stack:
        server = stack.enter_context(redis_server(directory, *options, address="0.0.0.0"))
        relay = stack.enter_context(slow_relay(server.port, 0.0, "0.0.0.0"))
        hosts = stack.enter_context(two_hosts(directory, relay, JAIL, skews=skews))
        made = Fleet(hosts, server, relay)
        made.ban(0, LIFTED, KEPT)
        made.agree()
        made.lift(1, LIFTED)
        made.ban(0, AWAY)
        made.agree()
        yield made


@pytest.fixture
def fleet(open_tmp_path: Path) -> Iterator[Fleet]:
    """Give two hosts whose clocks are right."""
    with started(open_tmp_path, {}) as running:
        yield running


@contextmanager
def killed(fleet: Fleet) -> Generator[None]:
    """Redis dies, and comes back empty."""
    fleet.server.kill()
    yield
    fleet.server.start()


@contextmanager
def killed_with_old_data(fleet: Fleet) -> Generator[None]:
    """Redis dies, and comes back with what it had before the last bans and lifts."""
    assert fleet.server.command("SAVE") == b"+OK\r\n"
    yield
    fleet.server.kill()
    fleet.server.start()


@contextmanager
def restarted(fleet: Fleet) -> Generator[None]:
    """Redis dies, and comes back with all it had."""
    yield
    assert fleet.server.command("SAVE") == b"+OK\r\n"
    fleet.server.kill()
    fleet.server.start()


@contextmanager
def cut(fleet: Fleet) -> Generator[None]:
    """All connections are cut, again and again while it is decided."""
    is_over = Event()

    def cut_all() -> None:
        while not is_over.wait(0.05):
            fleet.server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    cutting = Thread(target=cut_all)
    cutting.start()
    try:
        yield
    finally:
        is_over.set()
        cutting.join()


@contextmanager
def flushed(fleet: Fleet) -> Generator[None]:
    """Redis loses everything before and after what is decided."""
    fleet.server.command("FLUSHALL")
    yield
    fleet.server.command("FLUSHALL")


@contextmanager
def hung(fleet: Fleet) -> Generator[None]:
    """Redis accepts and does not answer."""
    fleet.server.freeze()
    yield
    fleet.server.thaw()


@contextmanager
def slow(fleet: Fleet) -> Generator[None]:
    """Redis takes 200 ms for every answer, and goes on to."""
    fleet.relay.delay = 0.2
    yield


@contextmanager
def full(fleet: Fleet) -> Generator[None]:
    """Redis takes no writes."""
    fleet.server.command("CONFIG", "SET", "maxmemory", "1mb")
    yield
    fleet.server.command("CONFIG", "SET", "maxmemory", "200mb")


@contextmanager
def evicting(fleet: Fleet) -> Generator[None]:
    """Redis throws the ban set away for want of room, twice."""
    fleet.server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    fleet.server.command("CONFIG", "SET", "maxmemory", "8mb")

    def is_lost() -> bool:
        fleet.server.command("SET", f"other:{time.monotonic()}", "x" * 300_000)
        return fleet.server.command("EXISTS", FACTS) == b":0\r\n"

    wait_until(is_lost, 10, "never thrown away")
    yield
    wait_until(is_lost, 10, "never thrown away")
    fleet.server.command("CONFIG", "SET", "maxmemory", "200mb")


@contextmanager
def parted(fleet: Fleet) -> Generator[None]:
    """One host reaches neither Redis nor anybody else."""
    link = fleet.hosts[0].machine.name
    run("ip", "link", "set", link, "down")
    yield
    run("ip", "link", "set", link, "up")


FATES: tuple[Callable[[Fleet], AbstractContextManager[None]], ...] = (
    *(killed, killed_with_old_data, restarted, cut, flushed, hung, slow, full, evicting, parted),
)


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.__name__)
def test_all_agree_after(fleet: Fleet, fate: Callable[[Fleet], AbstractContextManager[None]]) -> None:
    """No ban that a daemon owns is lost, nothing that was lifted comes back, whatever happened meanwhile."""
    with fate(fleet):
        fleet.decide()
    fleet.agree()
    for host in fleet.hosts:
        assert not host.drops(LIFTED)


def test_all_agree_with_clocks_five_minutes_off(open_tmp_path: Path) -> None:
    """Hosts whose clocks are ten minutes apart agree on what is banned and until when, also after Redis lost it all."""
    with started(open_tmp_path, {"alpha": 300.0, "beta": -300.0}) as fleet:
        with flushed(fleet):
            fleet.decide()
        fleet.agree()
        left = [host.kernel() for host in fleet.hosts]
        for network in fleet.banned:
            assert left[0][network] == pytest.approx(3600, abs=60)
            assert left[1][network] == pytest.approx(left[0][network], abs=5)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_a_kernel_agrees_after_a_failover(open_tmp_path: Path, kind: str) -> None:
    """A daemon's kernel and apps, another host and the server that took over agree, though it lost what was told."""
    with ExitStack() as stack:
        group = stack.enter_context(group_of(kind, open_tmp_path, FACTS))
        place = Place(open_tmp_path)
        place.configure(web_jail(place, JAIL), f'store = "{group.uri}"')
        daemon = stack.enter_context(running_daemon(place))
        other = stack.enter_context(replicas(group.uri, (0.0,)))

        def seen(*addresses: str) -> None:
            for address in addresses:
                place.append(address)
            wait_until(lambda: in_kernel().keys() >= set(addresses), 5, daemon.output)

        def divergences(banned: set[str]) -> dict[str, set[str]]:
            copies = {"kernel": set(in_kernel()), "apps": published(place), "daemon": known(place)}
            copies |= {"other host": set(other.bans(0)), "Redis": set(bans_kept(group.uri))}
            return {where: kept ^ banned for where, kept in copies.items() if kept != banned}

        seen(LIFTED, KEPT)
        wait_until(lambda: other.is_banned(0, LIFTED), 5, "not told")
        group.pair.wait_until_copied()
        group.pair.part()
        other.lift(0, LIFTED)
        seen(AWAY)
        wait_until(lambda: not divergences({KEPT, AWAY}), 5, lambda: str(divergences({KEPT, AWAY})))
        group.pair.fail_over()
        seen("198.18.0.1")
        banned = {KEPT, AWAY, "198.18.0.1"}
        wait_until(lambda: not divergences(banned), AGREE_WITHIN, lambda: str(divergences(banned)))
        print(f"divergences {len(divergences(banned))}, {len(banned)} bans")
    run("nft", "delete", "table", "inet", "appguard")
