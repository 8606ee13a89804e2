"""What every firewall must do, on each of them. The kernel one runs in the lab."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from appguard.address import network_text
from appguard.errors import FirewallError
from appguard.firewalls.base import Block, Firewall
from appguard.firewalls.command import Command
from appguard.firewalls.dry_run import DryRun
from appguard.firewalls.nftables import Nftables
from appguard.firewalls.nginx_deny import NginxDeny
from tests.blocklist import blocklist
from tests.netns import banned, elements, has_table, network, run

HOST = "203.0.113.5"
OTHER = "203.0.113.6"
SLASH64 = "2001:db8:5::/64"
HOST6 = "2001:db8:6::1"


@dataclass(frozen=True, slots=True)
class Case:
    """A firewall and ways to see what it holds."""

    firewall: Firewall
    held: Callable[[], set[str]]
    let_in: Callable[[], set[str]]
    counts: bool = True

    def shuts_out(self, address: str) -> bool:
        """Say whether some block held covers the address."""
        return any(ip_address(address) in ip_network(text) for text in self.held())


NFTABLES: dict[str, Callable[[], Nftables]] = {
    "nftables": Nftables,
    "nftables by netlink": lambda: Nftables(transport="netlink", destroy=True),
    "nftables by netlink without destroy": lambda: Nftables(transport="netlink", destroy=False),
    "nftables by nft": lambda: Nftables(transport="nft"),
}


CONTRIB = Path(__file__).parents[2] / "contrib/firewalls"
IPSET: dict[str, tuple[str, ...]] = {
    "command: iptables-nft and ipset": ("iptables-nft", "ip6tables-nft"),
    "command: iptables-legacy and ipset": ("iptables-legacy", "ip6tables-legacy"),
}


@pytest.fixture(
    params=[
        "dry_run",
        "nginx_deny",
        "command: an HTTP API",
        *(pytest.param(name, marks=pytest.mark.lab) for name in (*NFTABLES, *IPSET)),
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Give each firewall, and take away what it made."""
    if request.param == "nginx_deny":
        path = tmp_path / "bans.geo"
        nginx = NginxDeny(path=path, reload=(), apart=0)
        yield Case(nginx, lambda: entries(path, "1"), lambda: entries(path, "0"), counts=False)
        return
    if request.param == "command: an HTTP API":
        with blocklist() as api:
            token = tmp_path / "token"
            token.write_text("secret\n")
            yield Case(
                Command(command=[f"{CONTRIB}/appguard-http", api.url, str(token)], look_every=0),
                api.held,
                api.let_in,
                counts=False,
            )
        return
    if request.param in IPSET:
        command = Command(command=[f"{CONTRIB}/appguard-ipset", *IPSET[request.param]], look_every=0)
        yield Case(command, lambda: members("ban"), lambda: members("allow"))
        do(command.lift())
        return
    if request.param == "dry_run":
        dry = DryRun()
        yield Case(
            dry,
            lambda: {network_text(block.network) for block in dry.blocks},
            lambda: {network_text(each) for each in dry.allow},
        )
        return
    firewall = NFTABLES[request.param]()
    yield Case(
        firewall,
        lambda: set(banned()) if has_table() else set(),
        lambda: {*elements("allow4"), *elements("allow6")} if has_table() else set(),
    )
    do(firewall.lift())


def members(kind: str) -> set[str]:
    """Give the networks in the sets of one kind."""
    lines = run("ipset", "save").splitlines()
    found = (line.split() for line in lines if line.startswith((f"add appguard_{kind}4 ", f"add appguard_{kind}6 ")))
    return {network_text(network(words[2])) for words in found}


