"""What our table has for bans of some ports alone: for each list of ports a number, and under it what `ports.nft` says.

There are few such lists, those of the jails, and each costs every packet that no other ban meets a look at its port. A
fleet could make up any number of them; so there are `LISTS_MOST`, and bans of further ones are not held.
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network

from appguard.address import Network, network_text
from appguard.firewalls.base import Block
from appguard.firewalls.disjoint import disjoint
from appguard.ports import key_of, split_ports

Wide = dict[tuple[Network, str], tuple[float, str]]  # of networks that are no hosts, by ports too: end and jail

LISTS_MOST = 64
HOST_SETS: Mapping[str, tuple[int, int]] = {  # with version and prefix length of the elements
    "ban4": (4, 32),
    "ban6": (6, 128),
    "ban6_64": (6, 64),
}


class PortLists:
    """Numbers lists of ports, each a canonical text, as they are met. All ports are the empty list, which always is."""

    def __init__(self) -> None:
        self._endings = {"": ""}

    def takes(self, ports: str) -> bool:
        """Meet a list; say whether there is room for it."""
        if ports not in self._endings:
            if len(self._endings) > LISTS_MOST:
                return False
            self._endings[ports] = f"_p{len(self._endings)}"
        return True

    def ending(self, ports: str) -> str:
        """Give what the names of all sets and chains for a list that was met end in."""
        return self._endings[ports]

    def host_set(self, name: str) -> tuple[int, int, str] | None:
        """Give version, prefix length and ports of a set of hosts by its name; None for any other."""
        for ports, ending in self._endings.items():
            kind = HOST_SETS.get(name.removesuffix(ending)) if name.endswith(ending) else None
            if kind is not None:
                return *kind, ports
        return None

    def key(self, name: str, packed: bytes) -> str | None:
        """Give the key of the block that an element of a set is, or lies in; None if the set is none of hosts."""
        kind = self.host_set(name)
        if kind is None:
            return None
        version, prefixlen, ports = kind
        parse = IPv4Network if version == 4 else IPv6Network
        network = parse((packed, prefixlen), strict=False)  # others may put any address where a /64 belongs
        return key_of(network_text(network), ports)

    def script(self, table: str, ports: str) -> str:
        """Write what a table needs for a list, in nft's words, without the options that the settings may ask for."""
        ending = self._endings[ports]
        made = (files("appguard.firewalls") / "ports.nft").read_text()
        made = made.replace("table inet appguard {", f"table inet {table} {{").replace("_N", ending)
        protocols, ranges = split_ports(ports)
        elements = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
        lines = [f"add element inet {table} ports{ending} {{ {elements} }}"]
        lines += [f"add rule inet {table} ported {each} dport @ports{ending} jump ported{ending}" for each in protocols]
        if "tcp" in protocols:  # no other has strays
            lines.append(f"add rule inet {table} ported_stray tcp sport @ports{ending} jump ported_stray{ending}")
        return made + "".join(f"{line}\n" for line in lines)


def first_ports(ports: str) -> set[bytes]:
    """Give the keys under which the ranges of a list begin in its set."""
    return {first.to_bytes(2, "big") for first, _ in split_ports(ports)[1]}


def stub_script(table: str) -> str:
    """Write of a new table what the above refers to, as empty as can be."""
    lines = [f"add table inet {table}", f"add counter inet {table} strays"]
    lines += [f"add chain inet {table} {name}" for name in ("refuse", "ported", "ported_stray")]
    return "".join(f"{line}\n" for line in lines)


def wide_of(blocks: Iterable[Block]) -> Wide:
    """Give the networks that are no hosts among blocks."""
    return {(block.network, block.ports): (block.end or 0.0, block.jail) for block in blocks if not block.is_host}


def pieces_of(wide: Wide, lists: PortLists) -> dict[str, list[tuple[Network, float, str]]]:
    """Give pieces that do not overlap, each with its end and jail, by the name of their set."""
    by_ports: dict[str, dict[Network, tuple[float, str]]] = {}
    for (network, ports), end in wide.items():
        by_ports.setdefault(ports, {})[network] = end
    found: dict[str, list[tuple[Network, float, str]]] = {}
    for ports, ends in by_ports.items():
        for piece, (until, jail) in disjoint(ends):
            name = f"ban{piece.version}_net{lists.ending(ports)}"
            found.setdefault(name, []).append((piece, until, jail))
    return found
