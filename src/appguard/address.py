"""Parse, normalise and group addresses, and find the client behind trusted proxies.

An `Address` is made once from text and carries every form the rest needs, so that a request costs dictionary
look-ups and no parsing. IPv4-mapped IPv6 is folded to IPv4; ports, brackets and zone ids are dropped. A client is
counted under its `key`: the IPv4 address, or the IPv6 /64, because a host owns a whole /64 and would otherwise walk
through any limit. Two kinds of IPv6 prefix hold many unrelated hosts in one /64 and are keyed by the single address:
NAT64 prefixes (RFC 6052, RFC 8215) and the prefixes on this host's own links, which the caller passes in.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

from appguard.errors import AddressError

Network = IPv4Network | IPv6Network
K = TypeVar("K")
V = TypeVar("V")
_PLAIN4 = re.compile(r"\.".join(4 * [r"(0|[1-9][0-9]{0,2})"]))

NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)  # not `is_private`, which also holds the documentation networks


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")


@dataclass(frozen=True, slots=True)
class Address:
    """One host address. Equal and hashed by its canonical text; `code` is 30 bits of that hash."""

    text: str
    version: int = field(compare=False)
    number: int = field(compare=False)
    slash64: str = field(compare=False)
    code: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash once: every request asks whether its client is banned."""
        object.__setattr__(self, "code", code_of(self.text))

    @property
    def bits(self) -> int:
        """Give the width of the address: 32 or 128."""
        return 32 if self.version == 4 else 128

    @property
    def is_loopback(self) -> bool:
        """Say whether the address is this host's own loopback: 127.0.0.0/8 or ::1."""
        return self.number >> 24 == 127 if self.version == 4 else self.number == 1

    def __str__(self) -> str:
        return self.text


def code_of(text: str) -> int:
    """Give 30 bits of a text's hash, which nobody outside this process can foretell."""
    return hash(text) & 0x3FFFFFFF


def parse_address(text: str) -> Address:
    """Parse one address; raise `AddressError`."""
    return _parse_address(text.partition("%")[0])  # a zone id may be of any length and must not fill the memo


@lru_cache(maxsize=65536)
def _parse_address(text: str) -> Address:
    if _IPV4.fullmatch(text):  # as most are, and `ipaddress` takes three times as long
        one, two, three, four = map(int, text.split("."))
        return Address(text, 4, one << 24 | two << 16 | three << 8 | four, text)
    try:
        ip = ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return _address(ip)


def _address(ip: IPv4Address | IPv6Address) -> Address:
    if isinstance(ip, IPv4Address):
        return Address(str(ip), 4, int(ip), str(ip))
    return Address(str(ip), 6, int(ip), str(IPv6Network((int(ip) >> 64 << 64, 64))))


def parse_network(text: str) -> Network:
    """Parse an address or network, host bits allowed; raise `AddressError`."""
    if plain := _PLAIN4.fullmatch(text):  # as most are: half the time, which counts where there are 100,000
        first, second, third, fourth = map(int, plain.groups())
        if first < 256 and second < 256 and third < 256 and fourth < 256:
            return IPv4Network(first << 24 | second << 16 | third << 8 | fourth)
    address, slash, prefix = text.partition("/")
    try:
        network = ip_network(f"{address.partition('%')[0]}{slash}{prefix}", strict=False)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address or network") from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def network_text(network: Network) -> str:
    """Write a network canonically: a single host without its prefix length."""
    if network.prefixlen != network.max_prefixlen:
        return str(network)
    if network.version == 6:
        return str(network.network_address)
    number = int(network.network_address)  # as most are: a third of the time `str` takes
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def parse_hop(text: str) -> Address | None:
    """Parse one hop of a forwarding header (`1.2.3.4:80`, `[::1]:80`, `"[::1]"`); None if it is no address."""
    if len(text) > HOP_MOST:
        return None
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return parse_address(text)
    except AddressError:
        return None


