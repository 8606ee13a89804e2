"""What becomes of bans for which a firewall has no room: the temporary ones that end soonest are left out.

A few more than must be are left out, because to look for them costs as much as there are blocks, and somebody with
many addresses to be banned would have us look each time. Permanent blocks stay: a person asked for them.
"""

import heapq
import logging
from collections.abc import Mapping

from appguard.errors import FirewallFullError
from appguard.firewalls.base import Block

SPARE = 100  # one in so many is left out besides

log = logging.getLogger("appguard.bouncer")


class Room:
    """Remembers whom a full firewall left out, by key."""

    def __init__(self) -> None:
        self._left_out: dict[str, float] = {}  # with the end
        self._freed = 0

    def __contains__(self, key: str) -> bool:
        return key in self._left_out

    def make(self, blocks: Mapping[str, Block], full: FirewallFullError) -> list[str]:
        """Choose who of these is left out so that the others have room, soonest end first, and say so."""
        kind = [
            (block.end, key)
            for key, block in blocks.items()
            if _kind(block) == (full.version, full.prefixlen, full.ports)
        ]
        if len(kind) <= full.size:
            return []
        temporary = [(end, key) for end, key in kind if end is not None]
        out = heapq.nsmallest(len(kind) - full.size + full.size // SPARE, temporary)
        self._left_out.update((key, end) for end, key in out)
        if out:
            log.error("%s: the %d bans that end soonest are not enforced, %s first", full, len(out), out[0][1])
        return [key for _, key in out]

    def forget(self, key: str) -> None:
        """Forget a ban that has ended or was lifted."""
        self._left_out.pop(key, None)

    def free(self) -> None:
        """Note that one block has gone."""
        self._freed += 1 if self._left_out else 0

    def take_back(self) -> list[str]:
        """Give those, of the latest end, that are to be enforced now in place of blocks that have gone."""
        back = heapq.nlargest(self._freed, self._left_out, key=self._left_out.__getitem__)
        self._freed = 0
        for key in back:
            del self._left_out[key]
        return back


def _kind(block: Block) -> tuple[int, int, str]:
    return block.version, block.prefixlen, block.ports
