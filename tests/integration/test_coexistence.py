"""Our table beside the firewalls of others: Docker's chains, ufw's and firewalld's kind of rules, an admin's reload.

firewalld runs for real, on a bus of its own. The rules of the others are written after what they make (no Docker or ufw
runs): an early accept of established connections, an accept for a service, a policy of drop, address translation. Real
packets pass them.
"""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.ban import Ban
from appguard.bouncer import Bouncer
from appguard.errors import RefusedForSafety
from appguard.firewalls.base import Block
from appguard.firewalls.nftables import Nftables
from appguard.host import read_host_facts
from appguard.judge import Judge
from appguard.stores.memory import MemoryBanSet
from tests.bouncing import running, until
from tests.docker_chains import BRIDGES, INSIDE, PUBLISHED, command_of, docker_host
from tests.firewalld import firewalld
from tests.machine import Machine
from tests.netns import answers, banned, has_table, joined, network, run

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6 = "198.51.100.2", "2001:db8:a::2"
OTHER, OTHER6 = "198.51.100.3", "2001:db8:a::3"
PORT = 80
WITHIN = 0.3

UFW = """
*filter
:INPUT DROP
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-user-input -p tcp --dport 80 -j ACCEPT
COMMIT
"""
FIREWALLD = """
table inet firewalld {
    chain filter_PREROUTING { type filter hook prerouting priority filter + 10; policy accept; }
    chain raw_PREROUTING { type filter hook prerouting priority raw + 10; policy accept; }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        jump filter_IN_public
        reject with icmpx admin-prohibited
    }
    chain filter_IN_public { tcp dport 80 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }
}
"""


@pytest.fixture
def attacker() -> Iterator[Machine]:
    """Give a machine with addresses of both families."""
    there = [f"{ATTACKER}/24", f"{OTHER}/24", f"{ATTACKER6}/64", f"{OTHER6}/64"]
    with joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], there) as machine:
        yield machine


@pytest.fixture(autouse=True)
def nobodys_rules() -> Iterator[None]:
    """Leave no rules behind."""
    yield
    for iptables in ("iptables-nft", "iptables-legacy", "ip6tables-legacy"):
        run(iptables, "-P", "INPUT", "ACCEPT")
        run(iptables, "-F")
        run(iptables, "-X")
    run("nft", "flush ruleset")


def ban(firewall: Nftables, *texts: str) -> None:
    """Shut networks out."""
    asyncio.run(firewall.replace([], [Block.of(network(text), time.time() + 600) for text in texts]))


