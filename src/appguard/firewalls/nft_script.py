"""Our table changed by `nft -f -`, a process and a transaction for each change: the fallback of `nft_netlink.py`.

Three facts shape the scripts: deleting a missing element fails the whole transaction, so it is added first; kernels
before 6.12 ignore a new timeout for an element that is there, so it is deleted first; a timeout of 0 means for ever, so
none is ever written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address

from appguard.address import Network
from appguard.ban import is_host
from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block
from appguard.firewalls.netlink import NEEDS_CAPABILITY, SetFullError
from appguard.firewalls.nft_messages import counter_of, milliseconds, second_table, set_of
from appguard.firewalls.nft_ports import PortLists, Wide, pieces_of, wide_of
from appguard.firewalls.program import run

PATIENCE = 60.0  # seconds nft may take; 200,000 elements take less than two
WORDS_MOST = 300
CUT, COUNT = "cut", "count"
_SELDOM = "limit rate 100/second burst 100 packets"
REFUSALS: dict[str, tuple[str, ...]] = {
    "drop": ("drop",),
    "reject": (f"meta l4proto tcp {_SELDOM} reject with tcp reset", f"meta l4proto != tcp {_SELDOM} reject", "drop"),
    "log": ('limit rate 10/second burst 20 packets log prefix "appguard ban: "', "drop"),
    COUNT: ("accept",),
}
_FULL = ("Too many open files in system", "No space left on device")


async def run_nft(program: str, script: str) -> None:
    """Have nft do what a script says, all of it or nothing."""
    done = await run((program, "-f", "-"), "install the package nftables", PATIENCE, text=script)
    if done.status:
        raise _error(done.words)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the settings say of the table.

    `size` is the most its hash sets take, `block` what becomes of a banned packet, `outbound` "keep" or "cut".
    """

    size: int | None = None
    block: str = "drop"
    outbound: str = "keep"


def table_script(table: str, shape: Shape) -> str:
    """Write a new, empty table in place of whatever has its name."""
    made = (files("appguard.firewalls") / "table.nft").read_text()
    made = made.replace("table inet appguard {", f"table inet {table} {{")
    made = made.replace("\t\tdrop\n", "".join(f"\t\t{statement}\n" for statement in REFUSALS[shape.block]))
    if shape.outbound == CUT:
        made = made.replace("hook prerouting priority -150", "hook prerouting priority -300")
        made = made.replace("\t\tct direction reply accept\n", "")
    return remove_script(table) + _shaped(made, shape)


def ports_script(table: str, shape: Shape, lists: PortLists, ports: str) -> str:
    """Write what a table needs besides for bans of these ports alone."""
    return _shaped(lists.script(table, ports), shape)


def _shaped(made: str, shape: Shape) -> str:
    if shape.block == COUNT:
        made = made.replace("counter name strays drop", "counter name strays return")
    if shape.size is not None:
        made = made.replace("flags timeout;", f"flags timeout; size {shape.size};")
    return made


def remove_script(table: str) -> str:
    """Write the removal of a table that may be missing."""
    return f"add table inet {table}\ndelete table inet {table}\n"


