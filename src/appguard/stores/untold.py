"""What Redis must still be told, and what it was told but has not been heard to repeat.

A fact waits here from its decision until Redis has answered, and from then until the stream has brought it back: a
server that takes over may have lost what the old one had answered. What is not heard in time is told again. Told in
order, oldest first; of one network only the newest. Safe to use from any thread.

    new      just decided: always gets a version above what is known
    again    decided, perhaps told before: never undoes what was decided later elsewhere
    history  was the truth before Redis lost it: the higher version wins, nothing else counts
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from threading import Condition

from appguard.ban import Fact

MOST = 1_000_000
HEARD_WITHIN = 2.0  # seconds

Told = tuple[Fact, str]


class Untold:
    """A queue of facts with how to tell each."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: OrderedDict[str, Told] = OrderedDict()
        self._unheard: OrderedDict[str, tuple[Fact, float]] = OrderedDict()

    def renewed(self) -> "Untold":
        """Give a new one that holds the same: for a forked child, where the lock may be held for ever."""
        child = Untold()
        child._waiting, child._unheard = self._waiting.copy(), self._unheard.copy()
        return child

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, fact: Fact, how: str) -> None:
        """Have a fact told; what waits of its network is replaced, unless it is as new."""
        with self._changed:
            waiting = self._waiting.get(fact.key)
            if waiting is not None and waiting[0].version >= fact.version:
                return
            self._waiting.pop(fact.key, None)
            self._unheard.pop(fact.key, None)
            self._waiting[fact.key] = (fact, how)
            if len(self._waiting) > MOST:
                self._waiting.popitem(last=False)
            self._changed.notify_all()

    def take(self, most: int, wait: float) -> list[Told]:
        """Give the oldest, after waiting for one; they stay until `told`. Until then they are only told again."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(wait)
            self._tell_unheard_again()
            taken = [told for told, _ in zip(self._waiting.values(), range(most), strict=False)]
            for fact, how in taken:
                self._waiting[fact.key] = (fact, "again" if how == "new" else how)
            return taken

    def told(self, fact: Fact, kept: Fact | None) -> None:
        """Note an answer: `kept` is what must come back with the stream, None for nothing."""
        with self._changed:
            if self._waiting.get(fact.key, (None, ""))[0] is not fact:
                return
            del self._waiting[fact.key]
            if kept is not None:
                self._unheard[fact.key] = (kept, time.monotonic() + HEARD_WITHIN)

    def expect(self, fact: Fact) -> None:
        """Note that a fact which Redis has made must come back with the stream."""
        with self._changed:
            self._unheard[fact.key] = (fact, time.monotonic() + HEARD_WITHIN)

    def heard(self, facts: Sequence[Fact]) -> None:
        """Note what the stream brought: whatever is not newer need not be told any more."""
        with self._changed:
            for fact in facts:
                waiting = self._waiting.get(fact.key)
                if waiting is not None and waiting[0].version <= fact.version and waiting[1] != "new":
                    del self._waiting[fact.key]
                unheard = self._unheard.get(fact.key)
                if unheard is not None and unheard[0].version <= fact.version:
                    del self._unheard[fact.key]

    def wake(self) -> None:
        """End the wait of `take`."""
        with self._changed:
            self._changed.notify_all()

    def _tell_unheard_again(self) -> None:
        now = time.monotonic()
        while self._unheard:
            key, (fact, until) = next(iter(self._unheard.items()))
            if until > now:
                return
            del self._unheard[key]
            self._waiting.setdefault(key, (fact, "again"))
