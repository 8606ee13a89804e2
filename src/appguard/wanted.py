"""The bans that a firewall is to hold if the judge lets it, and which of them have ended."""

from collections.abc import Iterator

from appguard.ban import Ban
from appguard.stores.ends import Ends


class Wanted(dict[str, Ban]):
    """By its key each ban."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = Ends()

    def put(self, ban: Ban) -> None:
        """Want a ban."""
        self[ban.key] = ban
        self._ends.put(ban)
        if self._ends.is_stale(len(self)):
            self._ends.renew(self.values())

    def take_ended(self, now: float) -> Iterator[str]:
        """Give the keys of the bans that have ended, and want them no more."""
        while (end := self._ends.take(now)) is not None:
            key = end[2]
            ban = self.get(key)
            if ban is not None and not ban.in_force(now):
                del self[key]
                yield key
