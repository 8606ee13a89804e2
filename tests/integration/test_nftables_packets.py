"""What nftables does to packets: an attacker and a neighbour, each on a link of its own, IPv4 and IPv6."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.firewalls.base import Block
from appguard.firewalls.nftables import Nftables
from tests.lab import wait_until
from tests.machine import Machine
from tests.netns import answers, banned, joined, listening, network, run

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"  # as the attacker knows this host
ATTACKER, ATTACKER6 = "198.51.100.2", "2001:db8:a::2"
ATTACKER_SECOND, ATTACKER6_SECOND = "198.51.100.3", "2001:db8:a::3"
PORT = 80
REFUSED_WITHIN = 0.3  # an answer comes within a millisecond; that the packet was dropped is also counted


@pytest.fixture(scope="module")
def attacker() -> Iterator[Machine]:
    """Give a machine with two addresses per family on a link of its own."""
    here = [f"{HERE}/24", f"{HERE6}/64"]
    there = [f"{ATTACKER}/24", f"{ATTACKER_SECOND}/24", f"{ATTACKER6}/64", f"{ATTACKER6_SECOND}/64"]
    with joined("attacker", here, there) as machine:
        yield machine


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Machine]:
    """Give an honest machine on another link."""
    with joined("neighbour", ["192.0.2.1/24", "2001:db8:b::1/64"], ["192.0.2.2/24", "2001:db8:b::2/64"]) as machine:
        yield machine


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Give a server that listens on all addresses of both families."""
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        made.settimeout(5)
        yield made


@pytest.fixture
def firewall() -> Iterator[Nftables]:
    """Give nftables with our table empty, and take the table away."""
    made = Nftables()
    asyncio.run(made.replace([], []))
    yield made
    asyncio.run(made.lift())


def ban(firewall: Nftables, *texts: str, seconds: float = 600) -> None:
    """Shut networks out."""
    asyncio.run(firewall.change([Block.of(network(text), time.time() + seconds) for text in texts], []))


def unban(firewall: Nftables, *texts: str) -> None:
    """Let networks in."""
    asyncio.run(firewall.change([], [Block.of(network(text), None) for text in texts]))


def dropped(firewall: Nftables) -> int:
    """Give the number of packets dropped so far."""
    return asyncio.run(firewall.dropped())


def is_shut_out(firewall: Nftables, machine: Machine, source: str, port: int = PORT) -> bool:
    """Say whether a connection from there gets no answer because its packets were dropped."""
    before = dropped(firewall)
    here = HERE6 if ":" in source else HERE
    return not answers(machine, here, port, source, REFUSED_WITHIN) and dropped(firewall) > before


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("blocked", "source"),
    [
        (ATTACKER, ATTACKER),
        ("198.51.100.0/30", ATTACKER),
        (ATTACKER6, ATTACKER6),
        ("2001:db8:a::/64", ATTACKER6),
        ("2001:db8:a::/64", ATTACKER6_SECOND),
        ("2001:db8::/44", ATTACKER6),
        ("2001:db8:a::/126", ATTACKER6),
    ],
)
def test_a_banned_address_is_dropped(firewall: Nftables, attacker: Machine, blocked: str, source: str) -> None:
    """Every kind of block drops the packets of what it covers, and lifting it lets them in again."""
    here = HERE6 if ":" in source else HERE
    assert answers(attacker, here, source=source)
    ban(firewall, blocked)
    assert is_shut_out(firewall, attacker, source)
    unban(firewall, blocked)
    assert answers(attacker, here, source=source)


@pytest.mark.usefixtures("server")
def test_others_are_served(firewall: Nftables, attacker: Machine, neighbour: Machine) -> None:
    """Neighbours are served, and so is another address of the attacker's machine or /64 where one host is banned."""
    ban(firewall, ATTACKER, ATTACKER6, "203.0.113.0/24", "2001:db8:c::/48")
    assert is_shut_out(firewall, attacker, ATTACKER)
    assert is_shut_out(firewall, attacker, ATTACKER6)
    assert answers(neighbour, "192.0.2.1")
    assert answers(neighbour, "2001:db8:b::1")
    assert answers(attacker, HERE, source=ATTACKER_SECOND)
    assert answers(attacker, HERE6, source=ATTACKER6_SECOND)


