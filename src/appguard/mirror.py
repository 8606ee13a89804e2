"""The mirror of a firewall: what the bouncer has given it, and when."""

from appguard.firewalls.base import Block

RENEWAL = 86400.0  # seconds after which a block without an end is renewed; far less than any firewall's lease


class Mirror(dict[str, Block]):
    """By the key of its ban, each block. When it was given is noted of those without an end."""

    def __init__(self, now: float = 0.0) -> None:
        super().__init__()
        self._given: dict[str, float] = {}
        self._looked_at = now  # all that is noted was given since

    def hold(self, key: str, block: Block, now: float) -> None:
        """Note that a block was given."""
        self[key] = block
        if block.end is None:
            self._given[key] = now

    def is_stale(self, key: str, now: float) -> bool:
        """Say whether a block has no end and is to be renewed."""
        given = self._given.get(key, now)
        return self[key].end is None and not given <= now < given + RENEWAL

    def stale(self, now: float) -> list[str]:
        """Give what is to be renewed; looks seldom, because with 100,000 blocks it takes 20 milliseconds."""
        if 0 <= now - self._looked_at < RENEWAL / 24:
            return []
        self._looked_at = now
        self._given = {key: given for key, given in self._given.items() if key in self}
        return [key for key in self._given if self.is_stale(key, now)]
