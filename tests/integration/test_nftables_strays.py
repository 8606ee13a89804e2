"""A banned client cannot come in as the answer to packets of ours: nothing but a SYN opens a connection to it."""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.firewalls.base import Block
from appguard.firewalls.nft_messages import counters
from appguard.firewalls.nftables import TABLE, Nftables
from tests.lab import wait_until
from tests.machine import Machine
from tests.netns import joined, network

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6 = "198.51.100.2", "2001:db8:a::2"
CONTAINER = "10.99.0.2"
PORT = 80
ACK, RST = 0x10, 0x04


@pytest.fixture(scope="module")
def attacker() -> Iterator[Machine]:
    """Give a machine on a link of its own, whose other network is a container of ours."""
    with joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], [f"{ATTACKER}/24", f"{ATTACKER6}/64"]) as machine:
        machine.run("ip", "route", "add", "10.99.0.0/24", "via", HERE)
        yield machine


@pytest.fixture
def firewall() -> Iterator[Nftables]:
    """Give nftables with our table empty, and take the table away."""
    made = Nftables()
    asyncio.run(made.replace([], []))
    yield made
    asyncio.run(made.lift())


def ban(firewall: Nftables, *texts: str) -> None:
    """Shut networks out."""
    asyncio.run(firewall.change([Block.of(network(text), None) for text in texts], []))


def strays() -> int:
    """Give the number of our packets that were kept from opening a connection."""
    return counters(TABLE)["strays"][0]


def segment(source: tuple[str, int], target: tuple[str, int], numbers: tuple[int, int], flags: int) -> bytes:
    """Give a TCP header without data; `numbers` are its sequence and acknowledgement numbers."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    header = struct.pack("!HHIIBBHHH", source[1], target[1], *numbers, 5 << 4, flags, 1024, 0, 0)
    addresses = socket.inet_pton(family, source[0]) + socket.inet_pton(family, target[0])
    pseudo = addresses + struct.pack("!II", len(header), socket.IPPROTO_TCP) + header
    total = sum(word for (word,) in struct.iter_unpack("!H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header[:16] + struct.pack("!H", checksum) + header[18:]


def send_ack(source: str, target: str, machine: Machine | None = None) -> None:
    """Send data's first packet of a connection that conntrack has never seen, from here or from a machine."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    kind = (family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with machine.open_socket(*kind) if machine else socket.socket(*kind) as raw:
        raw.bind((source, 0))
        try:
            raw.sendto(segment((source, PORT), (target, 40_000), (1, 1), ACK), (target, 0))
        except PermissionError:
            assert machine is None, "dropped on its own way out: only our table does that, and it is here"


@pytest.mark.usefixtures("attacker")
@pytest.mark.parametrize(
    ("blocked", "source", "target"),
    [
        (ATTACKER, HERE, ATTACKER),
        ("198.51.100.0/30", HERE, ATTACKER),
        (ATTACKER6, HERE6, ATTACKER6),
        ("2001:db8:a::/64", HERE6, ATTACKER6),
        ("2001:db8::/32", HERE6, ATTACKER6),
    ],
)
def test_only_a_syn_opens_a_connection_to_a_banned_address(
    firewall: Nftables, blocked: str, source: str, target: str
) -> None:
    """Whatever kind of block covers it, data of a connection nobody knows does not go out to a banned address."""
    send_ack(source, target)
    assert strays() == 0
    ban(firewall, blocked)
    send_ack(source, target)
    assert strays() == 1


def test_the_same_holds_for_containers(firewall: Nftables, attacker: Machine) -> None:
    """Data of a container's forgotten connection is kept back on its way through this host."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with joined("container", ["10.99.0.1/24"], [f"{CONTAINER}/24"]) as container:
        container.run("ip", "route", "add", "default", "via", "10.99.0.1")
        with attacker.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as theirs:
            theirs.settimeout(5)
            send_ack(CONTAINER, ATTACKER, container)
            assert theirs.recv(100)
            ban(firewall, ATTACKER)
            theirs.settimeout(0.2)
            send_ack(CONTAINER, ATTACKER, container)
            with pytest.raises(TimeoutError):
                theirs.recv(100)
            assert strays() == 1
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


@pytest.mark.usefixtures("attacker")
def test_those_let_in_and_loopback_are_exempt(firewall: Nftables) -> None:
    """Packets to those always let in, and to ourselves, go out inside a banned network too."""
    blocks = [Block.of(network(text), None) for text in ("198.51.100.0/24", "2001:db8:a::/64", HERE, HERE6)]
    asyncio.run(firewall.replace([network(ATTACKER), network(ATTACKER6)], blocks))
    send_ack(HERE, ATTACKER)
    send_ack(HERE6, ATTACKER6)
    send_ack(HERE, HERE)
    send_ack(HERE6, HERE6)
    assert strays() == 0


@pytest.fixture
def short_memory() -> Iterator[None]:
    """Let conntrack forget a TCP connection one second after its reset."""
    closed_for = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close")
    before = closed_for.read_text()
    closed_for.write_text("1")
    yield
    closed_for.write_text(before)


@pytest.mark.usefixtures("short_memory")
def test_a_reset_does_not_turn_an_established_connection_round(firewall: Nftables, attacker: Machine) -> None:
    """A banned client that makes conntrack forget its connection does not come in again as the answer to our data."""
    with (
        socket.create_server((HERE, PORT)) as server,
        attacker.connect(HERE, PORT, ATTACKER) as client,
        server.accept()[0] as served,
    ):
        client.sendall(b"hello")
        assert served.recv(100) == b"hello"
        ban(firewall, ATTACKER)
        send_reset(attacker, client)

        def our_data_is_kept_back() -> bool:
            served.sendall(b"data of ours")
            time.sleep(0.05)
            return strays() > 0

        wait_until(our_data_is_kept_back, 5, "conntrack still knows the connection, or took it for one of ours")
        client.sendall(b"evil")
        served.settimeout(0.5)
        with pytest.raises(TimeoutError):
            served.recv(100)


def send_reset(machine: Machine, client: socket.socket) -> None:
    """Send a reset with the right numbers that the client's own TCP knows nothing of."""
    repair, queue, queue_sequence, receive, send = 19, 20, 21, 1, 2  # TCP_REPAIR and its siblings of linux/tcp.h
    client.setsockopt(socket.IPPROTO_TCP, repair, 1)
    numbers: list[int] = []
    for which in (send, receive):
        client.setsockopt(socket.IPPROTO_TCP, queue, which)
        numbers.append(client.getsockopt(socket.IPPROTO_TCP, queue_sequence) & 0xFFFFFFFF)
    client.setsockopt(socket.IPPROTO_TCP, repair, -1)  # off, without a probe to the other side
    with machine.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        reset = segment(client.getsockname(), client.getpeername(), (numbers[0], numbers[1]), RST | ACK)
        raw.sendto(reset, (HERE, 0))
