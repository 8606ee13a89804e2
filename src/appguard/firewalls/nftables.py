"""The nftables firewall: one table of our own (`table.nft`), every change one `nft -f -` transaction.

Hosts and IPv6 /64s are elements of hash sets, which the kernel forgets at their timeout. Other networks are few; they
live in interval sets, which take no overlapping elements, so these sets are always written whole, cut into pieces
(`disjoint.py`) from the list kept here. Three facts shape the scripts: deleting a missing element fails the whole
transaction, so it is added first; kernels before 6.12 ignore a new timeout for an element that is there, so it is
deleted first; a timeout of 0 means for ever, so none is ever written.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses

from appguard.address import Network
from appguard.ban import is_host
from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block
from appguard.firewalls.disjoint import disjoint
from appguard.firewalls.netlink import NEEDS_CAPABILITY, counted_packets, table_identity
from appguard.firewalls.program import run

TABLE = "appguard"
LEASE = 7 * 86400.0
LONGEST = 10 * 365 * 86400.0  # the longest timeout asked for; the kernel refuses much longer ones
PATIENCE = 60.0  # seconds nft may take; 200,000 elements take less than two
WORDS_MOST = 300

_REMOVE_TABLE = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
_FLUSH_WIDE = f"flush set inet {TABLE} ban4_net\nflush set inet {TABLE} ban6_net\n"


class Nftables:
    """Drops packets in the kernel.

    `lease` is how long a block without an end lasts unless it is renewed. `program` is nft, by name or path.
    """

    name = "nftables"

    def __init__(self, *, lease: float = LEASE, clock: Callable[[], float] = time.time, program: str = "nft") -> None:
        self._lease = lease
        self._clock = clock
        self._program = program
        self._wide: dict[Network, float] = {}
        self._identity: bytes | None = None

    async def replace(self, allow: Sequence[Network], blocks: Sequence[Block]) -> None:
        """Load the table anew in place of whatever it was; there is no moment without one."""
        now = self._clock()
        ends = {network: end for network, end in self._ends(blocks, now).items() if end > now}
        await self._run(await asyncio.to_thread(_table_script, allow, ends, now))
        self._wide = _wide_of(ends)
        self._identity = table_identity(TABLE)

    async def change(self, add: Sequence[Block], remove: Sequence[Network]) -> None:
        """Add, renew and remove elements in one transaction."""
        now = self._clock()
        asked = dict.fromkeys(remove, 0.0) | self._ends(add, now)
        ends = {network: end for network, end in asked.items() if end > now}
        wide = {network: end for network, end in self._wide.items() if end > now and network not in asked}
        wide |= _wide_of(ends)
        script = _removals(asked) + _hosts_script(ends, now)
        if wide != self._wide:
            script += _FLUSH_WIDE + _wide_script(wide, now)
        if script:
            await self._run(script)
        self._wide = wide

    async def lift(self) -> None:
        """Take the table away."""
        await self._run(_REMOVE_TABLE)
        self._wide = {}
        self._identity = None

    async def intact(self) -> bool:
        """Say whether the table and its rules are those we made. An element somebody took out is not missed."""
        return self._identity is not None and self._identity == table_identity(TABLE)

    async def dropped(self) -> int:
        """Give the number of packets of banned addresses dropped since `replace`."""
        return counted_packets(TABLE, "dropped")

    def _ends(self, blocks: Iterable[Block], now: float) -> dict[Network, float]:
        return {block.network: now + self._lease if block.end is None else block.end for block in blocks}

    async def _run(self, script: str) -> None:
        status, words = await run((self._program, "-f", "-"), "install the package nftables", PATIENCE, text=script)
        if status:
            raise _error(words)


def _error(words: str) -> FirewallError:
    """Make an error of what nft said; it repeats the whole script line, which may be long."""
    said = next((line for line in words.splitlines() if "rror" in line or "not permitted" in line), words)
    said = said.strip()[:WORDS_MOST] or "no reason given"
    if "not permitted" in words:
        return FirewallPermissionError(f"{NEEDS_CAPABILITY}; nft: {said}")
    return FirewallError(f"nft: {said}")


def _table_script(allow: Sequence[Network], ends: Mapping[Network, float], now: float) -> str:
    table = (files("appguard.firewalls") / "table.nft").read_text()
    collapsed: list[Network] = [
        *collapse_addresses(network for network in allow if isinstance(network, IPv4Network)),
        *collapse_addresses(network for network in allow if isinstance(network, IPv6Network)),
    ]
    allowed = _elements("add", ((f"allow{network.version}", _text(network)) for network in collapsed))
    return _REMOVE_TABLE + table + allowed + _hosts_script(ends, now) + _wide_script(_wide_of(ends), now)


def _removals(networks: Iterable[Network]) -> str:
    elements = [(_set_of(network), _text(network)) for network in networks if is_host(network)]
    return _elements("add", elements) + _elements("delete", elements)


def _hosts_script(ends: Mapping[Network, float], now: float) -> str:
    return _elements(
        "add",
        (
            (_set_of(network), f"{_text(network)} {_timeout(end - now)}")
            for network, end in ends.items()
            if is_host(network)
        ),
    )


def _wide_script(wide: Mapping[Network, float], now: float) -> str:
    return _elements(
        "add",
        ((f"ban{piece.version}_net", f"{_text(piece)} {_timeout(end - now)}") for piece, end in disjoint(wide)),
    )


def _wide_of(ends: Mapping[Network, float]) -> dict[Network, float]:
    return {network: end for network, end in ends.items() if not is_host(network)}


def _set_of(host: Network) -> str:
    return f"ban{host.version}" if host.prefixlen == host.max_prefixlen else "ban6_64"


def _elements(verb: str, elements: Iterable[tuple[str, str]]) -> str:
    """Write one statement per set for elements given with the name of their set."""
    by_set: dict[str, list[str]] = {}
    for name, element in elements:
        by_set.setdefault(name, []).append(element)
    return "".join(f"{verb} element inet {TABLE} {name} {{ {', '.join(by_set[name])} }}\n" for name in by_set)


def _text(network: Network) -> str:
    """Write a network from its numbers alone: an IPv6 network may carry a zone id, which is any text at all."""
    number = int(network.network_address)
    address = IPv4Address(number) if network.version == 4 else IPv6Address(number)
    return str(address) if is_host(network) else f"{address}/{network.prefixlen}"


def _timeout(seconds: float) -> str:
    """Write a timeout: never 0, which means for ever, and no number long enough for nft to refuse it."""
    milliseconds = max(1, int(min(seconds, LONGEST) * 1000))
    days, milliseconds = divmod(milliseconds, 86_400_000)
    return f"timeout {days}d{milliseconds // 1000}s{milliseconds % 1000}ms"
