"""Our table changed over netlink, without a process.

Theory of operation. What fits one slice is one transaction; that is every ban and lifting, and the first table of a
small host. A longer load is given slice by slice: the event loop goes on in between, and so do new bans, which are
given between two slices, at once and alone (`late`), instead of waiting for the end. Where no table of ours is in the
kernel, every slice protects from the moment it is there. Where one is, a second table is filled beside it, so that both
shut out; then the first is made anew, slice by slice behind the second, which is taken away at the end. So there is no
moment in which what was shut out before and after is let in. A small table is made anew that way too: one transaction
that puts a new table in the place of an old one lets in a packet that passes the new chain just before and the old one
just after it.

To renew an element is to remove it and to add it in the same transaction, because kernels before 6.12 ignore a new
timeout for one that is there. Removing one that is missing fails there too, so `destroy` does it, or where the kernel
has none (before 6.3) it is added first; which of the two is tried once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from appguard.address import Network
from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls.base import Block
from appguard.firewalls.netlink import SMALL, Message, SetFullError, commit, room
from appguard.firewalls.nft_messages import (
    Template,
    add_counter,
    add_hosts,
    allow_networks,
    ban_networks,
    by_kind,
    counter_of,
    flush_set,
    remove_hosts,
    remove_table,
    second_table,
    table_identity,
)
from appguard.firewalls.nft_ports import PortLists, Wide, pieces_of, stub_script, wide_of
from appguard.firewalls.nft_script import Shape, ports_script, remove_script, run_nft, table_script
from appguard.turns import give_way, turns

SLICE = 100  # networks; a quarter of a millisecond, which a new ban may have to wait
LOUD = 256 << 10  # bytes of messages from which on a thread sends them, lest the event loop stand still

Late = Callable[[], Awaitable[Sequence[Block]]]


class NotTakenError(FirewallError):
    """This kernel does not take back what it says of a table."""


class NetlinkTransport:
    """Changes the table of this name; `program` is nft, which is asked once what `table.nft` means.

    `destroy` says whether the kernel has it; None finds out.
    """

    def __init__(
        self,
        table: str,
        program: str,
        shape: Shape,
        clock: Callable[[], float],
        lists: PortLists,
        *,
        destroy: bool | None = None,
    ) -> None:
        self._table = table
        self._second = second_table(table)
        self._pattern = f"{table}_pattern"
        self._program = program
        self._shape = shape
        self._clock = clock
        self._destroy = destroy
        self._lists = lists
        self._template: Template | None = None
        self._of_lists: dict[str, Template] = {}
        self._made: dict[str, set[str]] = {}  # by table: the lists of ports and the counters it has

    async def prepare(self) -> None:
        """Learn how to make the table; raise `NotTakenError` if that cannot be done over netlink here."""
        self._template = await self._learn(table_script(self._pattern, self._shape))

    async def _learn(self, script: str) -> Template:
        """Have nft make a table of the pattern's name by a script, and learn from it."""
        await run_nft(self._program, script)
        try:
            template = Template.read(self._pattern)
            commit(template.make(self._pattern))
        except FirewallPermissionError:
            raise
        except (FirewallError, FileNotFoundError) as error:
            raise NotTakenError(str(error)) from error
        finally:
            commit(remove_table(self._pattern))
        return template

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late) -> Wide:
        """Make the table anew; give the wide networks it holds."""
        if self._template is None:
            await self.prepare()
        rest = iter(blocks)
        first = list(islice(rest, SLICE))
        while len(first) < SLICE and (more := await late()):
            first += more
        is_there = table_identity(self._table) is not None
        if len(first) < SLICE and not is_there:
            wide = wide_of(first)
            messages = [*self._empty(self._table, allow), *remove_table(self._second)]
            messages += [*await self._hosts(self._table, first), *self._wide(self._table, wide)]
            await self._commit(messages)
            return wide
        given: Iterable[Block] = chain(first, rest)
        if is_there:
            given, _ = await self._load(self._second, allow, given, late)
        _, wide = await self._load(self._table, allow, given, late)
        commit(remove_table(self._second))
        return wide

    async def _load(
        self, table: str, allow: Sequence[Network], blocks: Iterable[Block], late: Late
    ) -> tuple[Iterable[Block], Wide]:
        """Make a table in slices; give all it holds, and the wide networks among it, which come last."""
        given: list[Block] = []
        wide: Wide = {}
        first = self._empty(table, allow)

        async def add(part: Sequence[Block]) -> None:
            if part or first:
                await self._commit([*first, *await self._hosts(table, part)])
                wide.update(wide_of(part))
                given.extend(part)
                first.clear()

        rest = iter(blocks)
        await add(await late())
        while part := list(islice(rest, SLICE)):
            await add(part)
            async for _ in turns():
                await add(await late())
        await self._commit(self._wide(table, wide))
        return given, wide

    async def change(self, hosts: Sequence[tuple[Block, Block | None]], wide: Wide | None) -> None:
        """Remove hosts and add, if there is one, the other of each pair; give all other networks anew unless None."""
        made: list[Message] = []
        more: list[Message] = []
        if wide is not None:
            made = await self._missing(self._table, {ports for _, ports in wide}, {jail for _, jail in wide.values()})
            endings = map(self._lists.ending, ("", *self._made[self._table].intersection(self._of_lists)))
            more = [flush_set(self._table, f"ban{version}_net{ending}") for ending in endings for version in (4, 6)]
            more += self._wide(self._table, wide)
        rest = iter(hosts)
        part = list(islice(rest, SLICE))
        await self._renew(part, made, more)
        while part := list(islice(rest, SLICE)):
            await give_way()
            await self._renew(part, (), ())

    async def _renew(
        self, part: Sequence[tuple[Block, Block | None]], first: Sequence[Message], more: Sequence[Message]
    ) -> None:
        """Remove hosts, add those that have not ended, do more, and learn which way this kernel has of removing.

        What `first` makes is there for all of them.
        """
        old, new = [block for block, _ in part], [block for _, block in part if block is not None]
        jails = {block.jail for block in chain(old, new)}
        made = [*first, *await self._missing(self._table, {block.ports for block in old}, jails)]
        then = [*add_hosts(self._table, by_kind(new, self._clock()), self._lists), *more]
        if self._destroy is not False:
            try:
                await self._commit([*made, *remove_hosts(self._table, old, self._lists, destroy=True), *then])
            except (FirewallPermissionError, SetFullError):
                raise
            except FirewallError:
                if self._destroy:
                    raise
            else:
                self._destroy = True if old else self._destroy
                return
        await self._commit([*made, *remove_hosts(self._table, old, self._lists, destroy=False), *then])
        self._destroy = False

    async def lift(self) -> None:
        """Take the table away."""
        commit([*remove_table(self._table), *remove_table(self._second)])

    async def _commit(self, messages: Sequence[Message]) -> None:
        """Send messages in one batch, or in several if one is more than a socket takes."""
        size = sum(len(message.attributes) for message in messages)
        for batch in _batches(messages, room() if size > SMALL // 2 else SMALL):
            if size < LOUD:
                commit(batch)
            else:
                await asyncio.to_thread(commit, batch)

    def _empty(self, table: str, allow: Sequence[Network]) -> list[Message]:
        assert self._template is not None
        self._made[table] = {counter_of("")}
        messages = self._template.make(table)
        for version in (4, 6):
            messages += allow_networks(table, f"allow{version}", (net for net in allow if net.version == version))
        return messages

    async def _hosts(self, table: str, blocks: Sequence[Block]) -> list[Message]:
        """Give what adds the hosts among blocks, and what the table lacks for any of the blocks."""
        kinds = by_kind(blocks, self._clock())
        messages = await self._missing(table, {ports for _, _, ports, _ in kinds}, {jail for *_, jail in kinds})
        return [*messages, *add_hosts(table, kinds, self._lists)]

    async def _missing(self, table: str, lists: Iterable[str], jails: Iterable[str]) -> list[Message]:
        """Give what makes the lists of ports and counters that a table does not have yet."""
        made = self._made.setdefault(table, {counter_of("")})
        messages = [add_counter(table, name) for name in map(counter_of, jails) if name not in made]
        made.update(map(counter_of, jails))
        for ports in lists:
            if not ports or ports in made:
                continue
            if ports not in self._of_lists:
                script = ports_script(self._pattern, self._shape, self._lists, ports)
                stub = remove_script(self._pattern) + stub_script(self._pattern)
                self._of_lists[ports] = await self._learn(stub + script)
            messages += self._of_lists[ports].add(table)
            made.add(ports)
        return messages

    def _wide(self, table: str, wide: Wide) -> list[Message]:
        now = self._clock()
        messages: list[Message] = []
        for name, pieces in pieces_of(wide, self._lists).items():
            left = ((piece, end - now, jail) for piece, end, jail in pieces)
            messages += ban_networks(table, name, left)
        return messages


def _batches(messages: Sequence[Message], most: int) -> Iterator[list[Message]]:
    """Give as many messages at a time as fit."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        size += len(message.attributes) + 32  # its header, and as much again to spare
        if batch and size > most:
            yield batch
            batch, size = [], len(message.attributes) + 32
        batch.append(message)
    yield batch
