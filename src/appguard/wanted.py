"""The bans that a firewall is to hold if the judge lets it, and which of them have ended."""

import heapq
from collections.abc import Iterator

from appguard.ban import Ban

ENDS_SPARE = 1_000


class Wanted(dict[str, Ban]):
    """By its key each ban."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[tuple[float, str]] = []  # a heap

    def put(self, key: str, ban: Ban) -> None:
        """Want a ban."""
        self[key] = ban
        if ban.end is not None:
            heapq.heappush(self._ends, (ban.end, key))
        if len(self._ends) > 2 * len(self) + ENDS_SPARE:  # mostly of bans since extended or lifted
            self._ends = [(ban.end, key) for key, ban in self.items() if ban.end is not None]
            heapq.heapify(self._ends)

    def take_ended(self, now: float) -> Iterator[str]:
        """Give the keys of the bans that have ended, and want them no more."""
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            ban = self.get(key)
            if ban is not None and not ban.in_force(now):
                del self[key]
                yield key