def entries(path: Path, value: str) -> set[str]:
    """Give the networks that a file for nginx's `geo` gives this value."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {network_text(network(line.split()[0])) for line in lines if line.endswith(f" {value};")}


def do(*steps: Coroutine[object, object, None]) -> None:
    """Run the steps one after the other."""

    async def all_steps() -> None:
        for step in steps:
            await step

    asyncio.run(all_steps())


def block(text: str, seconds: float | None = 600, ports: str = "") -> Block:
    """Make a block that ends in so many seconds."""
    return Block.of(network(text), None if seconds is None else time.time() + seconds, ports)


def test_replace_makes_it_hold_exactly_what_was_given(case: Case) -> None:
    """A replace puts in force hosts, a /64, networks and permanent blocks, and those always let in."""
    blocks = [block(HOST), block(SLASH64), block(HOST6), block("198.51.100.0/24"), block(OTHER, None)]
    do(case.firewall.replace([network("192.0.2.7/32"), network("2001:db8:7::/48")], blocks))
    assert case.held() == {HOST, SLASH64, HOST6, "198.51.100.0/24", OTHER}
    assert case.let_in() == {"192.0.2.7", "2001:db8:7::/48"}


def test_a_second_replace_leaves_nothing_of_the_first(case: Case) -> None:
    """A replace is whole: what an earlier one or a change put in is gone."""
    do(
        case.firewall.replace([network("192.0.2.7/32")], [block(HOST), block("198.51.100.0/24")]),
        case.firewall.change([block(SLASH64)], []),
        case.firewall.replace([], [block(OTHER)]),
    )
    assert case.held() == {OTHER}
    assert case.let_in() == set()


def test_replace_with_nothing_is_in_force(case: Case) -> None:
    """An empty replace is intact and ready for changes."""
    do(case.firewall.replace([], []))
    assert asyncio.run(case.firewall.intact())
    do(case.firewall.change([block(HOST)], []))
    assert case.held() == {HOST}


def test_a_change_adds_and_removes(case: Case) -> None:
    """One change adds some blocks and removes others of every kind."""
    before = [block(HOST), block(SLASH64), block(HOST6), block("198.51.100.0/24"), block("2001:db8:9::/48")]
    do(
        case.firewall.replace([], before),
        case.firewall.change([block(OTHER), block("192.0.2.0/25")], before),
    )
    assert case.held() == {OTHER, "192.0.2.0/25"}


def test_removing_what_is_not_there_is_no_error(case: Case) -> None:
    """A removal of an unknown host or network does not hinder the rest of the change."""
    do(
        case.firewall.replace([], []),
        case.firewall.change([block(HOST)], [block(OTHER), block(SLASH64), block("198.51.100.0/24")]),
    )
    assert case.held() == {HOST}


def test_every_verb_may_be_repeated(case: Case) -> None:
    """Adding twice, removing twice and lifting twice do what once does."""
    do(
        case.firewall.replace([], []),
        case.firewall.change([block(HOST), block("198.51.100.0/24")], []),
        case.firewall.change([block(HOST), block("198.51.100.0/24")], []),
    )
    assert case.held() == {HOST, "198.51.100.0/24"}
    do(case.firewall.change([], [block(HOST)]), case.firewall.change([], [block(HOST)]))
    assert case.held() == {"198.51.100.0/24"}
    do(case.firewall.lift(), case.firewall.lift())
    assert case.held() == set()


def test_a_block_that_has_ended_is_not_held(case: Case) -> None:
    """An end in the past shuts nobody out, and given to a held block lets it in."""
    do(case.firewall.replace([], [block(HOST, -1), block(OTHER), block("198.51.100.0/24"), block("192.0.2.0/25", -1)]))
    assert case.held() == {OTHER, "198.51.100.0/24"}
    do(case.firewall.change([block(OTHER, -1), block("198.51.100.0/24", -1), block(SLASH64, -1)], []))
    assert case.held() == set()


def test_overlapping_blocks_all_count(case: Case) -> None:
    """Hosts and networks inside networks go together, and removing one leaves the others."""
    do(
        case.firewall.replace([], [block("198.51.100.0/24"), block("198.51.100.128/25", 900), block("198.51.100.1")]),
        case.firewall.change([block("198.51.0.0/16", 300)], []),
    )
    assert all(map(case.shuts_out, ("198.51.0.1", "198.51.100.1", "198.51.100.2", "198.51.100.200", "198.51.255.9")))
    do(case.firewall.change([], [block("198.51.0.0/16"), block("198.51.100.0/24")]))
    assert all(map(case.shuts_out, ("198.51.100.1", "198.51.100.200")))
    assert not any(map(case.shuts_out, ("198.51.0.1", "198.51.100.2")))


def test_blocks_of_ports_stand_apart(case: Case) -> None:
    """Blocks of some ports neither replace nor take away the block of all ports, of hosts and of networks."""
    whole = [block(HOST), block(SLASH64), block("198.51.100.0/24")]
    ported = [
        block(text, ports=ports)
        for text in (HOST, SLASH64, "198.51.100.0/24", "198.51.100.0/25")
        for ports in ("tcp/22", "tcp+udp/80,8000-8010", "udp")
    ]
    do(case.firewall.replace([], [*whole, *ported[::2]]), case.firewall.change(ported, []))
    assert case.held() >= {HOST, SLASH64, "198.51.100.0/24"}
    assert asyncio.run(case.firewall.intact())
    do(case.firewall.change([], ported))
    assert case.held() == {HOST, SLASH64, "198.51.100.0/24"}
    do(case.firewall.change(ported[:1], whole), case.firewall.change([], ported))
    assert case.held() == set()


def test_intact_only_between_replace_and_lift(case: Case) -> None:
    """A firewall is intact from its first replace to lift, changes included."""
    firewall = case.firewall
    assert not asyncio.run(firewall.intact())
    do(firewall.replace([], [block(HOST)]), firewall.change([block(OTHER), block("198.51.100.0/24")], []))
    assert asyncio.run(firewall.intact())
    do(firewall.lift())
    assert not asyncio.run(firewall.intact())


def test_a_change_needs_a_replace_first(case: Case) -> None:
    """A change of a firewall that holds nothing of ours is an error, not a silent nothing."""
    with pytest.raises(FirewallError):
        do(case.firewall.change([block(HOST)], []))


def test_nothing_is_dropped_without_traffic(case: Case) -> None:
    """The count of dropped packets begins at 0; who does not count says so."""
    do(case.firewall.replace([], [block(HOST)]))
    assert asyncio.run(case.firewall.dropped()) == (0 if case.counts else None)


def test_blocks_that_come_late_are_held(case: Case) -> None:
    """A replace takes what comes while it is at work, and ends when no more does."""
    coming = [[block(OTHER)], [block(SLASH64), block("198.51.100.0/24")], []]

    async def late() -> list[Block]:
        return coming.pop(0)

    do(case.firewall.replace([], [block(HOST)], late))
    assert case.held() == {HOST, OTHER, SLASH64, "198.51.100.0/24"}
    assert not coming
