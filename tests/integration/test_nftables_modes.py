"""What the settings make of the nftables table: rejecting, logging, counting, and cutting the way out."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from appguard.firewalls.base import Block
from appguard.firewalls.nftables import Nftables
from tests.lab import Process, running, wait_until
from tests.machine import Machine
from tests.netns import answers, joined, listening, network, run

pytestmark = pytest.mark.lab

HERE, HERE6 = "198.51.100.1", "2001:db8:a::1"
ATTACKER, ATTACKER6, OTHER = "198.51.100.2", "2001:db8:a::2", "198.51.100.3"
WITHIN = 0.3
TRACING = """
table inet tracing {
    chain in { type filter hook prerouting priority -400; udp dport 9 meta nftrace set 1; }
}
"""


@pytest.fixture(params=["netlink", "nft"])
def transport(request: pytest.FixtureRequest) -> str:
    """Give each way to the kernel."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_table() -> Iterator[None]:
    """Leave no table behind."""
    yield
    run("nft", "flush ruleset")


@pytest.fixture
def attacker() -> Iterator[Machine]:
    """Give a machine with addresses of both families."""
    there = [f"{ATTACKER}/24", f"{OTHER}/24", f"{ATTACKER6}/64"]
    with joined("attacker", [f"{HERE}/24", f"{HERE6}/64"], there) as machine:
        yield machine


def banning(firewall: Nftables) -> Nftables:
    """Give it with the attacker's addresses banned."""
    blocks = [Block.of(network(text), time.time() + 600) for text in (ATTACKER, "2001:db8:a::/64")]
    asyncio.run(firewall.replace([], blocks))
    assert asyncio.run(firewall.intact())
    return firewall


def sends_until_refused(udp: socket.socket, most: int) -> int:
    """Give how many packets were sent until ICMP refused one: the kernel answers one peer only so often."""
    for sent in range(1, most + 1):
        udp.send(b"x")
        try:
            udp.recv(1)
        except TimeoutError:
            continue
        except ConnectionRefusedError:
            return sent
    raise AssertionError("not refused")


@pytest.mark.parametrize(("source", "here"), [(ATTACKER, HERE), (ATTACKER6, HERE6)])
def test_reject_answers_and_shuts_out(transport: str, attacker: Machine, source: str, here: str) -> None:
    """A rejected client is told at once, by a reset or by ICMP, and counted; others are served."""
    firewall = banning(Nftables(transport=transport, block="reject"))
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with listening("::" if ":" in here else "0.0.0.0", 80):
        with pytest.raises(ConnectionRefusedError):
            attacker.connect(here, 80, source, within=5)
        with attacker.open_socket(family, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.5)
            udp.bind((source, 0))
            udp.connect((here, 9))
            sent = sends_until_refused(udp, most=20)
        assert 1 + sent <= asyncio.run(firewall.dropped()) <= 10 + sent  # more where the reset was not sent at once
        if here == HERE:
            assert answers(attacker, HERE, 80, OTHER)


def test_reject_answers_a_flood_seldom(attacker: Machine) -> None:
    """No more than a few hundred of thousands of packets are answered; all are dropped."""
    firewall = banning(Nftables(block="reject"))
    flood = 5_000
    with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((ATTACKER, 0))
        for _ in range(flood):
            udp.sendto(b"x", (HERE, 9))
    assert flood <= asyncio.run(firewall.dropped()) < flood + 20  # a closed connection may still send its last packets
    received = attacker.run("cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in received if line.startswith("Icmp:"))
    assert int(values[names.index("InDestUnreachs")]) < 1_000


def test_an_established_connection_is_reset(attacker: Machine) -> None:
    """With reject a banned client's connection ends with a reset when it sends."""
    firewall = Nftables(block="reject")
    asyncio.run(firewall.replace([], []))
    with listening(HERE, 80) as server, attacker.connect(HERE, 80, ATTACKER) as client, server.accept()[0]:
        asyncio.run(firewall.change([Block.of(network(ATTACKER), time.time() + 600)], []))
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_count_lets_in_and_counts(transport: str, attacker: Machine) -> None:
    """Counting is a dry run with real packets: what would be dropped is counted once each and served."""
    firewall = banning(Nftables(transport=transport, block="count"))
    assert firewall.name == "nftables (counts only)"
    with listening("0.0.0.0", 80):
        assert answers(attacker, HERE, 80, ATTACKER)
    before = asyncio.run(firewall.dropped())
    with attacker.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((ATTACKER, 0))
        for _ in range(10):
            udp.sendto(b"x", (HERE, 9))
    assert asyncio.run(firewall.dropped()) - (before or 0) == 10


@pytest.mark.parametrize(("source", "here"), [(ATTACKER, HERE), (ATTACKER6, HERE6)])
def test_dropped_packets_come_to_the_rule_that_logs(transport: str, attacker: Machine, source: str, here: str) -> None:
    """The kernel traces them into it and on to the drop; into its log it writes those of the first namespace alone."""
    banning(Nftables(transport=transport, block="log"))
    run("nft", "-f", "-", text=TRACING)
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with (
        running(Process("trace", ["nft", "monitor", "trace"])) as trace,
        attacker.open_socket(family, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind((source, 0))
        wait_until(lambda: udp.sendto(b"x", (here, 9)) and trace.lines(), 10, "nothing is traced")
        trace.wait_for(
            'refuse rule limit rate 10/second burst 20 packets log prefix "appguard ban: " (verdict continue)'
        )
        trace.wait_for("refuse rule drop (verdict drop)")


def test_log_drops_as_well(transport: str, attacker: Machine) -> None:
    """A client whose packets are logged is shut out like any other."""
    firewall = banning(Nftables(transport=transport, block="log"))
    with listening("0.0.0.0", 80):
        assert not answers(attacker, HERE, 80, ATTACKER, WITHIN)
        assert answers(attacker, HERE, 80, OTHER)
    assert asyncio.run(firewall.dropped())
    assert 'log prefix "appguard ban: "' in run("nft", "list", "chain", "inet", "appguard", "refuse")


@pytest.mark.parametrize("outbound", ["keep", "cut"])
def test_the_way_out(transport: str, attacker: Machine, outbound: str) -> None:
    """This host reaches a banned address with outbound = keep, and does not with cut; the ban holds with both."""
    banning(Nftables(transport=transport, outbound=outbound))
    with attacker.open_socket(socket.AF_INET, socket.SOCK_STREAM) as theirs, listening("0.0.0.0", 80):
        theirs.bind((ATTACKER, 443))
        theirs.listen()
        if outbound == "keep":
            socket.create_connection((ATTACKER, 443), timeout=5).close()
        else:
            with pytest.raises(TimeoutError):
                socket.create_connection((ATTACKER, 443), timeout=WITHIN)
        assert not answers(attacker, HERE, 80, ATTACKER, WITHIN)
        assert answers(attacker, HERE, 80, OTHER)