@pytest.mark.parametrize("flavour", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize(
    ("version", "here", "banned_one", "other"), [(4, HERE, ATTACKER, OTHER), (6, HERE6, ATTACKER6, OTHER6)]
)
def test_beside_docker_of_both_flavours(
    flavour: str, attacker: Machine, version: int, here: str, banned_one: str, other: str
) -> None:
    """A ban covers a published port and stops a kept connection to it; the container still reaches the banned one."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with docker_host(flavour, version) as container, container.open_socket(family, socket.SOCK_STREAM) as server:
        server.bind((BRIDGES[version].container, INSIDE))
        server.listen()
        server.settimeout(5)
        with attacker.connect(here, PUBLISHED, banned_one) as kept, server.accept()[0] as served:
            firewall = Nftables()
            ban(firewall, banned_one)
            kept.sendall(b"x")
            served.settimeout(WITHIN)
            with pytest.raises(TimeoutError):
                served.recv(1)
            assert not answers(attacker, here, PUBLISHED, banned_one, WITHIN)
            assert answers(attacker, here, PUBLISHED, other)
            assert asyncio.run(firewall.dropped())
        with attacker.open_socket(family, socket.SOCK_STREAM) as theirs:
            theirs.bind((banned_one, 443))
            theirs.listen()
            assert answers(container, banned_one, 443), (
                "the container, behind a masquerade, must reach a banned address"
            )
        run(command_of(flavour, version), "-t", "nat", "-F", "DOCKER")  # Docker restarts
        assert asyncio.run(firewall.intact())


@pytest.mark.parametrize("others", ["ufw by iptables-nft", "ufw by iptables-legacy", "firewalld"])
def test_beside_an_input_firewall(others: str, attacker: Machine) -> None:
    """Rules of others that accept a service and what is established let no banned client in, and others stay in."""
    if others == "firewalld":
        run("nft", "-f", "-", text=FIREWALLD)
    else:
        run(f"{others.removeprefix('ufw by ')}-restore", text=UFW)
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(5)
        with attacker.connect(HERE, PORT, ATTACKER) as kept, server.accept()[0] as served:
            firewall = Nftables()
            ban(firewall, ATTACKER, "2001:db8:a::/64")
            kept.sendall(b"x")
            served.settimeout(WITHIN)
            with pytest.raises(TimeoutError):
                served.recv(1)
        assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)
        assert not answers(attacker, HERE6, PORT, ATTACKER6, WITHIN)
        assert answers(attacker, HERE, PORT, OTHER)
        if others == "firewalld":
            run("nft", "-f", "-", text=f"table inet firewalld\ndelete table inet firewalld\n{FIREWALLD}")  # its reload
            assert asyncio.run(firewall.intact())
            assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)


def refused_by_others(attacker: Machine, port: int) -> None:
    """Expect the answer that firewalld gives for a port it has closed, to somebody who is not banned."""
    with pytest.raises(OSError, match="No route to host"):
        answers(attacker, HERE, port, OTHER)


def test_beside_a_real_firewalld(tmp_path: Path, attacker: Machine) -> None:
    """A banned client of an opened port stays out over both of its reloads and its end; firewalld rules the rest."""
    firewall = Nftables()
    with socket.create_server((HERE, PORT)), socket.create_server((HERE, PORT + 1)):
        with firewalld(tmp_path) as others:
            ban(firewall, ATTACKER)
            refused_by_others(attacker, PORT)
            others.tell("--permanent", "--add-port=80/tcp")
            for reload in ("--reload", "--complete-reload"):
                others.tell(reload)
                assert asyncio.run(firewall.intact())
                assert answers(attacker, HERE, PORT, OTHER)
                assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)
                refused_by_others(attacker, PORT + 1)
            asyncio.run(firewall.change([], [Block.of(network(f"{ATTACKER}/32"), None)]))
            assert answers(attacker, HERE, PORT, ATTACKER)
            ban(firewall, ATTACKER)
        assert asyncio.run(firewall.intact())
        assert answers(attacker, HERE, PORT + 1, OTHER)
        assert not answers(attacker, HERE, PORT, ATTACKER, WITHIN)


@pytest.mark.parametrize("head", ["", "flush ruleset\n"])
def test_an_administrator_saves_and_loads_all_rules(tmp_path: Path, head: str) -> None:
    """`nft list ruleset > f; nft -f f` works with the bouncer alive: all bans are held once, and others' rules stay."""
    run("nft", "add table inet theirs { chain input { type filter hook input priority 0; tcp dport 25 drop; }; }")
    file = tmp_path / "rules"
    ban_set = MemoryBanSet()
    bouncer = Bouncer(ban_set, Nftables(), Judge(), interval=3600)

    async def scene() -> None:
        ban_set.ban(Ban.of("203.0.113.5", bantime=600))
        ban_set.ban(Ban.of("198.51.100.0/24", bantime=600))
        await bouncer.settle()
        rules = run("nft", "list", "chain", "inet", "appguard", "prerouting")
        async with running(bouncer):
            await asyncio.sleep(0)  # it listens from here on
            file.write_text(head + run("nft", "list", "ruleset"))
            run("nft", "-f", str(file))
            await until(lambda: _is(rules), "the rules are not as they were")
            ban_set.ban(Ban.of("203.0.113.6", bantime=600))
            bouncer.wake()
            everybody = {"203.0.113.5", "203.0.113.6", "198.51.100.0/24"}
            await until(lambda: banned().keys() == everybody, "not all bans are back, or the new one does not arrive")
        assert "dport 25" in run("nft", "list", "table", "inet", "theirs")

    def _is(rules: str) -> bool:
        return has_table() and run("nft", "list", "chain", "inet", "appguard", "prerouting") == rules

    asyncio.run(scene())


@pytest.fixture
def neighbours() -> Iterator[Machine]:
    """Give a machine on our link that is our gateway by its link-local address."""
    with joined("gateway", ["2001:db8:c::1/64"], ["2001:db8:c::2/64", "fe80::2/64"]) as machine:
        run("ip", "-6", "route", "add", "default", "via", "fe80::2", "dev", "gateway")
        yield machine
        run("ip", "-6", "route", "delete", "default", "via", "fe80::2", "dev", "gateway")


def test_a_link_local_gateway_and_the_link_are_never_cut_off(neighbours: Machine) -> None:
    """The link's /64 and the gateway are refused; a host on the link is banned alone, and the way out lives on.

    So is one behind NAT64, whose packets come from a prefix it shares with all others there.
    """
    judge = Judge(read_host_facts())
    for text in ("2001:db8:c::/64", "fe80::/64", "fe80::2", "2001:db8:c::1", "::/0", "64:ff9b::/96"):
        with pytest.raises(RefusedForSafety):
            judge.check(Ban.of(text))
    ban_set = MemoryBanSet()
    ban_set.ban(Ban.of("2001:db8:c::2"))
    ban_set.ban(Ban.of("64:ff9b::203.0.113.5"))  # one host behind NAT64
    asyncio.run(Bouncer(ban_set, Nftables(), judge).settle())
    assert banned().keys() == {"2001:db8:c::2", "64:ff9b::cb00:7105"}
    run("ip", "-6", "neighbour", "flush", "dev", "gateway")
    with socket.create_server(("::", PORT), family=socket.AF_INET6):
        assert not answers(neighbours, "2001:db8:c::1", PORT, "2001:db8:c::2", WITHIN)
        neighbours.configure("address add 2001:db8:c::3/64 dev eth0 nodad")
        assert answers(neighbours, "2001:db8:c::1", PORT, "2001:db8:c::3")
        for host in ("64:ff9b::cb00:7105", "64:ff9b::cb00:7106"):
            neighbours.configure(f"address add {host}/128 dev eth0 nodad")
        assert not answers(neighbours, "2001:db8:c::1", PORT, "64:ff9b::cb00:7105", WITHIN)
        assert answers(neighbours, "2001:db8:c::1", PORT, "64:ff9b::cb00:7106")
    with neighbours.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as theirs:
        theirs.bind(("2001:db8:c::2", 443))
        theirs.listen()
        socket.create_connection(("2001:db8:c::2", 443), timeout=5).close()
