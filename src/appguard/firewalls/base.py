"""What a firewall offers. The bouncer alone calls them, one at a time, on the daemon's event loop.

A firewall obeys: what may be banned was judged before. Every verb either does all of what it was asked or raises
`FirewallError` with the firewall's own words (`FirewallPermissionError` where a privilege is missing) and may then be
repeated. Ends are Unix seconds; a firewall that can makes the ban end by itself, also with AppGuard dead. One that
serves the web alone and cannot tell which port a client has dialled holds the blocks that are about the web
(`ports.is_web`) and no others.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple, Protocol, Self

from appguard.address import Network, host_network, network_text, slash64_text
from appguard.ports import key_of, parse_key
from appguard.turns import give_way

TAKEN_AT_ONCE = 200  # blocks; some milliseconds


class Block(NamedTuple):
    """One network to be shut out until `end`; None asks for as long as the firewall's lease, which is renewed.

    `key` is what its ban is known by, and what tells it from other blocks: the canonical text of its network and, if it
    is not about all, of its `ports`. `packed` is the network's first address as packets have it: from a ban's row to
    the kernel nobody needs more, and to make an `IPv4Network` takes as long as all the rest. `jail` is under whose name
    packets are counted.
    """

    key: str
    packed: bytes
    prefixlen: int
    end: float | None
    ports: str
    jail: str

    @classmethod
    def of(cls, network: Network, end: float | None, ports: str = "", jail: str = "") -> Self:
        """Make the block of a network."""
        packed, prefixlen = network.network_address.packed, network.prefixlen
        key = key_of(network_text(_network(packed, prefixlen)), ports)
        return cls(key, packed, prefixlen, end, ports, jail)

    @classmethod
    def read(cls, key: str, end: float | None, jail: str) -> Self:
        """Make the block that a key means; raise `ValueError` if it means none."""
        try:
            if not key.endswith("/64"):  # most are an IPv4 address or an IPv6 /64
                return cls(key, inet_pton(AF_INET, key), 32, end, "", jail)  # takes the canonical text and no other
            packed = inet_pton(AF_INET6, key[:-3])
            if key == slash64_text(int.from_bytes(packed[:8])):
                return cls(key, packed, 64, end, "", jail)
        except OSError:
            pass
        network, ports = parse_key(key)
        return cls.of(network, end, ports, jail)

    @property
    def network(self) -> Network:
        """Give the network, made of its numbers alone: one made of a text may carry a zone id, which is any text."""
        return _network(self.packed, self.prefixlen)

    def is_in_force(self, now: float) -> bool:
        """Say whether it has not ended."""
        return self.end is None or self.end > now

    @property
    def version(self) -> int:
        """Give the version of its addresses: 4 or 6."""
        return 4 if len(self.packed) == 4 else 6

    @property
    def is_host(self) -> bool:
        """Say whether it is about a single address or an IPv6 /64."""
        return self.prefixlen == 8 * len(self.packed) or self.prefixlen == 64


def _network(packed: bytes, prefixlen: int) -> Network:
    if len(packed) == 16:
        return IPv6Network((packed, prefixlen))
    return host_network(int.from_bytes(packed)) if prefixlen == 32 else IPv4Network((packed, prefixlen))


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and their bytes."""

    packets: int
    bytes: int

    def __add__(self, other: "Count") -> "Count":
        """Give both together."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)


NONE = Count(0, 0)

Late = Callable[[], Awaitable[Sequence[Block]]]


async def nobody() -> Sequence[Block]:
    """Give no blocks: nobody came late."""
    return ()


async def all_of(blocks: Iterable[Block], late: Late) -> list[Block]:
    """Give the blocks, and those that come late until no more do."""
    found: list[Block] = []
    rest = iter(blocks)
    while part := list(islice(rest, TAKEN_AT_ONCE)):
        found += part
        await give_way()
    while more := await late():
        found += more
    return found


class Firewall(Protocol):
    """One kind of enforcement."""

    name: str

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Make the firewall hold exactly this, whatever it held: networks never shut out, and the blocks.

        A load that takes long takes the blocks as it goes, lets the event loop run, and asks `late` now and then for
        blocks that have come meanwhile. It asks again when it has taken all blocks, until it is given none. Those that
        come still later are given by a `change` afterwards.
        """
        ...

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Add or renew blocks and remove others, whatever their ends, in one step.

        Removing what is not there is no error.
        """
        ...

    def refusal(self, ports: str) -> str:
        """Say why blocks of some ports alone cannot be held; nothing if they can. Asked before they are given.

        It is not for the firewall of one service to say that of the ports of others.
        """
        ...

    async def lift(self) -> None:
        """Take away everything that is ours. May be repeated."""
        ...

    async def intact(self) -> bool:
        """Say whether what `replace` made is still there, and was not taken away by somebody else."""
        ...

    async def missing(self) -> Sequence[str]:
        """Give the keys of blocks that somebody has taken out since this was last asked, as far as was heard.

        What we took out ourselves may be among them. Of very many it gives some, and calls `suspect` (see `watch`) to
        be asked for more. To be asked before `intact`.
        """
        ...

    def watch(self, suspect: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `suspect` on the running loop when something of ours may have been taken away; `intact` says whether.

        A firewall that hears nothing never calls it.
        """
        ...

    async def dropped(self) -> int | None:
        """Give the number of packets dropped so far; None if the firewall does not count."""
        ...

    async def counts(self) -> Mapping[str, Count]:
        """Give what was dropped so far, by jail; nothing if the firewall does not count that."""
        ...
