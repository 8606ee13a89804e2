"""What the followers of the ban set are told: all bans first, then every change, at once.

Theory of operation. A cursor names one life of the daemon, a place in the history of its ban set, and how often
enforcement was switched, or what is let in changed. Who asks with the newest cursor waits until there is something
newer, but not longer than `WAIT`; who asks with an older one of this life is told the facts after it; who asks with any
other text is told all bans. After a restart that is what is saved, read at once: to fill the ban set takes several
times as long. When it is filled, those who were told so are told what did not come back.
A follower asks with a cursor only when it has done all it was told up to there, or says that it is still at it: a load
takes long, and what is new must not wait for it. So the daemon knows what has been done without another message, and a
follower that was away, or lost an answer, misses nothing.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from appguard.ban import Ban, Brief, in_brief
from appguard.judge import Protected
from appguard.stores.memory import MemoryBanSet
from appguard.turns import give_way

WAIT = 25.0  # seconds; less than a connection to the control socket may live
TOGETHER = 0.01  # seconds for which what is restored is gathered before it is told, and what is new with it
READ_AT_ONCE = 1_000  # bans: a few milliseconds
_CURSOR = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class News:
    """What a follower is told, in brief: the facts after its cursor, or with `whole` all bans in force, newest first.

    And whether to enforce them, and the cursor to ask with next. `protected` is what is let in beside the settings,
    here and on other hosts; None if the follower knows that.
    """

    cursor: str
    whole: bool
    enforcing: bool
    facts: Sequence[Brief]
    protected: tuple[Protected, Protected] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which process asked last, and when it last asked or was still waiting for an answer (Unix seconds)."""

    pid: int
    time: float


class Following:
    """Tells followers what is new in a ban set. All is called on the daemon's event loop."""

    def __init__(self, ban_set: MemoryBanSet, clock: Callable[[], float] = time.time) -> None:
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
        self._saved: Callable[[], Iterable[Brief]] = tuple
        self._told: set[str] = set()  # keys of what is saved, as far as a follower was told
        self._lost: Sequence[Brief] = ()  # what of that did not come back, told with this switch
        self._restore_switch = 0
        self.enforcing = True
        self.restored = asyncio.Event()  # whether all bans are in the ban set
        self.loaded = asyncio.Event()  # whether no follower is taking what was saved
        self.restored.set()
        self.loaded.set()

    @property
    def asked(self) -> Asked | None:
        """Say who asked last; None if nobody ever did. Who waits for an answer is asking now."""
        return Asked(self._waiting[-1], self._clock()) if self._waiting else self._last

    def begin_restore(self, saved: Callable[[], Iterable[Brief]]) -> None:
        """Say that the ban set will be filled after a restart; who asks for all bans is told what is `saved`."""
        self._saved = saved
        self.restored.clear()

    def came_back(self, bans: Iterable[Ban]) -> None:
        """Say that some of what was saved was given to the ban set, which has lifted some of it perhaps."""
        self._told.difference_update(ban.key for ban in bans if self._ban_set.holds(ban))

    def end_restore(self) -> None:
        """Say that all bans are back; who was told of others that were saved is told that they are lifted."""
        there = {ban.key for ban in self._ban_set.snapshot().bans} if self._told else set[str]()  # seldom any is left
        self._lost = [(key, None, None) for key in self._told - there]
        self._saved, self._told = tuple, set()
        self._switches += 1
        self._restore_switch = self._switches
        self.restored.set()
        self.loaded.set()
        self.tell()

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

    async def news(self, cursor: str, pid: int, *, is_done: bool = True) -> News:
        """Give what a process that was told everything up to its cursor does not know; wait until there is something.

        Unless it `is_done` it is still at it. If nothing changes within `WAIT`, it is told that.
        """
        self._note(cursor if is_done else "", pid)
        self._waiting.append(pid)
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    changed = self._changed
                    news = await self._after(cursor)
                    if news.cursor != cursor or self._is_closed:
                        return news
                    await changed.wait()
                    if not self.restored.is_set():
                        await asyncio.sleep(TOGETHER)
        except TimeoutError:
            return await self._after(cursor)
        finally:
            self._waiting.remove(pid)
            self._last = Asked(pid, self._clock())

    def _note(self, cursor: str, pid: int) -> None:
        place = self._place(cursor)
        if place is not None:
            self._done = max(self._done, place[1])
            self.loaded.set()
        self._last = Asked(pid, self._clock())
        self._asked.set()
        self._asked = asyncio.Event()

    async def _after(self, cursor: str) -> News:
        place = self._place(cursor)
        changes = self._ban_set.follow(place[0]) if place else None
        if changes is not None:
            protected = self._protected if place and place[1] != self._switches else None
            lost = self._lost if place and place[1] < self._restore_switch else ()
            facts = [*lost, *map(in_brief, changes.facts)]
            return News(self._cursor(changes.cursor), False, self.enforcing, facts, protected)
        snapshot = self._ban_set.snapshot()
        next_cursor = self._cursor(snapshot.cursor)  # what changes while the rest is read comes after it
        facts = await _read(ban.brief for ban in reversed(snapshot.bans))
        if not self.restored.is_set():
            self.loaded.clear()
            there = {key for key, _, _ in facts}
            saved = [brief for brief in await _read(self._saved()) if brief[0] not in there]
            if self.restored.is_set():  # meanwhile
                return await self._after(cursor)
            self._told.update(key for key, _, _ in saved)
            back = self._ban_set.follow(snapshot.cursor)  # while it was read
            self._told.difference_update(fact.key for fact in (back.facts if back else ()))
            facts += saved
        return News(next_cursor, True, self.enforcing, facts, self._protected)

    def _place(self, cursor: str) -> tuple[int, int] | None:
        found = _CURSOR.fullmatch(cursor)
        if found is None or found[1] != self._life or int(found[3]) > self._switches:
            return None
        return int(found[2]), int(found[3])

    def _cursor(self, number: int) -> str:
        return f"{self._life}-{number}-{self._switches}"


async def _read(briefs: Iterable[Brief]) -> list[Brief]:
    """Read them all, some at a time."""
    rest, found = iter(briefs), list[Brief]()
    while part := list(islice(rest, READ_AT_ONCE)):
        found += part
        await give_way()
    return found
