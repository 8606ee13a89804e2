"""What the hosts of a fleet count and tell each other, on a real Sentinel group and a real Cluster that fail over."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appguard.address import parse_address
from tests.fleet_counting import ATTACKER, OTHER, CountingHost, counting
from tests.fleet_sharing import protected, sharing
from tests.lab import wait_until
from tests.redis_groups import Group, group_of
from tests.redis_server import RedisServer
from tests.replicas import CHANGES, FACTS, bans_kept, versions

FAILOVER = 20.0  # seconds; until Sentinels or a Cluster have elected another master, most of which they wait


@pytest.fixture(params=["sentinel", "cluster"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    """Give each kind of group."""
    with group_of(request.param, tmp_path, FACTS) as running:
        yield running


def changes(server: RedisServer) -> int:
    """Give how many changes of the ban set a server has told."""
    return int(server.command("XLEN", CHANGES)[1:])


def print_divergences(hosts: Sequence[CountingHost], uri: str) -> None:
    """Print about how many networks the hosts and Redis differ, and see that it is none."""

    def divergences() -> int:
        copies = [versions(host.bans.facts()) for host in hosts]
        networks = {network for copy in copies for network in copy}
        differing = sum(len({copy.get(network) for copy in copies}) > 1 for network in networks)
        banned = {key for key, (_, is_banned) in copies[0].items() if is_banned}
        return differing + len(banned ^ set(bans_kept(uri)))

    wait_until(lambda: divergences() == 0, 5, lambda: f"{divergences()} divergences")
    print(f"divergences {divergences()}, {len(hosts[0].bans.facts())} facts")


def test_an_answer_lost_in_a_failover_counts_once(group: Group) -> None:
    """The master dies when it has counted, before it answers: the batch, sent again to the next one, counts nothing."""
    with counting(group.uri) as (alpha, beta):
        alpha.fail(ATTACKER, 2)
        real, is_over = alpha.failures.script.call, False

        def call(client: Any, keys: Sequence[str], arguments: Sequence[object]) -> Any:
            nonlocal is_over
            answer = real(client, keys, arguments)
            if not is_over:
                is_over = True
                group.pair.wait_until_copied()
                group.pair.fail_over()
                raise ConnectionResetError("the master died before its answer was read")
            return answer

        alpha.failures.script.call = call  # type: ignore[method-assign]  # a server that fails when it hurts most
        alpha.fail(ATTACKER, within=FAILOVER)
        assert is_over
        beta.fail(ATTACKER, within=FAILOVER)
        assert not (alpha.decided or beta.decided)
        assert changes(group.pair.replica) == 0
        beta.fail(ATTACKER)
        assert [(each.ban.key, each.ban.failures) for each in beta.decided] == [(ATTACKER, 5)]
        wait_until(lambda: alpha.bans.get(parse_address(ATTACKER)), 5, "not told")
        assert changes(group.pair.replica) == 1
        print_divergences((alpha, beta), group.uri)


def test_a_crossing_that_a_failover_lost_is_one_ban(group: Group) -> None:
    """A ban acknowledged by a master that dies with it stays one ban; counts that are lost make nobody wait or fail."""
    with counting(group.uri) as (alpha, beta):
        alpha.fail(OTHER, 2)
        group.pair.wait_until_copied()
        group.pair.part()
        alpha.fail(ATTACKER, 3)
        beta.fail(ATTACKER, 2)
        beta.fail(OTHER, 2)  # what these two counted is lost
        assert [each.ban.key for each in beta.decided] == [ATTACKER]
        wait_until(lambda: alpha.bans.get(parse_address(ATTACKER)), 5, "not told")
        group.pair.fail_over()
        wait_until(lambda: bans_kept(group.uri) == [ATTACKER], FAILOVER, "the ban is not told again")
        alpha.fail(OTHER, 2, within=FAILOVER)
        assert not alpha.decided
        beta.fail(OTHER, within=FAILOVER)
        assert [each.ban.key for each in (*alpha.decided, *beta.decided)] == [ATTACKER, OTHER]
        alpha.fail(ATTACKER)
        beta.fail(ATTACKER)
        assert len((*alpha.decided, *beta.decided)) == 2
        print_divergences((alpha, beta), group.uri)


def test_protections_and_safelist_outlast_a_failover(group: Group) -> None:
    """What was told to a master that dies with it is told to the next: who is protected, let in, and not any more."""
    with sharing(group.uri) as (alpha, beta):
        wait_until(lambda: protected(alpha) == ["192.0.2.4/32"], 10, "not told")
        beta.let_off("203.0.113.5", 1)
        wait_until(lambda: "203.0.113.5" in alpha.entries, 10, "not told")
        group.pair.wait_until_copied()
        group.pair.part()
        alpha.let_off("203.0.113.5", 2, is_removed=True)
        alpha.let_off("203.0.113.6", 1)
        beta.protect("192.0.2.9")
        wait_until(lambda: protected(alpha) == ["192.0.2.9/32"], 10, "not told")
        wait_until(lambda: len(beta.entries) == 2, 10, "not told")
        group.pair.fail_over()
        kept = "appguard:d:{main}:safelist"
        wait_until(lambda: group.pair.replica.command("HLEN", kept) == b":2\r\n", FAILOVER, "not told again")
        beta.protect("192.0.2.10")
        wait_until(lambda: protected(alpha) == ["192.0.2.10/32"], FAILOVER, "not told")
        for host in (alpha, beta):
            found = {key: (entry.version, entry.is_removed) for key, entry in host.entries.items()}
            assert found == {"203.0.113.5": (2, True), "203.0.113.6": (1, False)}