class ScriptTransport:
    """Changes the table of this name by a program, which is nft by name or path."""

    def __init__(self, table: str, program: str, shape: Shape, clock: Callable[[], float], lists: PortLists) -> None:
        self._table = table
        self._program = program
        self._shape = shape
        self._clock = clock
        self._lists = lists
        self._made: set[str] = set()  # the lists of ports that the table has

    async def replace(
        self,
        allow: Sequence[Network],
        blocks: Iterable[Block],
        late: Callable[[], Awaitable[Sequence[Block]]],
    ) -> Wide:
        """Make the table anew in one transaction; give the wide networks it holds."""
        held = {block.key: block for block in blocks}
        while more := await late():
            held.update((block.key, block) for block in more)
        wide = wide_of(held.values())
        self._made = set()
        await run_nft(self._program, await asyncio.to_thread(self._whole, allow, list(held.values()), wide))
        return wide

    def _whole(self, allow: Sequence[Network], blocks: Sequence[Block], wide: Wide) -> str:
        allowed = self._elements("add", ((f"allow{network.version}", _text(network)) for network in allow))
        hosts = [block for block in blocks if block.is_host]
        made = table_script(self._table, self._shape) + remove_script(second_table(self._table))
        return made + allowed + self._missing(blocks) + self._hosts(hosts) + self._wide(wide)

    async def change(self, hosts: Sequence[tuple[Block, Block | None]], wide: Wide | None) -> None:
        """Remove hosts and add, if there is one, the other of each pair; give all other networks anew unless None."""
        blocks = [block for pair in hosts for block in pair if block is not None]
        blocks += [Block.of(network, end, ports, jail) for (network, ports), (end, jail) in (wide or {}).items()]
        script = self._missing(blocks)
        old = [(self._set_of(block), _text(block.network), counter_of(block.jail)) for block, _ in hosts]
        script += self._elements("add", ((name, f'{host} : "{counter}"') for name, host, counter in old))
        script += self._elements("delete", ((name, host) for name, host, _ in old))
        script += self._hosts([block for _, block in hosts if block is not None])
        if wide is not None:
            endings = map(self._lists.ending, ("", *self._made))
            names = [f"ban{version}_net{ending}" for ending in endings for version in (4, 6)]
            script += "".join(f"flush map inet {self._table} {name}\n" for name in names) + self._wide(wide)
        if script:
            await run_nft(self._program, script)

    async def lift(self) -> None:
        """Take the table away."""
        await run_nft(self._program, remove_script(self._table) + remove_script(second_table(self._table)))

    def _missing(self, blocks: Sequence[Block]) -> str:
        """Write what makes the counters and lists of ports of some blocks, where they are not there."""
        counters = sorted({counter_of(block.jail) for block in blocks})
        lists = sorted({block.ports for block in blocks if block.ports} - self._made)
        self._made.update(lists)
        script = "".join(f"add counter inet {self._table} {name}\n" for name in counters)
        return script + "".join(ports_script(self._table, self._shape, self._lists, ports) for ports in lists)

    def _set_of(self, block: Block) -> str:
        return set_of(block) + self._lists.ending(block.ports)

    def _hosts(self, blocks: Sequence[Block]) -> str:
        now = self._clock()
        return self._elements(
            "add",
            ((self._set_of(each), _banned(each.network, (each.end or 0.0) - now, each.jail)) for each in blocks),
        )

    def _wide(self, wide: Wide) -> str:
        now = self._clock()
        pieces = pieces_of(wide, self._lists).items()
        return self._elements(
            "add", ((name, _banned(piece, end - now, jail)) for name, of_set in pieces for piece, end, jail in of_set)
        )

    def _elements(self, verb: str, elements: Iterable[tuple[str, str]]) -> str:
        """Write one statement per set for elements given with the name of their set."""
        by_set: dict[str, list[str]] = {}
        for name, element in elements:
            by_set.setdefault(name, []).append(element)
        return "".join(f"{verb} element inet {self._table} {name} {{ {', '.join(by_set[name])} }}\n" for name in by_set)


def _banned(network: Network, seconds: float, jail: str) -> str:
    return f'{_text(network)} {_timeout(seconds)} : "{counter_of(jail)}"'


def _error(words: str) -> FirewallError:
    """Make an error of what nft said; it repeats the whole script line, which may be long."""
    lines = words.splitlines()
    said = next((line for line in lines if "rror" in line or "not permitted" in line), words)
    said = said.strip()[:WORDS_MOST] or "no reason given"
    if "not permitted" in words:
        return FirewallPermissionError(f"{NEEDS_CAPABILITY}; nft: {said}")
    if said.endswith(_FULL):
        statement = next((line for line in lines if line.startswith("add element inet ")), "")
        return SetFullError(f"nft: {said}", (statement.split(maxsplit=5) + 5 * [""])[4])
    return FirewallError(f"nft: {said}")


def _text(network: Network) -> str:
    """Write a network from its numbers alone: an IPv6 network may carry a zone id, which is any text at all."""
    number = int(network.network_address)
    address = IPv4Address(number) if network.version == 4 else IPv6Address(number)
    return str(address) if is_host(network) else f"{address}/{network.prefixlen}"


def _timeout(seconds: float) -> str:
    """Write a timeout so that no number in it is long enough for nft to refuse it."""
    days, left = divmod(milliseconds(seconds), 86_400_000)
    return f"timeout {days}d{left // 1000}s{left % 1000}ms"
