"""The dry run: a firewall that remembers and logs what it was asked and shuts nobody out."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from appguard.address import Network
from appguard.errors import FirewallError
from appguard.event import time_text
from appguard.firewalls.base import Block, Count, Late, all_of, nobody

log = logging.getLogger("appguard.firewall")


class DryRun:
    """Keeps the blocks a real firewall would hold."""

    name = "dry_run"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.allow: tuple[Network, ...] = ()
        self._clock = clock
        self._blocks: dict[str, Block] | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Give the blocks that would be in force."""
        now = self._clock()
        return tuple(block for block in (self._blocks or {}).values() if block.is_in_force(now))

    async def replace(self, allow: Sequence[Network], blocks: Iterable[Block], late: Late = nobody) -> None:
        """Remember these and nothing else."""
        self.allow = tuple(allow)
        self._blocks = {block.key: block for block in await all_of(blocks, late)}
        log.info("dry run: would shut out %d networks", len(self.blocks))

    async def change(self, add: Sequence[Block], remove: Sequence[Block]) -> None:
        """Remember some more and forget others."""
        if self._blocks is None:
            raise FirewallError("dry run: nothing to change; replace comes first")
        gone = {block.key for block in remove}
        kept = {block.key: block for block in self.blocks if block.key not in gone}
        self._blocks = kept | {block.key: block for block in add}
        for block in add:
            until = "for ever" if block.end is None else f"until {time_text(block.end)}"
            log.info("dry run: would shut out %s %s", block.key, until)
        for block in remove:
            log.info("dry run: would let in %s", block.key)

    def refusal(self, ports: str) -> str:
        """Hold all."""
        del ports
        return ""

    async def lift(self) -> None:
        """Forget everything."""
        self.allow, self._blocks = (), None
        log.info("dry run: would let in everybody")

    async def intact(self) -> bool:
        """Say whether there was a `replace` and no `lift` since."""
        return self._blocks is not None

    async def missing(self) -> Sequence[str]:
        """Give nothing: nothing is heard."""
        return ()

    def watch(self, suspect: Callable[[], None]) -> AbstractContextManager[None]:
        """Hear nothing."""
        del suspect
        return nullcontext()

    async def dropped(self) -> int:
        """Give 0."""
        return 0

    async def counts(self) -> Mapping[str, Count]:
        """Give nothing."""
        return {}
