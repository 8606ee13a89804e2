"""Facts about this host that a ban must not cut off: its addresses, links, gateways, resolvers and administrators.

Read from the text files of /proc and /etc, which every user may read: no process, no privilege, no dependency. The
limits of these files: IPv4 gateways are those of the main routing table, the first hop of a multipath route.
"""

import logging
import platform
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from appguard.address import Address, Network, overlap, parse_address, parse_network
from appguard.errors import AddressError

ROOT = Path("/")
WIDEST_LINK = 48  # an IPv6 route on a link that is wider is no link but a tunnel to half the world
ADMINISTRATORS = frozenset({"root", "sudo", "wheel", "admin"})  # groups whose members may become root

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_ROUTE_GATEWAY = 0x2
_ROUTE_REJECT = 0x200
_ROUTE_LOCAL = 0x80000000

# utmp(5): type, pid, line, id, user, host, exit status (2), session, time (2), address
_UTMP_LAYOUTS = {"aarch64": "=hxxi32s4s32s256shhqqq16s24x"}  # where a 32-bit sibling had not to be agreed with
_UTMP = struct.Struct(_UTMP_LAYOUTS.get(platform.machine(), "=hxxi32s4s32s256shhiii16s20x"))
_UTMP_USER_PROCESS = 7

log = logging.getLogger("appguard.host")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this host is on the network. Loopback is left out.

    `containers` are the networks on a link that leads to containers of this host and nowhere else; `stores` are the
    hosts of a shared store, which `store_hosts.py` adds.
    """

    own: tuple[Network, ...] = ()
    on_link: tuple[Network, ...] = ()
    containers: tuple[Network, ...] = ()
    gateways: tuple[Address, ...] = ()
    resolvers: tuple[Address, ...] = ()
    stores: tuple[Address, ...] = ()


def read_host_facts(root: Path = ROOT) -> HostFacts:
    """Read the facts of the network namespace this process is in. What cannot be read is left out."""
    own, links, gateways = _routes(_routes4, root)
    own6, links6, gateways6 = _routes(_routes6, root)
    on_link = {network: interface for network, interface in (*links, *links6) if network not in {*own, *own6}}
    bridges = {interface for interface in on_link.values() if _is_of_containers(interface, root)}
    return HostFacts(
        own=_networks([*own, *own6]),
        on_link=_networks(on_link),
        containers=_networks(network for network, interface in on_link.items() if interface in bridges),
        gateways=_addresses([*gateways, *gateways6]),
        resolvers=_addresses(_resolvers(root)),
    )


def administrators(root: Path = ROOT) -> tuple[Address, ...]:
    """Give the addresses from which administrators are logged in, by utmp and logind.

    Both list authenticated sessions only. A socket would not do: an attacker has one too.
    """
    trusted = _administrators(root)
    sessions = [*_utmp_sessions(root), *_logind_sessions(root)]
    return _addresses(_parsed(host for user, host in sessions if user in trusted))


Link = tuple[Network, str]  # with its interface
Routes = tuple[list[Network], list[Link], list[Address]]  # own, on link, gateways


def _routes(read: Callable[[Path], Routes], root: Path) -> Routes:
    try:
        return read(root)
    except ValueError as error:  # a kernel that writes these files in another way
        log.warning("the routes of this host cannot be read from /proc/net: %s", error)
        return [], [], []


def _routes4(root: Path) -> Routes:
    own: list[Network] = []
    on_link: list[Link] = []
    gateways: list[Address] = []
    address = ""
    for line in _lines(root / "proc/net/fib_trie"):
        word, _, rest = line.strip().partition(" ")
        if word == "|--":
            address = rest
        elif rest == "host LOCAL":
            own.append(parse_network(address + word))
    for line in _lines(root / "proc/net/route")[1:]:
        interface, destination, gateway, flags, _, _, _, mask, *_ = line.split()
        if int(flags, 16) & _ROUTE_REJECT:
            continue
        if int(flags, 16) & _ROUTE_GATEWAY:
            gateways.append(parse_address(str(_kernel_ip4(gateway))))
        elif int(mask, 16):
            on_link.append((IPv4Network((_kernel_ip4(destination), str(_kernel_ip4(mask)))), interface))
    return own, on_link, gateways


def _kernel_ip4(text: str) -> IPv4Address:
    """Read an address printed as the machine's integer of what is in network order."""
    return IPv4Address(struct.pack("=I", int(text, 16)))


