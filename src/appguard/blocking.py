"""From a ban to the block a firewall is to hold, or to the reason why it is to hold none."""

import logging
from collections.abc import Mapping

from appguard.address import Network, network_text
from appguard.ban import Ban
from appguard.errors import FirewallFullError, RefusedForSafety
from appguard.firewalls.base import Block
from appguard.judge import Judge
from appguard.room import Room

log = logging.getLogger("appguard.bouncer")


class Blocking:
    """Asks the judge, and remembers by key whom he refuses and for whom there is no room, and why."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.room = Room()
        self.refused: dict[str, tuple[Ban, str]] = {}
        self._forced: set[str] = set()

    def force(self, network: Network) -> None:
        """Let a ban of this network pass that the judge refuses unless forced, until it is forgotten."""
        self._forced.add(network_text(network))

    def forget(self, key: str) -> None:
        """Forget a ban that was lifted or has ended."""
        self.refused.pop(key, None)
        self._forced.discard(key)
        self.room.forget(key)

    def block(self, key: str, ban: Ban | None) -> Block | None:
        """Give what the firewall is to hold for a ban; None if there is none, or it is refused."""
        if ban is None or key in self.room:
            return None
        try:
            self.judge.check(ban, force=key in self._forced)
        except RefusedForSafety as error:
            if self.refused.get(key, (ban, ""))[1] != str(error):
                log.warning("[%s] %s is not enforced: %s", ban.jail, key, error)
            self.refused[key] = (ban, str(error))
            return None
        if self.refused:
            self.refused.pop(key, None)
        return Block(ban.network, ban.end, ban.ports, ban.jail)

    def may_hold(self, network: Network) -> bool:
        """Say whether the judge lets a network be shut out; whom he refuses is not remembered."""
        try:
            self.judge.check_network(network)
        except RefusedForSafety:
            return False
        return True

    def leave_out(self, blocks: Mapping[str, Block], bans: Mapping[str, Ban], full: FirewallFullError) -> list[str]:
        """Choose who of these is not enforced in a full firewall. What was lifted meanwhile is going anyway."""
        out = self.room.make({key: block for key, block in blocks.items() if key in bans}, full)
        for key in out:
            self.refused[key] = (bans[key], f"the firewall has room for {full.size}, and others end later")
        return out