@pytest.mark.usefixtures("server")
def test_those_let_in_are_served_inside_a_banned_network(firewall: Nftables, attacker: Machine) -> None:
    """The list of those always let in goes before every ban."""
    allow = [network(ATTACKER), network(ATTACKER6)]
    blocks = [Block.of(network(text), None) for text in (ATTACKER, "198.51.0.0/16", "2001:db8:a::/64", "2001:db8::/32")]
    asyncio.run(firewall.replace(allow, blocks))
    assert answers(attacker, HERE, source=ATTACKER)
    assert answers(attacker, HERE6, source=ATTACKER6)
    assert is_shut_out(firewall, attacker, ATTACKER_SECOND)
    assert is_shut_out(firewall, attacker, ATTACKER6_SECOND)


@pytest.mark.parametrize(("source", "here"), [(ATTACKER, HERE), (ATTACKER6, HERE6)])
def test_an_established_connection_stops(
    firewall: Nftables, attacker: Machine, server: socket.socket, source: str, here: str
) -> None:
    """What a banned client sends on a connection it already has does not arrive until the ban is lifted."""
    with attacker.connect(here, PORT, source) as client, server.accept()[0] as served:
        client.sendall(b"before")
        assert served.recv(100) == b"before"
        ban(firewall, source)
        client.sendall(b"after")
        wait_until(lambda: dropped(firewall) > 0, 5, "nothing was dropped")
        served.settimeout(0.1)
        with pytest.raises(TimeoutError):
            served.recv(100)
        unban(firewall, source)
        served.settimeout(5)
        assert served.recv(100) == b"after"  # sent again by TCP: it was the ban that held it up


@pytest.mark.parametrize(("banned_address", "here"), [(ATTACKER, HERE), (ATTACKER6, HERE6)])
def test_this_host_still_reaches_a_banned_address(
    firewall: Nftables, attacker: Machine, banned_address: str, here: str
) -> None:
    """Connections we open to a banned address work, while its own are dropped."""
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    ban(firewall, banned_address)
    with attacker.open_socket(family, socket.SOCK_STREAM) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind((banned_address, PORT))
        there.listen()
        there.settimeout(5)
        with socket.create_connection((banned_address, PORT), timeout=5) as ours, there.accept()[0] as served:
            served.sendall(b"welcome")
            assert ours.recv(100) == b"welcome"
    assert dropped(firewall) == 0
    assert is_shut_out(firewall, attacker, banned_address)


def test_neighbour_discovery_lives(firewall: Nftables, attacker: Machine) -> None:
    """A banned /64 on our own link still finds us and is found, so the link does not die under a ban."""
    ban(firewall, "2001:db8:a::/64", "2001:db8:a::/60")
    run("ip", "-6", "neighbour", "flush", "dev", "attacker")
    attacker.run("ip", "-6", "neighbour", "flush", "dev", "eth0")
    assert is_shut_out(firewall, attacker, ATTACKER6)
    assert "lladdr" in attacker.run("ip", "-6", "neighbour", "show", HERE6)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
        ours.sendto(b"x", (ATTACKER6, 9))
    wait_until(lambda: "lladdr" in run("ip", "-6", "neighbour", "show", ATTACKER6), 5, "no answer to our solicitation")


def test_neighbour_discovery_from_afar_is_no_way_in(firewall: Nftables, attacker: Machine) -> None:
    """A discovery packet that went through a router (hop limit below 255) is dropped like any other."""
    ban(firewall, ATTACKER6)
    solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, HERE6)
    with attacker.open_socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.bind((ATTACKER6, 0))
        assert is_shut_out(firewall, attacker, ATTACKER6)  # the address of the link is known from here on
        for hops, grows in ((255, False), (64, True)):
            before = dropped(firewall)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
            raw.sendto(solicitation, (HERE6, 0))
            assert (dropped(firewall) > before) is grows


@pytest.mark.usefixtures("attacker", "server")
def test_loopback_is_untouched(firewall: Nftables) -> None:
    """What this host sends itself passes even if somebody had its own addresses banned."""
    ban(firewall, "127.0.0.1", "::1", HERE, HERE6, "198.51.100.0/24")
    for address in ("127.0.0.1", "::1", HERE, HERE6):
        socket.create_connection((address, PORT), timeout=5).close()


@pytest.mark.usefixtures("server")
def test_a_ban_ends_in_the_kernel_by_itself(firewall: Nftables, attacker: Machine) -> None:
    """Bans of every kind end at their time although nobody does anything."""
    ban(firewall, ATTACKER, "2001:db8:a::/64", ATTACKER6, "198.51.100.0/24", "2001:db8::/48", seconds=1.5)
    ban(firewall, "203.0.113.1")
    assert is_shut_out(firewall, attacker, ATTACKER)
    assert is_shut_out(firewall, attacker, ATTACKER6)
    wait_until(lambda: answers(attacker, HERE, source=ATTACKER, within=REFUSED_WITHIN), 5, "the IPv4 ban goes on")
    wait_until(lambda: answers(attacker, HERE6, source=ATTACKER6, within=REFUSED_WITHIN), 5, "the IPv6 ban goes on")
    assert banned().keys() == {"203.0.113.1"}


