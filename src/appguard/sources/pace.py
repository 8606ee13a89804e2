"""How much of a log is read in one turn: what can be counted in a few milliseconds, found out by how long turns take.

Of lines that tell nothing many are read at a time, because each turn costs something; of others so many that what is
made of them stays in the processor's cache, and that nobody else waits for long.
"""

from appguard.sources.generation import CHUNK_BYTES

TURN_MOST = 0.01  # seconds that a turn may take; then the next is given less
TURN_QUICK = 0.0025  # seconds; after a quicker one the next is given twice as much
BYTES_LEAST = 4 * 1024
BYTES_FIRST = 8 * 1024  # as long as nothing tells how slow the filters are
BYTES_SLOW = 24 * 1024  # at most, where any line may be slow, however quick the last ones were


class Pace:
    """Gives the bytes of the next turn. `may_be_slow`: some line may take a filter long."""

    def __init__(self, *, may_be_slow: bool = False) -> None:
        self.bytes = BYTES_FIRST
        self._most = BYTES_SLOW if may_be_slow else CHUNK_BYTES
        self._longest = 0.0  # seconds

    def took(self, seconds: float) -> None:
        """Note how long a turn took."""
        self._longest = max(self._longest, seconds)
        if seconds > TURN_MOST:
            self.bytes = max(BYTES_LEAST, int(self.bytes * TURN_MOST / seconds))

    def end_round(self, *, has_more: bool) -> None:
        """Note that each log had its turn. If there is no more, what comes next should not be long in reading."""
        if not has_more:
            self.bytes = min(self.bytes, max(BYTES_FIRST, self.bytes // 2))
        elif self._longest < TURN_QUICK:
            self.bytes = min(self._most, self.bytes * 2)
        self._longest = 0.0
