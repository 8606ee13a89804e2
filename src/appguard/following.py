"""What the followers of the ban set are told: all bans first, then every change, at once.

Theory of operation. A cursor names one life of the daemon, a place in the history of its ban set, and how often
enforcement was switched, or what is let in changed. Who asks with the newest cursor waits until there is something
newer, but not longer than `WAIT`; who asks with an older one of this life is told the facts after it; who asks with any
other text is told all bans.
A follower asks with a cursor only when it has done all it was told up to there. So the daemon knows what has been done
without another message, and a follower that was away, or lost an answer, misses nothing.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from appguard.ban import Fact
from appguard.judge import Protected
from appguard.stores.base import BanSet

WAIT = 25.0  # seconds; less than a connection to the control socket may live
_CURSOR = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class News:
    """What a follower is told: the facts after its cursor, or with `whole` all bans in force, and the next cursor.

    `protected` is what else is let in, here and on other hosts; None if the follower knows that.
    """

    cursor: str
    whole: bool
    enforcing: bool
    facts: tuple[Fact, ...]
    protected: tuple[Protected, Protected] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which process asked last, and when it last asked or was still waiting for an answer (Unix seconds)."""

    pid: int
    time: float


class Following:
    """Tells followers what is new in a ban set. All is called on the daemon's event loop."""

    def __init__(self, ban_set: BanSet, clock: Callable[[], float] = time.time) -> None:
        self._ban_set = ban_set
        self._clock = clock
        self._life = secrets.token_hex(8)
        self._switches = 0
        self._done = 0  # switches
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self._waiting: list[int] = []
        self._last: Asked | None = None
        self._is_closed = False
        self._protected: tuple[Protected, Protected] = ((), ())
        self.enforcing = True

    @property
    def asked(self) -> Asked | None:
        """Say who asked last; None if nobody ever did. Who waits for an answer is asking now."""
        return Asked(self._waiting[-1], self._clock()) if self._waiting else self._last

    def tell(self) -> None:
        """Say that the ban set has changed: all who wait are answered."""
        self._changed.set()
        if not self._is_closed:
            self._changed = asyncio.Event()

    def switch(self, on: bool) -> None:
        """Tell followers to enforce, or to lift everything and hold."""
        self.enforcing = on
        self._switches += 1
        self.tell()

    def protect(self, let_in: Protected, others: Protected) -> None:
        """Tell followers what is let in beside the settings, and what other hosts of the fleet let in."""
        self._protected = (let_in, others)
        self._switches += 1
        self.tell()

    @property
    def changed(self) -> asyncio.Event:
        """Give what is set when the ban set changes next, or nobody may wait any more."""
        return self._changed

    async def done(self) -> None:
        """Wait until a follower has done the last switch."""
        while self._done < self._switches:
            await self._asked.wait()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._is_closed = True
        self.tell()

    async def news(self, cursor: str, pid: int) -> News:
        """Give what a process that has done everything up to its cursor does not know; wait until there is something.

        If nothing changes within `WAIT`, it is told that.
        """
        self._note(cursor, pid)
        self._waiting.append(pid)
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    changed = self._changed
                    news = self._after(cursor)
                    if news.cursor != cursor or self._is_closed:
                        return news
                    await changed.wait()
        except TimeoutError:
            return self._after(cursor)
        finally:
            self._waiting.remove(pid)
            self._last = Asked(pid, self._clock())

    def _note(self, cursor: str, pid: int) -> None:
        place = self._place(cursor)
        if place is not None:
            self._done = max(self._done, place[1])
        self._last = Asked(pid, self._clock())
        self._asked.set()
        self._asked = asyncio.Event()

    def _after(self, cursor: str) -> News:
        place = self._place(cursor)
        changes = self._ban_set.follow(place[0]) if place else None
        if changes is not None:
            protected = self._protected if place and place[1] != self._switches else None
            return News(self._cursor(changes.cursor), False, self.enforcing, changes.facts, protected)
        snapshot = self._ban_set.snapshot()
        facts = tuple(map(Fact.of, snapshot.bans))
        return News(self._cursor(snapshot.cursor), True, self.enforcing, facts, self._protected)

    def _place(self, cursor: str) -> tuple[int, int] | None:
        found = _CURSOR.fullmatch(cursor)
        if found is None or found[1] != self._life or int(found[3]) > self._switches:
            return None
        return int(found[2]), int(found[3])

    def _cursor(self, number: int) -> str:
        return f"{self._life}-{number}-{self._switches}"