def test_every_dropped_packet_is_counted(firewall: Nftables, attacker: Machine) -> None:
    """The count is exact, and goes on when the table is made anew, by whomever it was there, or was taken away."""
    ban(firewall, ATTACKER, "198.51.100.0/24")
    for source in (ATTACKER, ATTACKER_SECOND):
        with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.bind((source, 0))
            for _ in range(50):
                flood.sendto(b"x", (HERE, 9))
    assert dropped(firewall) == 100
    asyncio.run(firewall.replace([], [Block.of(network(ATTACKER), None)]))
    assert dropped(firewall) == 100
    run("nft", "delete table inet appguard")
    asyncio.run(firewall.replace([], [Block.of(network(ATTACKER), None, jail="web")]))
    with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.bind((ATTACKER, 0))
        flood.sendto(b"x", (HERE, 9))
    assert dropped(firewall) == 101
    after = Nftables()
    asyncio.run(after.replace([], []))
    assert {jail: count.packets for jail, count in asyncio.run(after.counts()).items()} == {"": 0, "web": 1}


@pytest.mark.parametrize("others", [0, 5_000])
@pytest.mark.parametrize("blocked", [ATTACKER, "198.51.100.0/30"])
def test_replace_opens_no_gap(firewall: Nftables, attacker: Machine, others: int, blocked: str) -> None:
    """While the table is loaded anew again and again, a banned client that sends all the time is not heard.

    Nor is it while so many others go before it that the load takes many slices.
    """
    texts = [*(f"10.0.{number // 250}.{number % 250}" for number in range(others)), "203.0.113.0/24", blocked]
    blocks = [Block.of(network(text), None) for text in texts]
    asyncio.run(firewall.replace([], blocks))
    stop = threading.Event()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
    ):
        ours.bind((HERE, 9))
        ours.settimeout(0.1)
        flood.bind((ATTACKER, 0))
        sent = 0

        def send() -> None:
            nonlocal sent
            while not stop.wait(0.0001):
                flood.sendto(b"x", (HERE, 9))
                sent += 1

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(20):
            asyncio.run(firewall.replace([], blocks))
        stop.set()
        sender.join()
        with pytest.raises(TimeoutError):
            ours.recv(100)
    assert sent > 100


PUBLISHED = """
table ip docker {
    chain in { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 10.99.0.2:8000; }
    chain out { type nat hook postrouting priority srcnat; iifname container masquerade; }
}
"""


@pytest.fixture
def container() -> Iterator[Machine]:
    """Give a container as Docker makes one: behind a bridge address, its port 8000 published as our port 8080."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    forward.write_text("1")
    with joined("container", ["10.99.0.1/24"], ["10.99.0.2/24"]) as machine:
        machine.run("ip", "route", "add", "default", "via", "10.99.0.1")
        run("nft", "-f", "-", text=PUBLISHED)
        yield machine
        run("nft", "delete table ip docker")
    forward.write_text("0")


def test_a_published_container_port_is_covered(
    firewall: Nftables, attacker: Machine, neighbour: Machine, container: Machine
) -> None:
    """A ban covers ports published by DNAT, and the container still reaches the banned address."""
    with container.open_socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("10.99.0.2", 8000))
        server.listen()
        assert answers(attacker, HERE, 8080, ATTACKER)
        ban(firewall, ATTACKER)
        assert is_shut_out(firewall, attacker, ATTACKER, port=8080)
        assert answers(neighbour, "192.0.2.1", 8080)
        with attacker.open_socket(socket.AF_INET, socket.SOCK_STREAM) as theirs:
            theirs.bind((ATTACKER, 443))
            theirs.listen()
            assert answers(container, ATTACKER, 443)


def test_bans_of_one_family_leave_the_other(firewall: Nftables, attacker: Machine) -> None:
    """IPv4 bans never touch IPv6 and the reverse."""
    with listening("::", PORT):
        ban(firewall, "198.51.0.0/16")
        assert answers(attacker, HERE6, source=ATTACKER6)
    with listening("0.0.0.0", PORT):
        unban(firewall, "198.51.0.0/16")
        ban(firewall, "2001:db8::/32")
        assert answers(attacker, HERE, source=ATTACKER)
