"""What one host of a fleet protects from the bans of all: networks, each with a word why, for as long as its lease."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from appguard.address import Network, network_text, parse_network
from appguard.ban import HOST_MOST
from appguard.errors import AddressError
from appguard.safelisted import WIDEST

NETWORKS_MOST = 1_000  # that one host protects
WHAT_MOST = 128  # characters
LIFE_MOST = 32  # characters


@dataclass(frozen=True, slots=True)
class Protection:
    """What the host called `host` protects until `until` (Unix seconds); `life` is of the daemon that told it."""

    host: str
    until: float
    networks: tuple[tuple[Network, str], ...]
    life: str = ""

    def to_text(self) -> str:
        """Write it as JSON, but for its end."""
        return write_protection(self.host, self.networks, self.life)


def write_protection(host: str, networks: Iterable[tuple[Network, str]], life: str = "") -> str:
    """Write what a host tells of itself as JSON; `life` is new with every start of its daemon."""
    listed = [[network_text(network), what] for network, what in networks][:NETWORKS_MOST]
    return json.dumps({"host": host, "networks": listed, "life": life}, separators=(",", ":"))


def parse_protection(text: str, until: float) -> Protection | None:
    """Read that; None for anything else. What is no network, or too wide, is left out."""
    try:
        found = cast("dict[str, Any]", json.loads(text))
        host, listed = str(found["host"])[:HOST_MOST], list(found["networks"])[:NETWORKS_MOST]
        life = str(found.get("life", ""))[:LIFE_MOST]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    networks = tuple(pair for pair in map(_pair, listed) if pair is not None)
    return Protection(host if host.isprintable() else "?", until, networks, life)


def _pair(item: Any) -> tuple[Network, str] | None:
    try:
        network, what = parse_network(str(item[0])), str(item[1])[:WHAT_MOST]
    except (AddressError, TypeError, IndexError, KeyError):
        return None
    return (network, what) if network.prefixlen >= WIDEST[network.version] and what.isprintable() else None