def _routes6(root: Path) -> Routes:
    own: list[Network] = []
    on_link: list[Link] = []
    gateways: list[Address] = []
    for line in _lines(root / "proc/net/ipv6_route"):
        destination, length, _, _, gateway, _, _, _, flags, interface = line.split()
        network = IPv6Network((int(destination, 16), int(length, 16)))
        kind = int(flags, 16)
        if kind & _ROUTE_REJECT or network.is_multicast:
            continue
        if kind & _ROUTE_LOCAL:
            own.append(network)
        elif kind & _ROUTE_GATEWAY:
            gateways.append(parse_address(str(IPv6Address(int(gateway, 16)))))
        elif network.prefixlen >= WIDEST_LINK:
            on_link.append((network, interface))
    return own, on_link, gateways


def _is_of_containers(interface: str, root: Path) -> bool:
    """Say whether an interface is a bridge whose every port is one end of a pair (veth), the other in a container.

    A network card has a device, whatever is built on one or on a tunnel a type, and a virtual machine's port flags.
    """
    ports = root / "sys/class/net" / interface / "brif"
    try:
        found = [root / "sys/class/net" / port.name for port in ports.iterdir()]
    except OSError:  # no bridge
        return False
    return not any(
        (port / "device").exists() or (port / "tun_flags").exists() or "DEVTYPE=" in "".join(_lines(port / "uevent"))
        for port in found
    )


def _resolvers(root: Path) -> Iterator[Address]:
    for name in ("etc/resolv.conf", "run/systemd/resolve/resolv.conf"):  # the second behind systemd's stub resolver
        words = (line.split() for line in _lines(root / name))
        yield from _parsed(pair[1] for pair in words if len(pair) > 1 and pair[0] == "nameserver")


def _administrators(root: Path) -> frozenset[str]:
    """Give the names of root and of the members of the administrators' groups in /etc/group."""
    names = {"root"}
    for line in _lines(root / "etc/group"):
        group, _, rest = line.partition(":")
        if group in ADMINISTRATORS:
            names.update(rest.rpartition(":")[2].split(","))
    return frozenset(names - {""})


def _utmp_sessions(root: Path) -> Iterator[tuple[str, str]]:
    try:
        records = (root / "run/utmp").read_bytes()
    except OSError:
        return
    for record in _UTMP.iter_unpack(records[: len(records) // _UTMP.size * _UTMP.size]):
        kind, _, _, _, user, *_, address = record
        if kind == _UTMP_USER_PROCESS and any(address):
            ip = IPv6Address(address) if any(address[4:]) else IPv4Address(address[:4])
            yield user.rstrip(b"\0").decode(errors="replace"), str(ip)


def _logind_sessions(root: Path) -> Iterator[tuple[str, str]]:
    try:
        sessions = sorted((root / "run/systemd/sessions").iterdir())
    except OSError:
        return
    for session in sessions:
        pairs = (line.partition("=") for line in _lines(session))
        fields = {key: value.strip('"') for key, _, value in pairs}
        if fields.get("REMOTE") == "1" and fields.get("STATE") != "closing":
            yield fields.get("USER", ""), fields.get("REMOTE_HOST", "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _parsed(texts: Iterable[str]) -> Iterator[Address]:
    """Give the addresses among the texts: sshd may note a name in place of an address."""
    for text in texts:
        try:
            yield parse_address(text)
        except AddressError:
            continue


def _networks(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Sort out doubles and loopback, so that equal facts are equal."""
    outside = {network for network in networks if not any(overlap(network, inner) for inner in _LOOPBACK)}
    return tuple(sorted(outside, key=lambda one: (one.version, int(one.network_address), one.prefixlen)))


def _addresses(addresses: Iterable[Address]) -> tuple[Address, ...]:
    outside = {address for address in addresses if not parse_network(address.text).is_loopback}
    return tuple(sorted(outside, key=lambda one: (one.version, one.number)))
