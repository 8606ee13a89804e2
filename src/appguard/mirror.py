"""The mirror of a firewall: what the bouncer has given it, and when."""

from appguard.firewalls.base import Block

RENEWAL = 86400.0  # seconds after which a block without an end is renewed; far less than any firewall's lease


class Mirror(dict[str, tuple[Block, float]]):
    """By the key of its ban, each block and when it was given."""

    def __init__(self, now: float = 0.0) -> None:
        super().__init__()
        self._looked_at = now  # all that is noted was given since

    def blocks(self) -> dict[str, Block]:
        """Give the blocks alone."""
        return {key: block for key, (block, _) in self.items()}

    def is_stale(self, key: str, now: float) -> bool:
        """Say whether a block has no end and is to be renewed."""
        block, given = self[key]
        return block.end is None and not given <= now < given + RENEWAL

    def stale(self, now: float) -> list[str]:
        """Give what is to be renewed; looks seldom, because with 100,000 blocks it takes 20 milliseconds."""
        if 0 <= now - self._looked_at < RENEWAL / 24:
            return []
        self._looked_at = now
        return [key for key in self if self.is_stale(key, now)]
