"""The facts about this host, from the kernel's own files and from files as other programs write them."""

import ctypes
from ipaddress import ip_address
from pathlib import Path

import pytest

from appguard.address import parse_address, parse_network
from appguard.host import HostFacts, administrators, read_host_facts
from tests.netns import joined, run


@pytest.mark.lab
def test_addresses_links_and_gateways_of_the_kernel() -> None:
    """Own addresses, networks on links and default gateways of both families are read as the kernel has them."""
    here = ["198.51.100.1/24", "198.51.100.77/24", "2001:db8:a::1/64", "2001:db8:d::1/128"]
    with joined("uplink", here, ["198.51.100.2/24", "2001:db8:a::2/64"]):
        run("ip", "route", "add", "default", "via", "198.51.100.2")
        run("ip", "-6", "route", "add", "default", "via", "2001:db8:a::2")
        run("ip", "-6", "route", "add", "2001:db8:d::/64", "dev", "uplink")  # as a router announces it beside DHCPv6
        facts = read_host_facts()
    own = {parse_network(text.partition("/")[0]) for text in here}
    assert {network for network in facts.own if not network.is_link_local} == own
    links = {network for network in facts.on_link if not network.is_link_local}
    assert links == {parse_network(text) for text in ("198.51.100.0/24", "2001:db8:a::/64", "2001:db8:d::/64")}
    assert facts.gateways == (parse_address("198.51.100.2"), parse_address("2001:db8:a::2"))


@pytest.mark.lab
def test_what_is_no_link() -> None:
    """Unreachable routes, default routes without a gateway and wide routes into a tunnel make nobody a neighbour."""
    with joined("tunnel", ["10.9.0.1/24", "fd00:9::1/64"], []):
        run("ip", "route", "add", "default", "dev", "tunnel")
        run("ip", "-6", "route", "add", "default", "dev", "tunnel")
        run("ip", "-6", "route", "add", "2000::/3", "dev", "tunnel")
        run("ip", "route", "add", "unreachable", "203.0.113.0/24")
        run("ip", "-6", "route", "add", "unreachable", "2001:db8:e::/48")
        facts = read_host_facts()
        run("ip", "route", "delete", "unreachable", "203.0.113.0/24")
        run("ip", "-6", "route", "delete", "unreachable", "2001:db8:e::/48")
    links = {network for network in facts.on_link if not network.is_link_local}
    assert links == {parse_network("10.9.0.0/24"), parse_network("fd00:9::/64")}
    assert facts.gateways == ()


@pytest.mark.lab
def test_where_containers_are(tmp_path: Path) -> None:
    """A bridge whose ports are all ends of pairs leads to containers; one with another port leads elsewhere too."""
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "sys").mkdir()
    with joined("uplink", ["198.51.100.1/24"], []):
        run("ip", "link", "add", "inside", "type", "bridge")
        run("ip", "address", "add", "172.18.0.1/16", "dev", "inside")
        run("ip", "link", "add", "pair", "type", "veth", "peer", "name", "other")
        run("ip", "link", "set", "pair", "master", "inside")
        run("ip", "link", "set", "inside", "up")
        run("mount", "-t", "sysfs", "sysfs", str(tmp_path / "sys"))
        try:
            only_pairs = read_host_facts(tmp_path)
            run("ip", "tuntap", "add", "machine", "mode", "tap")
            run("ip", "link", "set", "machine", "master", "inside")
            with_machine = read_host_facts(tmp_path)
        finally:
            run("umount", str(tmp_path / "sys"))
            for name in ("machine", "pair", "inside"):
                run("ip", "link", "delete", name)
    assert parse_network("172.18.0.0/16") in only_pairs.on_link
    assert [network for network in only_pairs.containers if network.version == 4] == [parse_network("172.18.0.0/16")]
    assert with_machine.containers == ()


@pytest.mark.lab
def test_facts_are_equal_as_long_as_the_host_is_the_same() -> None:
    """Facts read twice are equal, and an address more makes them differ."""
    with joined("uplink", ["198.51.100.1/24"], []):
        before = read_host_facts()
        assert read_host_facts() == before
        run("ip", "address", "add", "198.51.100.9/24", "dev", "uplink")
        assert read_host_facts() != before


def test_a_host_that_tells_nothing_has_no_facts(tmp_path: Path) -> None:
    """Missing files (no IPv6, no resolver, another system) are no error."""
    assert read_host_facts(tmp_path) == HostFacts()
    assert administrators(tmp_path) == ()