class NetworkMap(Generic[V]):
    """Values by network, found by address: one dictionary per prefix length, longest first.

    Adding, removing and finding cost one dictionary access per prefix length in use, whatever the number of networks.
    """

    def __init__(self, items: Iterable[tuple[Network, V]] = ()) -> None:
        self._by_length: dict[tuple[int, int], dict[int, tuple[Network, V]]] = {}
        self._lengths: dict[int, tuple[tuple[int, dict[int, tuple[Network, V]]], ...]] = {4: (), 6: ()}
        for network, value in items:
            self.add(network, value)

    def add(self, network: Network, value: V) -> None:
        """Set the value of one network."""
        bucket = self._by_length.get((network.version, network.prefixlen))
        if bucket is None:
            bucket = self._by_length[network.version, network.prefixlen] = {}
            self._order(network.version)
        bucket[_prefix_of(network)] = (network, value)

    def remove(self, network: Network) -> None:
        """Forget one network; a network that is not there is ignored."""
        bucket = self._by_length.get((network.version, network.prefixlen), {})
        if bucket.pop(_prefix_of(network), None) and not bucket:
            del self._by_length[network.version, network.prefixlen]
            self._order(network.version)

    def _order(self, version: int) -> None:
        width = 32 if version == 4 else 128
        lengths = sorted((length for v, length in self._by_length if v == version), reverse=True)
        self._lengths[version] = tuple((width - n, self._by_length[version, n]) for n in lengths)

    def get(self, network: Network) -> V | None:
        """Give the value of exactly this network."""
        found = self._by_length.get((network.version, network.prefixlen), {}).get(_prefix_of(network))
        return found[1] if found else None

    def find(self, address: Address) -> V | None:
        """Give the value of the longest network that holds the address."""
        for shift, bucket in self._lengths[address.version]:  # as `holding`, which costs more
            found = bucket.get(address.number >> shift)
            if found is not None:
                return found[1]
        return None

    def holding(self, address: Address) -> Iterator[V]:
        """Give the values of all networks that hold the address, the longest first."""
        for shift, bucket in self._lengths[address.version]:
            found = bucket.get(address.number >> shift)
            if found is not None:
                yield found[1]

    def holds(self, version: int, number: int) -> bool:
        """Say whether some network holds the address of this number."""
        for shift, bucket in self._lengths[version]:  # noqa: SIM110 - in half the time
            if number >> shift in bucket:
                return True
        return False

    def overlapping(self, network: Network) -> Network | None:
        """Give one network of the map that shares an address with `network`."""
        return next((mine for mine, _ in self if mine.version == network.version and mine.overlaps(network)), None)

    def __iter__(self) -> Iterator[tuple[Network, V]]:
        for bucket in self._by_length.values():
            yield from bucket.values()

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._by_length.values())

    def __bool__(self) -> bool:
        return bool(self._by_length)


def _prefix_of(network: Network) -> int:
    return int(network.network_address) >> (network.max_prefixlen - network.prefixlen)


class NetworkSet:
    """A set of networks that answers whether it holds an address."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self.learn(networks)

    def learn(self, networks: Iterable[Network]) -> None:
        """Hold these networks, and no others, from now on."""
        self._map: NetworkMap[bool] = NetworkMap((network, True) for network in networks)

    def __contains__(self, address: Address) -> bool:
        return bool(self._map) and self._map.find(address) is not None

    def holds_ipv4(self, text: str) -> bool:
        """Say whether it holds the IPv4 address of this canonical text, without making an `Address` of it."""
        if not self._map:
            return False
        one, two, three, four = text.split(".")
        return self._map.holds(4, int(one) << 24 | int(two) << 16 | int(three) << 8 | int(four))

    def __iter__(self) -> Iterator[Network]:
        return (network for network, _ in self._map)

    def __len__(self) -> int:
        return len(self._map)

    def overlapping(self, network: Network) -> Network | None:
        """Give one network of the set that shares an address with `network`."""
        return self._map.overlapping(network)


class Grouping:
    """How addresses become keys: IPv4 alone, IPv6 by /64 except in prefixes that many hosts share."""

    def __init__(self, on_link: Iterable[Network] = ()) -> None:
        self.learn(on_link)

    def learn(self, on_link: Iterable[Network]) -> None:
        """Take the networks that are on this host's links now."""
        self.shared = NetworkSet([*NAT64, *on_link])

    def key(self, address: Address) -> str:
        """Give the text an address is counted and banned under: `192.0.2.1`, `2001:db8::/64` or `fe80::1`."""
        return address.text if address.version == 4 or address in self.shared else address.slash64


