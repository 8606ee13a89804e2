"""What the lines of one filter may cost together, and what is said of those that cost more.

Theory of operation. A line has its own budget (`expression.py`), but whoever knows a line that uses up all of it may
write a thousand of them. So searches with a time limit, which only regexes need that may take long, also share an
allowance: a little at once, and in the long run a part of the time. One search may take a part of what is left. While
somebody writes many lines that take long, each of them is given up sooner; lines that are quick are searched as ever.
"""

import logging
import time
from collections.abc import Callable

from appguard.filters.expression import Budget

AT_ONCE = 0.02  # seconds that many lines in a row may take beyond what is quick
SHARE = 0.1  # of the time, that they may take in the long run
PART = 0.1  # of what is left, for one search
QUICK = 0.00005  # seconds of a search that cost nothing of it, unless it was given up
SEARCH_LEAST = 0.00002  # seconds for one search, however little is left

log = logging.getLogger("appguard")


class Patience:
    """The budgets of a filter's lines. `clock` gives monotonic seconds; `skipped` counts the lines that took longer."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.skipped = 0
        self._name = name
        self._clock = clock
        self._left = AT_ONCE
        self._at = clock()

    @property
    def complaint(self) -> str:
        """Say how many lines were skipped; empty if none was."""
        return f"{self.skipped} lines were skipped: they take too long for its regexes" if self.skipped else ""

    def budget(self) -> Budget:
        """Give the budget of one line."""
        return Budget(allowance=self)

    def seconds(self) -> float:
        """Give how long one search may take now."""
        now = self._clock()
        self._left = min(AT_ONCE, self._left + SHARE * (now - self._at))
        self._at = now
        return max(SEARCH_LEAST, PART * self._left)

    def spend(self, seconds: float, *, is_over: bool) -> None:
        """Note how long a search took, and whether it was given up."""
        if is_over or seconds > QUICK:
            self._left = max(0.0, self._left - seconds)

    def skip(self) -> None:
        """Count a line that took too long; the first is logged."""
        self.skipped += 1
        if self.skipped == 1:
            log.warning(
                "filter %s: a line takes too long for its regexes and is skipped, as all such lines", self._name
            )
