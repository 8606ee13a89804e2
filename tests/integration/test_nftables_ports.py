"""Bans of some ports alone in the kernel, by packets: these ports are shut, the others serve; and what jails count."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.errors import FirewallFullError
from appguard.firewalls.base import Block, Count
from appguard.firewalls.nftables import Nftables
from tests.machine import Machine
from tests.netns import answers, joined, listening, network, run

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6, OTHER = "198.51.100.2", "2001:db8:a::2", "198.51.100.3"
SSH = "tcp/22"
WITHIN = 0.3
PUBLISHED = """
table ip docker {
    chain in { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 10.99.0.2:8000; }
}
"""


@pytest.fixture(params=["netlink", "netlink without destroy", "nft"])
def firewall(request: pytest.FixtureRequest) -> Iterator[Nftables]:
    """Give each way to the kernel, with an empty table."""
    transport = str(request.param).split(" ", maxsplit=1)[0]
    made = Nftables(transport=transport, destroy=False if "without" in str(request.param) else None)
    asyncio.run(made.replace([], []))
    yield made
    asyncio.run(made.lift())


@pytest.fixture
def attacker() -> Iterator[Machine]:
    """Give a machine with addresses of both families."""
    there = [f"{ATTACKER}/24", f"{OTHER}/24", f"{ATTACKER6}/64"]
    with joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], there) as machine:
        yield machine


@pytest.fixture
def container() -> Iterator[Machine]:
    """Give a container as Docker makes one: its port 8000 published as our port 8080."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    forward.write_text("1")
    with joined("container", ["10.99.0.1/24"], ["10.99.0.2/24"]) as machine:
        machine.run("ip", "route", "add", "default", "via", "10.99.0.1")
        run("nft", "-f", "-", text=PUBLISHED)
        yield machine
        run("nft", "delete table ip docker")
    forward.write_text("0")


def block(text: str, ports: str = SSH, jail: str = "sshd", seconds: float = 600) -> Block:
    """Make a block of some ports."""
    return Block.of(network(text), time.time() + seconds, ports, jail)


def change(firewall: Nftables, *add: Block, remove: tuple[Block, ...] = ()) -> None:
    """Change what the firewall holds; its table stays known as ours."""
    asyncio.run(firewall.change(add, remove))
    assert asyncio.run(firewall.intact())


@pytest.mark.parametrize(
    ("banned", "source", "here"),
    [
        (ATTACKER, ATTACKER, HERE),
        ("198.51.100.0/30", ATTACKER, HERE),
        ("2001:db8:a::/64", ATTACKER6, HERE6),
        (ATTACKER6, ATTACKER6, HERE6),
        ("2001:db8:a::/60", ATTACKER6, HERE6),
    ],
)
def test_a_ban_of_a_port_leaves_the_others(
    firewall: Nftables, attacker: Machine, banned: str, source: str, here: str
) -> None:
    """Whatever network is banned from port 22, by a change and by a replace: that is shut, and port 80 serves."""
    with listening("::" if ":" in here else "0.0.0.0", 22), listening("::" if ":" in here else "0.0.0.0", 80):
        assert answers(attacker, here, 22, source)
        change(firewall, block(banned))
        assert not answers(attacker, here, 22, source, WITHIN)
        assert answers(attacker, here, 80, source)
        asyncio.run(firewall.replace([], [block(banned, "tcp+udp/80,8000-8010")]))
        assert not answers(attacker, here, 80, source, WITHIN)
        assert answers(attacker, here, 22, source)
        change(firewall, remove=(block(banned, "tcp+udp/80,8000-8010"),))
        assert answers(attacker, here, 80, source)


def test_two_jails_may_ban_one_address_from_different_ports(firewall: Nftables, attacker: Machine) -> None:
    """Each ban holds its own ports and ends by itself, also where a port stands in both lists."""
    ssh, both = block(ATTACKER), block(ATTACKER, "tcp/22,80", "web")
    with listening("0.0.0.0", 22), listening("0.0.0.0", 80), listening("0.0.0.0", 81):
        change(firewall, ssh, both)
        assert not answers(attacker, HERE, 80, ATTACKER, WITHIN)
        assert answers(attacker, HERE, 81, ATTACKER)
        change(firewall, remove=(both,))
        assert not answers(attacker, HERE, 22, ATTACKER, WITHIN)
        assert answers(attacker, HERE, 80, ATTACKER)
        change(firewall, remove=(ssh,))
        assert answers(attacker, HERE, 22, ATTACKER)


