"""Find the client behind trusted proxies."""

import re
from dataclasses import dataclass, field
from typing import TypeVar

from appguard.address import PRIVATE, Address, Grouping, Network, NetworkSet, parse_address
from appguard.errors import AddressError

K = TypeVar("K")
V = TypeVar("V")

MOST_HOPS = 32  # a longer chain of trusted proxies is a forgery
MOST_PARAMETERS = 4 * MOST_HOPS  # of a `Forwarded` header
HOP_MOST = 128  # characters; nothing longer is an address, and nothing longer is remembered
UNKNOWN_PEER = "peer"
UNKNOWN_HOP = "hop"
UNKNOWN_PROXY = "proxy"
UNKNOWN_HEADER = "header"


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
