"""When bans end: which are over by now, without looking at the others."""

import heapq
from collections.abc import Iterable, Iterator

from appguard.ban import Ban

SPARE = 1_000

End = tuple[float, int, str]  # the time, and version and key of the ban


class Ends:
    """The ends of bans, and of what they were before they were extended or lifted, which who asks must pass over."""

    def __init__(self) -> None:
        self._heap: list[End] = []
        self._kept: list[End] = []

    def put(self, ban: Ban) -> None:
        """Note when a ban ends."""
        if ban.end is not None:
            heapq.heappush(self._heap, (ban.end, ban.version, ban.key))

    def is_stale(self, bans: int) -> bool:
        """Say whether most of the ends, where there are that many bans, are of what is no more."""
        return len(self._heap) > 2 * bans + SPARE

    def renew(self, bans: Iterable[Ban]) -> None:
        """Hold the ends of these bans and no others, and keep none."""
        self._kept = []
        self._heap = [(ban.end, ban.version, ban.key) for ban in bans if ban.end is not None]
        heapq.heapify(self._heap)

    def keep(self, ends: Iterable[End]) -> None:
        """Hold ends that were taken out, of bans that may count again, until they are surely over."""
        for end in ends:
            heapq.heappush(self._kept, end)

    def take(self, now: float, sure: float = 0.0) -> End | None:
        """Take out an end that is over, first one that is kept and over by `sure`."""
        for heap, time in ((self._kept, sure), (self._heap, now)):
            if heap and heap[0][0] <= time:
                return heapq.heappop(heap)
        return None

    def over(self, now: float) -> Iterator[End]:
        """Give all ends that are over or kept, in any order: what stands below one in the heap ends later."""
        places = [0]
        while places:
            place = places.pop()
            if place < len(self._heap) and self._heap[place][0] <= now:
                places += 2 * place + 1, 2 * place + 2
                yield self._heap[place]
        yield from self._kept
