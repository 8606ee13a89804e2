"""The nftables firewall: one table of our own, `table.nft`.

Hosts and IPv6 /64s are elements of hash sets, which the kernel forgets at their timeout. Other networks are few; they
live in interval sets, which take no overlapping elements, so these sets are always written whole, cut into pieces
(`disjoint.py`) from the list kept here. How a change gets to the kernel is the transport's matter: over netlink
(`nft_netlink.py`), or by `nft -f -` (`nft_script.py`) where this kernel refuses that or the settings say so.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Protocol

from appguard.address import Network
from appguard.errors import FirewallFullError
from appguard.firewalls.base import NONE, Block, Count, Late, nobody
from appguard.firewalls.netlink import SetFullError
from appguard.firewalls.nft_messages import counters, first_keys, has_element, jail_of, table_identity
from appguard.firewalls.nft_netlink import NetlinkTransport, NotTakenError
from appguard.firewalls.nft_ports import LISTS_MOST, PortLists, Wide, first_ports, pieces_of, wide_of
from appguard.firewalls.nft_script import COUNT, ScriptTransport, Shape
from appguard.firewalls.nft_watch import Watch

TABLE = "appguard"
LEASE = 7 * 86400.0
NETLINK, SCRIPT = "netlink", "nft"  # the transports

log = logging.getLogger("appguard.firewall")


class Transport(Protocol):
    """How a change gets to the kernel. Each verb does all of it or raises `FirewallError`."""

    async def replace(
        self,
        allow: Sequence[Network],
        blocks: Iterable[Block],
        late: Callable[[], Awaitable[Sequence[Block]]],
    ) -> Wide:
        """Make the table anew; give the wide networks it holds. See `Firewall.replace`. All blocks have ends."""
        ...

    async def change(self, hosts: Sequence[tuple[Block, Block | None]], wide: Wide | None) -> None:
        """Remove hosts and add, if there is one, the other of each pair; give all other networks anew unless None."""
        ...

    async def lift(self) -> None:
        """Take the table away."""
        ...


class Nftables:
    """Drops packets in the kernel.

    `lease` is how long a block without an end lasts unless it is renewed, `program` is nft by name or path, `size` the
    number of hosts of each kind the kernel is to hold at most. `transport` is "netlink" or "nft"; None finds out.
    `block` is "drop", "reject" (seldom enough for a flood), "log" (and drop) or "count" (and let in: it shows what
    would be dropped). `outbound` is "keep", or "cut" for who needs not reach banned addresses.
    """

    name: str = "nftables"

    def __init__(
        self,
        *,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
        program: str = "nft",
        transport: str | None = None,
        size: int | None = None,
        block: str = "drop",
        outbound: str = "keep",
        destroy: bool | None = None,
    ) -> None:
        if block == COUNT:
            self.name = "nftables (counts only)"
        self._lease = lease
        self._clock = clock
        self._size = size
        shape = Shape(size, block, outbound)
        self._lists = PortLists()
        self._netlink = NetlinkTransport(TABLE, program, shape, clock, self._lists, destroy=destroy)
        self._script = ScriptTransport(TABLE, program, shape, clock, self._lists)
        self._transport: Transport = self._script if transport == SCRIPT else self._netlink
        self._is_chosen = transport is not None
        self._watch = Watch(TABLE)
        self._let_in: tuple[Network, ...] = ()
        self._wide: Wide = {}
        self._lists_there = {""}  # those the table has rules for
        self._earlier: Mapping[str, Count] = {}  # what tables of before have counted
        self._counted: Mapping[str, Count] = {}  # and this one, when that was last asked
        self._identity: bytes | None = None

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Load the table anew in place of whatever it was; there is no moment without one."""
        await self._choose()
        let_in: list[Network] = [
            *collapse_addresses(network for network in allow if isinstance(network, IPv4Network)),
            *collapse_addresses(network for network in allow if isinstance(network, IPv6Network)),
        ]

        async def came_late() -> list[Block]:
            return list(self._in_force(await late()))

        self._lists_there = {""}
        earlier = await self.counts()
        with self._room(), self._watch.paused():
            self._wide = await self._transport.replace(let_in, self._in_force(blocks), came_late)
        self._let_in = tuple(let_in)
        self._earlier, self._counted = earlier, {}
        self._identity = table_identity(TABLE)
        self._watch.settle()

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Add, renew and remove elements, in one transaction if they are not thousands."""
        now, lists_before = self._clock(), len(self._lists_there)
        new = {block.key: block for block in self._in_force(add)}
        old = {block.key: block for block in (*add, *remove) if block.ports in self._lists_there}
        hosts = [(block, new.get(key)) for key, block in old.items() if block.is_host]
        gone = wide_of(old.values())
        wide = {place: end for place, end in self._wide.items() if end[0] > now and place not in gone}
        wide |= wide_of(new.values())
        with self._room():
            await self._transport.change(hosts, wide if wide != self._wide else None)
        self._wide = wide
        if len(self._lists_there) > lists_before:  # so there are new rules, and they are ours
            self._identity = table_identity(TABLE)

    def refusal(self, ports: str) -> str:
        """Say so where there are too many lists of ports already."""
        return "" if self._lists.takes(ports) else f"nftables has bans of {LISTS_MOST} other lists of ports already"

    async def lift(self) -> None:
        """Take the table away."""
        await self._transport.lift()
        self._wide = {}
        self._identity = None

    async def intact(self) -> bool:
        """Say whether the table and its rules are those we made. Who misses single elements asks `missing`."""
        if self._watch.is_lost:
            return False
        return self._identity is not None and self._identity == table_identity(TABLE)

    def watch(self, suspect: Callable[[], None]) -> AbstractContextManager[None]:
        """Hear of every change of nf_tables, our own too."""
        return self._watch(suspect)

    async def missing(self) -> Sequence[str]:
        """Give the hosts that were taken out of the table and are not there."""
        taken = [(name, packed, self._lists.key(name, packed)) for name, packed in self._watch.taken()]
        if any(key is None for _, _, key in taken) and not self._has_networks():
            self._identity = None  # everything is made anew
        return [key for name, packed, key in taken if key is not None and not has_element(TABLE, name, packed)]

    def _has_networks(self) -> bool:
        """Say whether the table has all networks that are let in, those shut out that are no hosts, and all ports."""
        now = self._clock()
        ought = {name: [piece for piece, end, _ in of_set if end > now] for name, of_set in self._pieces().items()}
        ought |= {f"allow{version}": [one for one in self._let_in if one.version == version] for version in (4, 6)}
        first = {name: {one.network_address.packed for one in networks} for name, networks in ought.items()}
        first |= {f"ports{self._lists.ending(ports)}": first_ports(ports) for ports in self._lists_there if ports}
        return all(keys <= first_keys(TABLE, name) for name, keys in first.items())

    def _pieces(self) -> dict[str, list[tuple[Network, float, str]]]:
        return pieces_of(self._wide, self._lists)

    async def dropped(self) -> int:
        """Give the number of packets of banned addresses dropped by our tables, those of before included."""
        return sum(count.packets for count in (await self.counts()).values())

    async def counts(self) -> Mapping[str, Count]:
        """Give the same by jail. Of a table that somebody took away what it had when this was last asked counts."""
        found = ((jail_of(name), count) for name, count in counters(TABLE).items())
        self._counted = {jail: Count(*count) for jail, count in found if jail is not None} or self._counted
        jails = dict.fromkeys((*self._earlier, *self._counted))
        return {jail: self._earlier.get(jail, NONE) + self._counted.get(jail, NONE) for jail in jails}

    async def _choose(self) -> None:
        """Find out once whether this kernel can be told everything over netlink."""
        if self._is_chosen:
            return
        try:
            await self._netlink.prepare()
        except NotTakenError as error:
            log.warning("bans go through nft, each a process, because the kernel refuses them over netlink: %s", error)
            self._transport = self._script
        self._is_chosen = True

    def _in_force(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Give the blocks that have not ended, each with an end; no more lists of ports than there is room for."""
        now = self._clock()
        for block in blocks:
            end, ports = block.end, block.ports
            if end is not None and end <= now:
                continue
            if ports:
                if not self._lists.takes(ports):  # see `refusal`
                    continue
                self._lists_there.add(ports)
            yield block if end is not None else block._replace(end=now + self._lease)

    @contextmanager
    def _room(self) -> Generator[None]:
        try:
            yield
        except SetFullError as error:
            kind = self._lists.host_set(error.name)
            if self._size is None or kind is None:
                raise
            version, prefixlen, ports = kind
            raise FirewallFullError(str(error), version, prefixlen, self._size, ports) from error