def test_resolvers(tmp_path: Path) -> None:
    """Resolvers are read with their zone ids dropped, those behind systemd's stub too; the stub itself is loopback."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(
        "# nameserver 192.0.2.1\nnameserver 127.0.0.53\n nameserver 192.0.2.53\nnameserver fe80::1%eth0\n"
        "nameserver\nnameserver nonsense\nsearch example.org\n"
    )
    upstream = tmp_path / "run/systemd/resolve"
    upstream.mkdir(parents=True)
    (upstream / "resolv.conf").write_text("nameserver 2001:db8::53\nnameserver 192.0.2.53\n")
    assert [each.text for each in read_host_facts(tmp_path).resolvers] == ["192.0.2.53", "2001:db8::53", "fe80::1"]


class Utmp(ctypes.Structure):
    """A session as <utmp.h> of x86-64 Linux lays it out."""

    _fields_ = (
        ("type", ctypes.c_short),
        ("pid", ctypes.c_int),
        ("line", ctypes.c_char * 32),
        ("id", ctypes.c_char * 4),
        ("user", ctypes.c_char * 32),
        ("host", ctypes.c_char * 256),
        ("exit", ctypes.c_short * 2),
        ("session", ctypes.c_int32),
        ("time", ctypes.c_int32 * 2),
        ("address", ctypes.c_ubyte * 16),
        ("unused", ctypes.c_char * 20),
    )


def utmp(kind: int, user: str, address: str) -> bytes:
    """Give the record of a session."""
    packed = ip_address(address).packed if address else b""
    return bytes(Utmp(type=kind, user=user.encode(), address=(ctypes.c_ubyte * 16)(*packed)))


GROUPS = "root:x:0:\nsudo:x:27:alice,bob\nusers:x:100:mallory\nwheel:x:10:\nadmin:x:11:carol\nbroken\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give the root of a system with some administrators and no session."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(GROUPS)
    (tmp_path / "run/systemd/sessions").mkdir(parents=True)
    return tmp_path


def test_administrators_sessions_in_utmp(root: Path) -> None:
    """Live sessions of root and of members of the administrators' groups count; ended, local and others' do not."""
    records = [
        utmp(2, "reboot", ""),
        utmp(7, "root", "198.51.100.9"),
        utmp(7, "alice", "2001:db8::9"),
        utmp(7, "bob", "::ffff:198.51.100.10"),
        utmp(7, "mallory", "203.0.113.66"),
        utmp(7, "carol", ""),
        utmp(8, "alice", "198.51.100.11"),
        b"cut off",
    ]
    (root / "run/utmp").write_bytes(b"".join(records))
    assert [each.text for each in administrators(root)] == ["198.51.100.9", "198.51.100.10", "2001:db8::9"]


def session(user: str, host: str, remote: int = 1, state: str = "active") -> str:
    """Give a session file as logind writes it."""
    lines = ["# This is private data. Do not parse.", "UID=1000", f"USER={user}", f"STATE={state}", f"REMOTE={remote}"]
    return "\n".join([*lines, "TYPE=tty", "CLASS=user", f"REMOTE_HOST={host}" if host else "", "SERVICE=sshd", ""])


def test_administrators_sessions_of_logind(root: Path) -> None:
    """The same holds for logind, whose remote host may be a name, which protects nobody."""
    sessions = root / "run/systemd/sessions"
    (sessions / "1").write_text(session("alice", "198.51.100.9"))
    (sessions / "2").write_text(session("root", "2001:db8::9"))
    (sessions / "3").write_text(session("mallory", "203.0.113.66"))
    (sessions / "4").write_text(session("alice", "host.example.org"))
    (sessions / "5").write_text(session("bob", "198.51.100.10", state="closing"))
    (sessions / "6").write_text(session("carol", "", remote=0))
    (sessions / "7.ref").mkdir()
    assert [each.text for each in administrators(root)] == ["198.51.100.9", "2001:db8::9"]


def test_routes_in_an_unknown_form_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A /proc/net that reads otherwise than expected costs the facts, not the start."""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text("header\nnot a route\n")
    (tmp_path / "proc/net/ipv6_route").write_text("zz yy\n")
    assert read_host_facts(tmp_path) == HostFacts()
    assert "cannot be read" in caplog.text
