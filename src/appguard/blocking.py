"""From a ban to the block a firewall is to hold, or to the reason why it is to hold none."""

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import inf

from appguard.ban import JAIL_NAME, Ban, Brief
from appguard.errors import FirewallFullError, RefusedForSafety
from appguard.firewalls.base import Block
from appguard.judge import Judge
from appguard.room import Room

log = logging.getLogger("appguard.bouncer")


def block_of(brief: Brief) -> Block | None:
    """Give the block that a ban told in brief asks for; None if what is told is none."""
    key, jail, end = brief
    if jail is None or not _is_jail(jail) or not (end is None or 0 <= end < inf):
        return None
    try:
        return Block.read(key, end, jail)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _is_jail(name: str) -> bool:
    return JAIL_NAME.fullmatch(name) is not None


class Blocking:
    """Asks the judge, and the firewall for its `refusal`; remembers by key whom they have not shut out, and why."""

    def __init__(self, judge: Judge, refusal: Callable[[str], str] = lambda ports: "") -> None:
        self.judge = judge
        self._refusal = refusal
        self.room = Room()
        self.refused: dict[str, tuple[Ban, str]] = {}
        self._forced: set[str] = set()

    def force(self, key: str) -> None:
        """Let a ban pass that the judge refuses unless forced, until it is forgotten."""
        self._forced.add(key)

    def forget(self, key: str) -> None:
        """Forget a ban that was lifted or has ended."""
        self.refused.pop(key, None)
        self._forced.discard(key)
        self.room.forget(key)

    def block(self, key: str, ban: Ban | None) -> Block | None:
        """Give what the firewall is to hold for a ban; None if there is none, or it is refused."""
        if ban is None or key in self.room:
            return None
        network, ports = ban.network, ban.ports
        block = Block(key, network.network_address.packed, network.prefixlen, ban.end, ports, ban.jail)
        why = self._why_not(block, force=key in self._forced)
        if why:
            if self.refused.get(key, (ban, ""))[1] != why:
                log.warning("[%s] %s is not enforced: %s", ban.jail, key, why)
            self.refused[key] = (ban, why)
            return None
        if self.refused:
            self.refused.pop(key, None)
        return block

    def may_hold(self, block: Block) -> bool:
        """Say whether a firewall may hold a block; one that it may not is not remembered."""
        return not self._why_not(block, force=False)

    def _why_not(self, block: Block, *, force: bool) -> str:
        if not self.judge.clears(block.packed, block.prefixlen):
            try:
                self.judge.check_network(block.network, force=force)
            except RefusedForSafety as error:
                return str(error)
        return self._refusal(block.ports) if block.ports else ""

    def leave_out(self, blocks: Mapping[str, Block], bans: Mapping[str, Ban], full: FirewallFullError) -> list[str]:
        """Choose who of these is not enforced in a full firewall. What was lifted meanwhile is going anyway."""
        out = self.room.make({key: block for key, block in blocks.items() if key in bans}, full)
        for key in out:
            self.refused[key] = (bans[key], f"the firewall has room for {full.size}, and others end later")
        return out
