"""Two hosts, each with a daemon and a kernel of its own, that count, protect and let off together through one Redis."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.state import State
from tests.fleet_hosts import Host, two_hosts
from tests.lab import wait_until
from tests.netns import run
from tests.redis_server import RedisServer, redis_server
from tests.replicas import CHANGES

pytestmark = pytest.mark.lab

ATTACKER = "203.0.113.5"
SHARED = {"maxretry": 5, "scope": "fleet"}


@pytest.fixture
def server(open_tmp_path: Path) -> Iterator[RedisServer]:
    """Give the Redis of the fleet."""
    with redis_server(open_tmp_path, address="0.0.0.0") as running:
        yield running


@pytest.fixture
def fleet(open_tmp_path: Path, server: RedisServer) -> Iterator[tuple[Host, Host]]:
    """Give two hosts that count together up to 5."""
    with two_hosts(open_tmp_path, server, SHARED) as hosts:
        yield hosts


def changes(server: RedisServer) -> int:
    """Give how many changes of the ban set Redis has told."""
    return int(server.command("XLEN", CHANGES)[1:])


def test_three_failures_and_two_are_one_ban_in_both_kernels(fleet: tuple[Host, Host], server: RedisServer) -> None:
    """With maxretry 5, three on alpha and two on beta are one ban of the fleet, dropped by both kernels at once."""
    alpha, beta = fleet
    alpha.place.append(ATTACKER, 3)
    alpha.daemon.wait_for(f"Found {ATTACKER}")
    beta.place.append(ATTACKER, 1)
    beta.daemon.wait_for(f"Found {ATTACKER}")
    assert alpha.place.banned() == beta.place.banned() == []
    beta.place.append(ATTACKER, 1)
    for host in fleet:
        wait_until(lambda: host.drops(ATTACKER), 5, host.daemon.output)  # noqa: B023  # asked before the next
    assert changes(server) == 1
    wait_until(lambda: beta.bans_said(ATTACKER), 5, beta.daemon.output)  # the log may be later than the kernel
    assert alpha.bans_said(ATTACKER) + beta.bans_said(ATTACKER) == 1
    (ban,) = alpha.place.ask("list")["bans"]
    assert ban["failures"] == 5
    assert ban["reason"].endswith("on all hosts")
    alpha.place.append(ATTACKER, 4)
    wait_until(lambda: alpha.place.ask("status", "probes")["total_failed"] >= 3, 5, alpha.daemon.output)
    assert changes(server) == 1


def test_explain_tells_what_all_hosts_have_counted(fleet: tuple[Host, Host], server: RedisServer) -> None:
    """Both hosts say 4 of 5, the one that saw one of them, and the one asked about a line; without Redis their own."""
    alpha, beta = fleet
    alpha.place.append(ATTACKER, 4)
    wait_until(lambda: alpha.place.ask("status", "probes")["total_failed"] == 4, 5, alpha.daemon.output)
    told = f"jail probes has counted 4 in 600 s on all hosts under {ATTACKER} and bans at 5; 1 more would do"
    line = alpha.place.access_log.read_text().splitlines()[0]
    for host in fleet:
        for what in (ATTACKER, line):
            asked = host.place.ask("explain", what)
            (step,) = asked["jails"]
            assert asked["conclusion"] == f"Not banned: {told}."
            assert (step["counted"], step["counted_by_all"]) == (4 if host is alpha else 0, 4)
    assert "0 of 5 in 10m under 203.0.113.5; on all hosts 4" in beta.place.run("explain", ATTACKER).stdout
    assert "no jail has counted anything" in beta.place.ask("explain", "203.0.113.77")["conclusion"]
    server.kill()
    wait_until(lambda: "on this host" in alpha.place.ask("explain", ATTACKER)["conclusion"], 5, alpha.daemon.output)
    assert "on all hosts not known now" in alpha.place.run("explain", ATTACKER).stdout


def test_without_redis_each_host_counts_alone_and_says_so(fleet: tuple[Host, Host], server: RedisServer) -> None:
    """Redis is gone: five failures on one host are a ban there, the jail has an alarm, and later all know the ban."""
    alpha, beta = fleet
    server.kill()
    alpha.place.append(ATTACKER, 5)
    wait_until(lambda: alpha.drops(ATTACKER), 5, alpha.daemon.output)
    wait_until(lambda: "counts alone" in alpha.place.ask("status", "probes")["alarm"], 5, alpha.daemon.output)
    assert not beta.drops(ATTACKER)
    server.start()
    wait_until(lambda: beta.drops(ATTACKER), 10, beta.daemon.output)
    wait_until(lambda: not alpha.place.ask("status", "probes")["alarm"], 10, alpha.daemon.output)
    assert alpha.bans_said(ATTACKER) + beta.bans_said(ATTACKER) == 1


def test_a_partition_between_the_failures(fleet: tuple[Host, Host], server: RedisServer) -> None:
    """Failures seen while cut off are counted with those of the others when the host is back: one ban."""
    alpha, beta = fleet
    beta.place.append(ATTACKER, 2)
    run("ip", "link", "set", "alpha", "down")
    alpha.place.append(ATTACKER, 3)
    alpha.daemon.wait_for(f"Found {ATTACKER}")
    assert not beta.drops(ATTACKER)
    run("ip", "link", "set", "alpha", "up")
    for host in fleet:
        wait_until(lambda: host.drops(ATTACKER), 20, host.daemon.output)  # noqa: B023  # asked before the next
    assert changes(server) == 1


def test_an_address_of_another_host_is_never_banned(fleet: tuple[Host, Host]) -> None:
    """Beta's own address fails on alpha and is asked to be banned there: neither bans it, and both say why."""
    alpha, beta = fleet
    own = "192.0.2.6"
    wait_until(lambda: "an address of" in alpha.place.run("ban", own).stderr, 10, alpha.daemon.output)
    refused = alpha.place.run("ban", own)
    assert refused.returncode == 3
    assert "no host of the fleet bans it" in refused.stderr
    alpha.place.append(own, 7)
    alpha.place.append(ATTACKER, 5)
    wait_until(lambda: alpha.drops(ATTACKER), 5, alpha.daemon.output)
    assert alpha.place.banned() == beta.place.banned() == [ATTACKER]
    assert not alpha.drops(own)


