"""Syslog over UDP: who may send, what is delivered, and what the kernel had to throw away."""

import socket
import time
from pathlib import Path
from subprocess import run

import pytest

from appguard.address import parse_address, parse_network
from appguard.errors import SourceError
from appguard.sources.syslog import SyslogPort
from tests.daemon import Place, login_failure, running_daemon
from tests.integration.reading import Kept, running
from tests.lab import free_port, wait_until

HEADER = b"<190>Nov 20 08:31:47 shop: "


def port_of(address: str = "127.0.0.1", *peers: str) -> tuple[SyslogPort, int]:
    """Give a source on a free port, bound."""
    port = free_port(address, socket.SOCK_DGRAM)
    source = SyslogPort("udp", parse_address(address), port, [parse_network(peer) for peer in peers])
    source.open()
    return source, port


def send(port: int, *datagrams: bytes, to: str = "127.0.0.1", by: str = "127.0.0.1") -> None:
    """Send datagrams from an address."""
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((by, 0))
        for datagram in datagrams:
            sender.sendto(datagram, (to, port))


def test_logger_is_heard_in_both_forms() -> None:
    """What util-linux's logger sends as RFC 3164 and as RFC 5424 is delivered as its line, with its time."""
    source, port = port_of()
    kept, began = Kept(), time.time()
    with running(source, kept) as running_source:
        for form in ("--rfc3164", "--rfc5424"):
            run(
                ["logger", form, "--server=127.0.0.1", f"--port={port}", "--udp", "-t", "shop", f"by {form}"],
                check=True,
            )
        kept.wait_for([b"by --rfc3164", b"by --rfc5424"])
        assert running_source.status().origins == (f"udp://127.0.0.1:{port}",)
    times = [stamp for chunk in kept.chunks for stamp in chunk.times or ()]
    assert len(times) == 2 and all(began - 2 <= stamp <= time.time() for stamp in times)
    assert {chunk.uid for chunk in kept.chunks} == {None}


@pytest.mark.parametrize(("address", "origin"), [("127.0.0.1", "udp://127.0.0.1"), ("::1", "udp://[::1]")])
def test_the_loopback_admits_this_host(address: str, origin: str) -> None:
    """On the loopback whoever is on this host may send, by IPv4 and by IPv6."""
    source, port = port_of(address)
    kept = Kept()
    with running(source, kept):
        send(port, HEADER + b"a", b"garbage", HEADER + b"b", to=address, by=address)
        kept.wait_for([b"a", b"b"])
        assert source.status().complaint == "1 datagrams too long, empty or with more than data"
        assert source.status().origins == (f"{origin}:{port}",)


def test_only_peers_may_send_elsewhere() -> None:
    """On any other address a datagram of somebody who is not among the peers is counted and dropped."""
    source, port = port_of("0.0.0.0", "127.0.0.2", "127.1.0.0/16")
    kept = Kept()
    with running(source, kept) as running_source:
        send(port, HEADER + b"stranger")
        send(port, HEADER + b"neighbour", by="127.0.0.2")
        send(port, HEADER + b"network", by="127.1.2.3")
        kept.wait_for([b"neighbour", b"network"])
        assert running_source.status().complaint == "1 datagrams from hosts that are not in peers dropped"


def test_what_the_kernel_dropped_is_known() -> None:
    """Datagrams that found no room are told in the status, and with those delivered they are all that was sent."""
    source, port = port_of()
    kept, sent = Kept(), 60_000
    send(port, *[HEADER + b"%060d" % number for number in range(sent)])

    def is_heard() -> bool:
        nonlocal sent
        sent += 1
        send(port, HEADER + b"probe")
        return b"probe" in kept.lines()[-3:]

    with running(source, kept) as running_source:
        wait_until(is_heard, 20, "a probe")
        wait_until(lambda: len(kept.lines()) + running_source.status().dropped == sent, 10, "all that was sent")
        assert running_source.status().dropped > 0
    delivered = [line for line in kept.lines() if line != b"probe"]
    assert delivered == [b"%060d" % number for number in range(len(delivered))]


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    """A port somebody else has is an error that names it."""
    first, port = port_of()
    second = SyslogPort("udp", parse_address("127.0.0.1"), port)
    with pytest.raises(SourceError, match=f"cannot listen on udp://127.0.0.1:{port}: Address already in use"):
        second.open()
    first.close()


@pytest.mark.lab
def test_a_daemon_bans_by_udp(open_tmp_path: Path) -> None:
    """The settings of a UDP port make a daemon that counts what is sent there."""
    place, port = Place(open_tmp_path), free_port(kind=socket.SOCK_DGRAM)
    place.configure(
        f'[jails.login]\nsource = "udp://127.0.0.1:{port}"\nfilter = "appguard"\nmaxretry = 3\n',
        '[firewall]\nkind = "dry_run"\n',
    )
    with running_daemon(place) as daemon:
        line = login_failure("203.0.113.5").to_line().encode()
        send(port, *[HEADER + line] * 3)
        daemon.wait_for("[login] Ban 203.0.113.5")
