"""What a jail counts by: the text an event is counted under, and the network that a ban of such a key shuts out.

    address        IPv4 by address; IPv6 by /64, in prefixes that unrelated hosts share by address (the default)
    /64            IPv6 always by its /64; any one prefix length: IPv6 if it is over 32, else IPv4
    /24,/48        IPv4 by its /24 and IPv6 by its /48
    network        the same as /24,/48
    user           by user name, wherever the failures come from
    user+address   by the pair

User names are compared without regard to case, surrounding blanks and compatible letters (NFKC): to most apps, Bob is
bob.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from appguard.address import Address, Network, network_text, parse_network
from appguard.errors import AddressError, ConfigError
from appguard.event import Event
from appguard.request import normal_user

ADDRESS, NETWORK, USER, PAIR = "address", "network", "user", "user+address"
NETWORK_LENGTHS = "/24,/48"
_LENGTHS = re.compile(r"/([0-9]{1,3})(?: ?, ?/([0-9]{1,3}))?")
_NARROW, _WIDE = (32, 128), (16, 32)  # wider networks are never banned; see judge.py

KeyOf = Callable[[Event], str]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """How many bits of an address count, by family; None: as an address is counted anyway."""

    v4: int | None
    v6: int | None

    @classmethod
    def of(cls, text: str, what: str) -> "Prefixes":
        """Read `/24`, `/64` or `/24,/48`; raise `ConfigError`, which begins with `what`."""
        found = _LENGTHS.fullmatch(NETWORK_LENGTHS if text == NETWORK else text)
        if found is None:
            raise ConfigError(f"{what} = {text!r}: expected prefix lengths such as '/24' (IPv4), '/64' or '/24,/48'")
        one, two = int(found[1]), found[2]
        v4, v6 = (one, int(two)) if two else (None, one) if one > _NARROW[0] else (one, None)
        if not (v4 is None or _WIDE[0] <= v4 <= _NARROW[0]) or not (v6 is None or _WIDE[1] <= v6 <= _NARROW[1]):
            raise ConfigError(f"{what} = {text!r}: expected /{_WIDE[0]} to /32 for IPv4, /{_WIDE[1]} to /128 for IPv6")
        return cls(v4, v6)

    def network(self, address: Address) -> Network | None:
        """Give the network an address is counted in; None where it is counted as an address."""
        length = self.v4 if address.version == 4 else self.v6
        if length is None:
            return None
        start = address.number >> (address.bits - length) << (address.bits - length)
        return IPv4Network((start, length)) if address.version == 4 else IPv6Network((start, length))


def check_key(key: str, what: str) -> None:
    """Raise `ConfigError` if this is nothing a jail can count by."""
    if key.startswith("/"):
        Prefixes.of(key, what)
    elif key not in (ADDRESS, NETWORK, USER, PAIR):
        raise ConfigError(f"{what} = {key!r}: expected 'address', 'network', '/24', '/24,/48', 'user', 'user+address'")


def user_of(event: Event) -> str:
    """Give the user name as it is compared."""
    return normal_user(event.user) if event.user else ""


def key_of(key: str, group: Callable[[Address], str]) -> KeyOf:
    """Give what finds the key of an event; it gives an empty text for an event that has none.

    `group` is how an address is counted on this host.
    """
    if key == ADDRESS:
        return lambda event: group(event.address)
    if key == USER:
        return user_of
    if key == PAIR:
        return lambda event: f"{group(event.address)} {user}" if (user := user_of(event)) else ""
    prefixes = Prefixes.of(key, "key")

    def by_network(event: Event) -> str:
        network = prefixes.network(event.address)
        return group(event.address) if network is None else network_text(network)

    return by_network


def saved_key(key: str, text: str) -> str:
    """Give a key of a jail that counts by `key` as it is counted, read back from `text`; empty if it is none."""
    if key == USER:
        return text
    address, blank, user = text.partition(" ")
    try:
        return f"{network_text(parse_network(address))}{blank}{user}"
    except AddressError:
        return ""


def network_of(text: str) -> Network:
    """Give the network of a key that has one: of every key but a user's."""
    return parse_network(text.partition(" ")[0])
