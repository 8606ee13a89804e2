"""Parse, normalise and group addresses.

An `Address` is made once from text and carries every form the rest needs, so that a request costs dictionary
look-ups and no parsing. IPv4-mapped IPv6 is folded to IPv4; ports, brackets and zone ids are dropped. A client is
counted under its `key`: the IPv4 address, or the IPv6 /64, because a host owns a whole /64 and would otherwise walk
through any limit. Two kinds of IPv6 prefix hold many unrelated hosts in one /64 and are keyed by the single address:
NAT64 prefixes (RFC 6052, RFC 8215) and the prefixes on this host's own links, which the caller passes in.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Generic, TypeVar, cast

from appguard.errors import AddressError

Network = IPv4Network | IPv6Network
Host = str | int  # an address in brief: the canonical text of an IPv4 one, the number of an IPv6 one
V = TypeVar("V")

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


def codes_of(texts: Iterable[str]) -> list[int]:
    """Give the same of many texts, in half the time."""
    return [hashed & 0x3FFFFFFF for hashed in map(hash, texts)]


def parse_address(text: str) -> Address:
    """Parse one address; raise `AddressError`."""
    return _parse_address(text.partition("%")[0])  # a zone id may be of any length and must not fill the memo


@lru_cache(maxsize=65536)
def _parse_address(text: str) -> Address:
    if _IPV4.fullmatch(text):  # as most are, and `ipaddress` takes three times as long
        one, two, three, four = map(int, text.split("."))
        return Address(text, 4, one << 24 | two << 16 | three << 8 | four, text)
    try:
        ip = IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return _address(ip)


def _address(ip: IPv4Address | IPv6Address) -> Address:
    if isinstance(ip, IPv4Address):
        return Address(str(ip), 4, int(ip), str(ip))
    return Address(str(ip), 6, int(ip), slash64_text(int(ip) >> 64))


def host_text(host: Host) -> str:
    """Write an address in brief as `Address.text` has it."""
    return host if isinstance(host, str) else str(IPv6Address(host))


@lru_cache(maxsize=65536)
def slash64_text(prefix: int) -> str:
    """Write the /64 of these first 64 bits canonically, in a tenth of the time `str` takes."""
    text = f":{prefix >> 48:x}:{prefix >> 32 & 0xFFFF:x}:{prefix >> 16 & 0xFFFF:x}:{prefix & 0xFFFF:x}"
    while text.endswith(":0"):
        text = text[:-2]
    return f"{text[1:]}::/64"


def parse_network(text: str) -> Network:
    """Parse an address or network, host bits allowed; raise `AddressError`."""
    if _IPV4.fullmatch(text):  # as most are: a third of the time, which counts where there are 100,000
        first, second, third, fourth = text.split(".")
        return host_network(int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth))
    address, slash, prefix = text.partition("/")
    try:
        network = (IPv6Network if ":" in text else IPv4Network)(
            f"{address.partition('%')[0]}{slash}{prefix}", strict=False
        )
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address or network") from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def host_network(number: int) -> IPv4Network:
    """Give the network of one IPv4 address in half the memory: `ipaddress` gives each a function `hosts` of its own."""
    network = IPv4Network(number)
    delattr(network, "hosts")  # nobody here asks for it, and there may be a million
    return network


def network_text(network: Network) -> str:
    """Write a network canonically: a single host without its prefix length."""
    kind = network.version, network.prefixlen
    if kind == (4, 32):  # as most are: a third of the time `str` takes
        number = int(network.network_address)
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    if kind == (6, 64):
        return slash64_text(int(network.network_address) >> 64)
    return str(network.network_address if kind == (6, 128) else network)


def overlap(one: Network, other: Network) -> bool:
    """Say whether two networks share an address.

    Their own `overlaps` takes five times as long, and leaves 350 bytes at every network it was ever asked about.
    """
    if one.version != other.version:
        return False
    shift = one.max_prefixlen - min(one.prefixlen, other.prefixlen)
    return int(one.network_address) >> shift == int(other.network_address) >> shift


def covers(wider: Network, network: Network) -> bool:
    """Say whether all of a network lies in the wider one, or is that one."""
    return wider.prefixlen <= network.prefixlen and overlap(wider, network)


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
        first = int(network.network_address)
        for shift, bucket in self._lengths[network.version]:
            if found := bucket.get(first >> shift):
                return found[0]
        if network.prefixlen == network.max_prefixlen:
            return None
        return next((mine for mine, _ in self if overlap(mine, network)), None)

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

    def holds(self, host: Host) -> bool:
        """Say whether it holds an address, given in brief."""
        if not self._map:
            return False
        if isinstance(host, int):
            return self._map.holds(6, host)
        one, two, three, four = host.split(".")
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
        networks = [network for network in self.shared if network.version == 6]
        self._shift = 128 - min(network.prefixlen for network in networks)
        self._beginnings = {int(network.network_address) >> self._shift for network in networks}

    def key(self, address: Address) -> str:
        """Give the text an address is counted and banned under: `192.0.2.1`, `2001:db8::/64` or `fe80::1`."""
        return address.text if address.version == 4 or address in self.shared else address.slash64

    def key_of(self, host: Host) -> str:
        """Give the same of an address in brief."""
        if isinstance(host, str):
            return host
        if host >> self._shift in self._beginnings and self.shared.holds(host):  # the first says no to most, quickly
            return host_text(host)
        return slash64_text(host >> 64)

    def keys_of(self, hosts: Sequence[Host]) -> Sequence[str]:
        """Give the same of many."""
        return cast("Sequence[str]", hosts) if set(map(type, hosts)) == {str} else list(map(self.key_of, hosts))