MOST_HOPS = 32  # a longer chain of trusted proxies is a forgery
MOST_PARAMETERS = 4 * MOST_HOPS  # of a `Forwarded` header
HOP_MOST = 128  # characters; nothing longer is an address, and nothing longer is remembered
UNKNOWN_PEER = "peer"
UNKNOWN_HOP = "hop"
UNKNOWN_PROXY = "proxy"
UNKNOWN_HEADER = "header"


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request: the address and its key, or why it is unknown.

    `via` holds the trusted proxies walked, nearest first. `unknown` is empty, or `peer` (the peer is no address),
    `proxy` (a private peer that is not trusted sent forwarding headers), `hop` (a trusted proxy forwarded something
    that is no address) or `header` (a trusted proxy sends the other forwarding header).
    """

    address: Address | None
    key: str = ""
    via: tuple[Address, ...] = ()
    unknown: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose forwarding headers are believed: networks, and whoever connects over a unix socket."""

    networks: tuple[Network, ...] = ()
    unix: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a socket peer: the client it would be, and whether its forwarding headers matter.

    `is_trusted`: they are believed. `is_private`: it may be a proxy somebody forgot to list.
    """

    client: Client
    is_trusted: bool
    is_private: bool
    forwards: bool = field(init=False, repr=False, default=False)  # whether its forwarding headers are to be looked at

    def __post_init__(self) -> None:
        """Work it out once: it is asked for at every request."""
        object.__setattr__(self, "forwards", self.is_trusted or self.is_private)


class ClientFinder:
    """Finds the client of a request from the socket peer and, behind listed proxies only, a forwarding header.

    The header is walked from the right and the walk stops at the first hop that is not a trusted proxy; what stands
    left of it was written by strangers and is never read. Results are remembered per (proxies, hop), bounded by
    `memo_size`, so a repeated client costs one or two dictionary look-ups.
    """

    def __init__(self, proxies: Proxies | None = None, grouping: Grouping | None = None, memo_size: int = 8192) -> None:
        self._proxies = proxies or Proxies()
        self._trusted = NetworkSet(self._proxies.networks)
        self._private = NetworkSet(PRIVATE)
        self._grouping = grouping or Grouping()
        self._memo_size = memo_size
        self.known: dict[str | None, Peer] = {}  # peers by the text a server writes
        self._hops: dict[str, tuple[Client, bool]] = {}

    def peer(self, text: str | None) -> Peer:
        """Give what is known of a socket peer, whose address the server writes as `text` (None: a unix socket)."""
        text = text or ""
        return self.known.get(text) or self._new_peer(text)

    def behind(self, peer: Peer, forwarded: str | None, *, is_rewritten: bool = False) -> Client:
        """Give the client a peer forwards for.

        `forwarded` is the text of all forwarding headers joined by commas, None without one. `is_rewritten` says that
        the server in front has already replaced the peer by what such a header said.
        """
        if forwarded is None or is_rewritten or not peer.forwards:
            return peer.client
        if peer.is_trusted:
            return self._walk(peer.client.address, forwarded)
        return Client(None, unknown=UNKNOWN_PROXY, evidence=str(peer.client.address))

    def _new_peer(self, text: str) -> Peer:
        address = parse_hop(text)
        if address is None:
            client = Client(None, unknown=UNKNOWN_PEER, evidence=text[:HOP_MOST])
            found = Peer(client, is_trusted=not text and self._proxies.unix, is_private=False)
        else:
            client = Client(address, self._grouping.key(address))
            found = Peer(client, is_trusted=address in self._trusted, is_private=address in self._private)
        if len(text) <= HOP_MOST:
            _remember(self.known, text, found, self._memo_size)
        return found

    def _walk(self, peer: Address | None, forwarded: str) -> Client:
        via: tuple[Address, ...] = () if peer is None else (peer,)
        path = str(peer)
        client = Client(None)
        rest = forwarded
        for _ in range(MOST_HOPS):
            rest, comma, hop = rest.rpartition(",")
            path = f"{hop},{path}"
            client, trusted = self._hops.get(path) or self._hop(path, via, hop)
            if not trusted or not comma or client.address is None:
                return client
            via = (*via, client.address)
        return Client(None, via=via, unknown=UNKNOWN_HOP, evidence=f"more than {MOST_HOPS} proxies")

    def _hop(self, path: str, via: tuple[Address, ...], hop: str) -> tuple[Client, bool]:
        address = parse_hop(hop)
        if address is None:
            found = (Client(None, via=via, unknown=UNKNOWN_HOP, evidence=hop.strip()[:HOP_MOST]), False)
        else:
            found = (Client(address, self._grouping.key(address), via), address in self._trusted)
        if len(hop) <= HOP_MOST:
            _remember(self._hops, path, found, self._memo_size)
        return found


def _remember(memo: dict[K, V], key: K, value: V, size: int) -> None:
    if len(memo) >= size:
        memo.clear()
    memo[key] = value


# One parameter of a `Forwarded` header and what ends it, in a header written backwards: quoted strings are whole.
_PARAMETER_BACKWARDS = re.compile(r'((?:"(?:[^"]|"(?=\\))*+"|[^",;])*+)([,;]|$)', re.DOTALL)


def forwarded_for(header: str) -> str:
    """Turn a `Forwarded` header (RFC 7239) into the comma-separated hops of an `X-Forwarded-For` header.

    It is read from the right, as hops are: what the nearest proxy wrote is well-formed, and no quote that a stranger
    opened left of it, nor one inside a quoted `host`, changes where its elements end. An element without `for=` becomes
    an empty hop, which no walk gets past.
    """
    hops = [""]
    backwards, position = header[::-1], 0
    for _ in range(MOST_PARAMETERS):
        found = _PARAMETER_BACKWARDS.match(backwards, position)
        if found is None:
            break
        name, _, value = found[1][::-1].strip().partition("=")
        if name.lower() == "for":
            hops[-1] = "" if "," in value else value
        if found[2] == ",":
            hops.append("")
        elif not found[2]:
            break
        position = found.end()
    return ",".join(reversed(hops))
