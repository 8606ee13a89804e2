"""Attempts to have this host cut itself or its administrators off: by a person, by logs, by a program, by the fleet.

A host of its own with a gateway, a resolver, a proxy, a Redis on another machine, and the daemon as it runs anywhere;
what it refuses is asked of the kernel at the end.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from appguard.ban import Ban
from appguard.stores.redis_bans import RedisBanSet
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.lab import Process, wait_until
from tests.machine import Machine
from tests.netns import joined
from tests.redis_server import RedisServer
from tests.replicas import bans_kept, facts_kept

pytestmark = pytest.mark.lab

HOST, HOST6, LINK6 = "198.19.1.10", "2001:db8:19::10", "2001:db8:19::/64"
GATEWAY, GATEWAY6, REDIS = "198.19.1.1", "fe80::19", "198.19.1.7"
RESOLVER, PROXY, FRIEND = "198.19.2.53", "198.19.3.80", "198.19.4.4"
ATTACKER, ADMINISTRATOR, STRANGER = "198.19.5.66", "198.19.5.9", "198.19.6.1"
RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")  # of the lab's own /run
SESSION = Path("/run/systemd/sessions/19")
LOGGED_IN = f"USER=root\nSTATE=active\nREMOTE=1\nREMOTE_HOST={ADMINISTRATOR}\n"
SSHD = "{} host sshd[7]: Failed password for root from {} port 4711 ssh2\n"

OUR_OWN = (HOST, HOST6, GATEWAY, GATEWAY6, RESOLVER, PROXY, REDIS, FRIEND, "127.0.0.1")
NETWORKS = ("fe80::/64", LINK6, "0.0.0.0/0", "::/0", "12.0.0.0/8", "198.19.0.0/16", "198.19.1.0/24", "64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Protected:
    """The host, its daemon, and the Redis it shares with others."""

    machine: Machine
    place: Place
    daemon: Process
    redis: RedisServer

    def drops(self) -> set[str]:
        """Give what the kernel shuts out."""
        with self.machine:
            return set(in_kernel())

    def fail(self, address: str, log: str = "access.log") -> None:
        """Have the log tell of enough failures of an address."""
        if log == "access.log":
            self.place.append(address, 3)
        else:
            with (self.place.logs / log).open("a") as file:
                file.write(3 * SSHD.format(time.strftime("%b %d %H:%M:%S"), address))


@pytest.fixture
def session() -> Iterator[Path]:
    """Have an administrator logged in; give the file that says so."""
    SESSION.parent.mkdir(parents=True, exist_ok=True)
    SESSION.write_text(LOGGED_IN)
    yield SESSION
    SESSION.unlink(missing_ok=True)


@pytest.fixture
def host(open_tmp_path: Path) -> Iterator[Protected]:
    """Give such a host, its daemon running."""
    with ExitStack() as stack:
        RESOLV_CONF.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(RESOLV_CONF.unlink)
        RESOLV_CONF.write_text(f"nameserver {RESOLVER}\n")
        here = [f"{GATEWAY}/24", f"{REDIS}/24", f"{ATTACKER}/32", f"{GATEWAY6}/64"]
        machine = stack.enter_context(joined("host", here, [f"{HOST}/24", f"{HOST6}/64"]))
        machine.configure(f"route add default via {GATEWAY}", f"route add default via {GATEWAY6} dev eth0")
        redis = RedisServer(open_tmp_path, address="0.0.0.0")
        redis.start()
        stack.callback(redis.kill)
        place = Place(open_tmp_path)
        (place.logs / "auth.log").touch()
        ssh = f'[jails.ssh]\nsource = "{place.logs}/auth.log"\nfilter = "sshd"\nmaxretry = 3\nbantime = "1h"\n'
        settings = f'store = "redis://{REDIS}:{redis.port}/0"\ntrusted_proxies = ["{PROXY}"]\nsafelist = ["{FRIEND}"]\n'
        place.configure(web_jail(place) + ssh, settings)
        with machine:
            daemon = stack.enter_context(running_daemon(place))
        yield Protected(machine, place, daemon, redis)


def by_a_person(host: Protected, network: str) -> None:
    """Ask for the ban on the command line."""
    refused = host.place.run("ban", network)
    assert refused.returncode == 3, f"{network}: {refused.stdout}{refused.stderr}"


def by_a_feed(host: Protected, network: str) -> None:
    """Ask for the ban as a program that reads a list of bad networks does."""
    refused = host.place.run("ban", network, "--automatic", "--jail", "feed")
    assert refused.returncode == 3, f"{network}: {refused.stdout}{refused.stderr}"


def by_the_fleet(host: Protected, network: str) -> None:
    """Have another host of the fleet ban it, which does not know this one."""
    uri = f"redis://127.0.0.1:{host.redis.port}/0"
    with closing(RedisBanSet(uri)) as other:
        assert other.ban(Ban.of(network, bantime="1h"))
        wait_until(lambda: network in (facts_kept(uri) or {}), 5, f"{network} is banned in Redis")

    def is_heard() -> bool:
        refused = {each["network"] for each in host.place.ask("status")["refused"]}
        return network in refused or network not in bans_kept(uri)  # a host lifts such a ban of its own addresses

    wait_until(is_heard, 5, network)


def by_a_log(host: Protected, network: str) -> None:
    """Have a log tell of its failures."""
    if "/" not in network:
        host.fail(network)


@pytest.mark.parametrize("attempt", [by_a_person, by_a_feed, by_the_fleet, by_a_log])
def test_the_host_does_not_cut_itself_off(host: Protected, attempt: Callable[[Protected, str], None]) -> None:
    """Own addresses, gateways, resolver, proxy, safelist, Redis, links and halves of the internet reach no kernel."""
    for network in (*OUR_OWN, *NETWORKS):
        attempt(host, network)
    host.fail(STRANGER)
    wait_until(lambda: STRANGER in host.drops(), 5, host.daemon.output)
    assert host.drops() == {STRANGER}
    with host.machine:
        socket.create_connection((REDIS, host.redis.port), timeout=5).close()


def test_guessing_is_no_login_and_a_login_ends(session: Path, host: Protected) -> None:
    """Who guesses over a connection to sshd is banned; a logged-in administrator is not, until the session ends."""
    with host.machine:
        sshd = socket.create_server((HOST, 22))
    with sshd, socket.create_connection((HOST, 22), timeout=5, source_address=(ATTACKER, 0)):
        host.fail(ADMINISTRATOR, "auth.log")
        host.daemon.wait_for(f"[ssh] {ADMINISTRATOR} is not banned")
        host.fail(ATTACKER, "auth.log")
        wait_until(lambda: ATTACKER in host.drops(), 5, host.daemon.output)
        assert host.drops() == {ATTACKER}
        assert host.place.run("ban", ADMINISTRATOR).returncode == 3
        session.unlink()
        wait_until(lambda: host.place.run("ban", ADMINISTRATOR).returncode == 0, 10, "the session's end is not seen")
        wait_until(lambda: host.drops() == {ATTACKER, ADMINISTRATOR}, 5, host.daemon.output)


def test_an_administrator_who_logs_in_from_a_banned_address_is_let_in(host: Protected, session: Path) -> None:
    """A session that begins lifts the ban of its address out of the kernel, and its end brings it back."""
    session.unlink()
    wait_until(lambda: host.place.run("ban", ADMINISTRATOR).returncode == 0, 10, "the session's end is not seen")
    wait_until(lambda: ADMINISTRATOR in host.drops(), 5, host.daemon.output)
    session.write_text(LOGGED_IN)
    wait_until(lambda: ADMINISTRATOR not in host.drops(), 10, host.daemon.output)
    session.unlink()
    wait_until(lambda: ADMINISTRATOR in host.drops(), 10, host.daemon.output)
