"""Our table changed over netlink, without a process.

Theory of operation. What fits one slice is one transaction; that is every ban and lifting, and the first table of a
small host. A longer load is given slice by slice: the event loop goes on in between, and so do new bans, which are
taken into the next slice (`late`) instead of waiting for the end. Where no table of ours is in the kernel, every slice
protects from the moment it is there. Where one is, a second table is filled beside it, so that both shut out; then the
first is made anew, slice by slice behind the second, which is taken away at the end. So there is no moment in which
what was shut out before and after is let in. A small table is made anew that way too: one transaction that puts a new
table in the place of an old one lets in a packet that passes the new chain just before and the old one just after it.

To renew an element is to remove it and to add it in the same transaction, because kernels before 6.12 ignore a new
timeout for one that is there. Removing one that is missing fails there too, so `destroy` does it, or where the kernel
has none (before 6.3) it is added first; which of the two is tried once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from appguard.address import Network
from appguard.errors import FirewallError, FirewallPermissionError
from appguard.firewalls.disjoint import disjoint
from appguard.firewalls.netlink import SMALL, Message, SetFullError, commit, room
from appguard.firewalls.nft_messages import (
    Template,
    add_hosts,
    add_networks,
    flush_set,
    remove_hosts,
    remove_table,
    second_table,
    set_of,
    table_identity,
)
from appguard.firewalls.nft_script import Shape, run_nft, table_script
from appguard.turns import give_way

SLICE = 150  # networks; a millisecond or less, which a new ban may have to wait
LOUD = 256 << 10  # bytes of messages from which on a thread sends them, lest the event loop stand still

Ends = Iterable[tuple[Network, float]]
Late = Callable[[], Awaitable[Sequence[tuple[Network, float]]]]


class NotTakenError(FirewallError):
    """This kernel does not take back what it says of a table."""


class NetlinkTransport:
    """Changes the table of this name; `program` is nft, which is asked once what `table.nft` means.

    `destroy` says whether the kernel has it; None finds out.
    """

    def __init__(
        self, table: str, program: str, shape: Shape, clock: Callable[[], float], *, destroy: bool | None = None
    ) -> None:
        self._table = table
        self._second = second_table(table)
        self._pattern = f"{table}_pattern"
        self._program = program
        self._shape = shape
        self._clock = clock
        self._destroy = destroy
        self._template: Template | None = None

    async def prepare(self) -> None:
        """Learn how to make the table; raise `NotTakenError` if that cannot be done over netlink here."""
        await run_nft(self._program, table_script(self._pattern, self._shape))
        try:
            template = Template.read(self._pattern)
            commit(template.make(self._pattern))
        except FirewallPermissionError:
            raise
        except (FirewallError, FileNotFoundError) as error:
            raise NotTakenError(str(error)) from error
        finally:
            commit(remove_table(self._pattern))
        self._template = template

    async def replace(self, allow: Sequence[Network], ends: Ends, late: Late) -> dict[Network, float]:
        """Make the table anew; give the wide networks it holds."""
        if self._template is None:
            await self.prepare()
        rest = iter(ends)
        first = list(islice(rest, SLICE))
        while len(first) < SLICE and (more := await late()):
            first += more
        is_there = table_identity(self._table) is not None
        if len(first) < SLICE and not is_there:
            wide = _wide_of(first)
            messages = [*self._empty(self._table, allow), *remove_table(self._second)]
            messages += [*self._hosts(self._table, first), *self._wide(self._table, wide)]
            await self._commit(messages)
            return wide
        given: Ends = chain(first, rest)
        if is_there:
            given, _ = await self._load(self._second, allow, given, late)
        _, wide = await self._load(self._table, allow, given, late)
        commit(remove_table(self._second))
        return wide

    async def _load(
        self, table: str, allow: Sequence[Network], ends: Ends, late: Late
    ) -> tuple[Ends, dict[Network, float]]:
        """Make a table in slices; give all it holds, and the wide networks among it, which come last."""
        given: list[tuple[Network, float]] = []
        wide: dict[Network, float] = {}
        messages = self._empty(table, allow)
        rest = iter(ends)
        while True:
            part = list(islice(rest, SLICE))
            part += await late()
            if not part:
                break
            wide |= _wide_of(part)
            await self._commit([*messages, *self._hosts(table, part)])
            messages = []
            given += part
            await give_way()
        await self._commit([*messages, *self._wide(table, wide)])
        return given, wide

    async def change(self, hosts: Mapping[Network, float], wide: Mapping[Network, float] | None) -> None:
        """Give or renew hosts, remove those whose end has passed, and give all other networks anew unless None."""
        more: list[Message] = []
        if wide is not None:
            more = [flush_set(self._table, f"ban{version}_net") for version in (4, 6)]
            more += self._wide(self._table, wide)
        rest = iter(hosts.items())
        part = list(islice(rest, SLICE))
        await self._renew(part, more)
        while part := list(islice(rest, SLICE)):
            await give_way()
            await self._renew(part, ())

    async def _renew(self, part: Sequence[tuple[Network, float]], more: Sequence[Message]) -> None:
        """Remove hosts, add those that have not ended, do more, and learn which way this kernel has of removing."""
        old, now = [host for host, _ in part], self._clock()
        then = [*add_hosts(self._table, ((host, end) for host, end in part if end > now), now), *more]
        if self._destroy is not False:
            try:
                await self._commit([*remove_hosts(self._table, old, destroy=True), *then])
            except (FirewallPermissionError, SetFullError):
                raise
            except FirewallError:
                if self._destroy:
                    raise
            else:
                self._destroy = True if old else self._destroy
                return
        await self._commit([*remove_hosts(self._table, old, destroy=False), *then])
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
        messages = self._template.make(table)
        for version in (4, 6):
            let_in = ((network, None) for network in allow if network.version == version)
            messages += add_networks(table, f"allow{version}", let_in)
        return messages

    def _hosts(self, table: str, ends: Ends) -> Iterator[Message]:
        return add_hosts(table, ends, self._clock())

    def _wide(self, table: str, ends: Mapping[Network, float]) -> list[Message]:
        pieces, now = list(disjoint(ends)), self._clock()
        messages: list[Message] = []
        for version in (4, 6):
            left = ((piece, end - now) for piece, end in pieces if piece.version == version)
            messages += add_networks(table, f"ban{version}_net", left)
        return messages


def _wide_of(ends: Ends) -> dict[Network, float]:
    return {network: end for network, end in ends if set_of(network) is None}


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