def test_clones_are_both_protected(open_tmp_path: Path, server: RedisServer) -> None:
    """Two hosts with one state.db: one takes another identity, says so and keeps it, and nobody bans either of them."""
    with two_hosts(open_tmp_path, server, SHARED, identity="0123456789abcdef") as clones:
        for host, other in zip(clones, ("192.0.2.6", "192.0.2.2"), strict=True):
            wait_until(lambda: "an address of" in host.place.run("ban", other).stderr, 20, host.daemon.output)  # noqa: B023
        said = [line.text for host in clones for line in host.daemon.lines() if "identity" in line.text]
        assert len(said) == 1
    states = [State(host.place.state) for host in clones]
    identities: set[str | None] = set()
    for state, host in zip(states, clones, strict=True):
        os.chown(host.place.state, os.geteuid(), -1)
        state.open()
        identities.add(state.setting("host_id"))
        state.close()
    assert len(identities) == 2
    assert "0123456789abcdef" in identities


def test_safelist_is_shared(fleet: tuple[Host, Host]) -> None:
    """An address put on the safelist on alpha is lifted everywhere and banned by nobody, until beta takes it off."""
    alpha, beta = fleet
    assert alpha.place.run("ban", ATTACKER).returncode == 0
    wait_until(lambda: beta.drops(ATTACKER), 5, beta.daemon.output)
    added = alpha.place.run("safelist", "add", ATTACKER, "--for", "1d", "--reason", "our scanner")
    assert added.returncode == 0, added.stderr
    assert "lifted" in added.stdout.lower()
    wait_until(lambda: not beta.drops(ATTACKER), 5, beta.daemon.output)
    wait_until(lambda: "our scanner" in beta.place.run("safelist", "list").stdout, 5, beta.daemon.output)
    for host in fleet:
        assert host.place.run("ban", ATTACKER).returncode == 3
    beta.place.append(ATTACKER, 6)
    removed = beta.place.run("safelist", "remove", ATTACKER)
    assert removed.returncode == 0, removed.stderr
    wait_until(lambda: "our scanner" not in alpha.place.run("safelist", "list").stdout, 5, alpha.daemon.output)
    assert beta.place.banned() == []
    assert alpha.place.run("ban", ATTACKER).returncode == 0