def test_a_ban_of_all_tcp_leaves_udp(firewall: Nftables, attacker: Machine) -> None:
    """A protocol without ports is all of it: no TCP connection, and UDP goes on."""
    change(firewall, block(ATTACKER, "tcp"))
    with listening("0.0.0.0", 80), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind((HERE, 9))
        ours.settimeout(5)
        assert not answers(attacker, HERE, 80, ATTACKER, WITHIN)
        with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((ATTACKER, 0))
            udp.sendto(b"x", (HERE, 9))
        assert ours.recv(1) == b"x"


def test_an_established_connection_to_a_banned_port_stops(firewall: Nftables, attacker: Machine) -> None:
    """What a client sends on a connection it had before no longer arrives; to other ports it does."""
    with listening(HERE, 22) as ssh, listening(HERE, 80) as web:
        shut, served = attacker.connect(HERE, 22, ATTACKER), attacker.connect(HERE, 80, ATTACKER)
        with shut, served, ssh.accept()[0] as ours, web.accept()[0] as our_web:
            change(firewall, block(ATTACKER))
            shut.sendall(b"x")
            served.sendall(b"x")
            our_web.settimeout(5)
            assert our_web.recv(1) == b"x"
            ours.settimeout(WITHIN)
            with pytest.raises(TimeoutError):
                ours.recv(1)


def test_a_published_port_is_the_one_that_clients_dial(
    firewall: Nftables, attacker: Machine, container: Machine
) -> None:
    """Behind DNAT a ban is about the port on this host, not the container's own."""
    with container.open_socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("10.99.0.2", 8000))
        server.listen()
        change(firewall, block(ATTACKER, "tcp/8000"))
        assert answers(attacker, HERE, 8080, ATTACKER)
        change(firewall, block(ATTACKER, "tcp/8080"))
        assert not answers(attacker, HERE, 8080, ATTACKER, WITHIN)
        assert answers(attacker, HERE, 8080, OTHER)


def test_jails_count_what_they_drop(firewall: Nftables, attacker: Machine) -> None:
    """Packets and bytes are counted for the jail of the ban, of all ports or some, and a new jail takes over."""
    change(firewall, block(ATTACKER), Block.of(network(OTHER), None, jail="probes"))
    with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((OTHER, 0))
        for _ in range(10):
            udp.sendto(b"x" * 72, (HERE, 9))
    assert asyncio.run(firewall.counts())["probes"] == Count(10, 1000)
    assert not answers(attacker, HERE, 22, ATTACKER, WITHIN)
    assert asyncio.run(firewall.counts())["sshd"].packets >= 1
    held = Block.of(network(OTHER), None, jail="probes")
    change(firewall, Block.of(network(OTHER), None, jail="web"), remove=(held,))
    with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((OTHER, 0))
        udp.sendto(b"x", (HERE, 9))
    counts = asyncio.run(firewall.counts())
    assert counts["web"].packets == 1
    assert counts["probes"].packets == 10
    assert asyncio.run(firewall.dropped()) == sum(each.packets for each in counts.values())


def test_an_ended_block_makes_no_list_of_ports(firewall: Nftables) -> None:
    """The first ban of some ports is a change of ours, also after one of the same ports that had ended at the load."""
    asyncio.run(firewall.replace([], [block(ATTACKER, seconds=-1)]))
    change(firewall, block(ATTACKER))


@pytest.mark.parametrize("transport", ["netlink", "nft"])
def test_a_full_set_of_some_ports_is_told_apart(transport: str) -> None:
    """It is said which ports the full set is about; there is still room for bans of others."""
    firewall = Nftables(transport=transport, size=2)
    asyncio.run(firewall.replace([], [block(f"203.0.113.{number}") for number in (1, 2)]))
    with pytest.raises(FirewallFullError) as raised:
        asyncio.run(firewall.change([block("203.0.113.3")], []))
    assert (raised.value.version, raised.value.prefixlen, raised.value.ports) == (4, 32, SSH)
    asyncio.run(firewall.change([block("203.0.113.3", "tcp/80")], []))
    asyncio.run(firewall.lift())
