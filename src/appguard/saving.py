"""When what the daemon knows is saved, and what of it has changed.

Positions and counted events belong together: both are saved in one transaction, at once if nothing was saved just now.
In a flood one transaction saves what several chunks led to, so that saving takes a part of the time only: a key that
counts again and again is written once. A daemon killed meanwhile has saved neither the position nor what was counted
since, and reads those lines again; of a source that cannot be read again, so many milliseconds are lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from appguard.ban import Fact
from appguard.jail_window import JailWindow
from appguard.pipeline import failures_of
from appguard.state import Batch

APART = 0.005  # seconds from one save to the next
APART_FACTOR = 4  # and if one takes long, that many times as long
APART_MOST = 0.25
FACTS_MOST = 20_000  # that may wait; more are looked through for those that matter no more
KEYS_MOST = 200_000  # whose counts may wait; of more, those that are counted no more are left as they were saved


class Saving:
    """What is to be saved, `batch` and the counted events of `windows`; `banned` are the bans each jail made.

    `gather` puts into the batch what is true but not in it yet: no position is saved without the bans that the lines
    before it led to. `write` saves a batch and says whether that worked. All is called on one event loop.
    """

    def __init__(
        self,
        windows: Mapping[str, JailWindow],
        banned: Mapping[str, int],
        gather: Callable[[], None],
        write: Callable[[Batch], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.batch = Batch()
        self._windows = windows
        self._banned = banned
        self._gather = gather
        self._write = write
        self._clock = clock
        self._facts_most, self._keys_most = FACTS_MOST, KEYS_MOST
        self._touched: dict[str, set[str]] = {}
        self._fails = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def touch(self, jail: str, keys: Iterable[str]) -> None:
        """Note that what a jail has counted for some keys has changed."""
        self._touched.setdefault(jail, set()).update(keys)

    def soon(self) -> None:
        """Save now, or where that was done just now, in a little while. While it fails, do not try."""
        loop = asyncio.get_running_loop()
        if self._fails or self._timer is not None:
            return
        if loop.time() >= self._due:
            self.now()
        else:
            self._timer = loop.call_at(self._due, self.now)

    def now(self) -> None:
        """Save, also where it has failed."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        began = loop.time()
        self._gather()
        for jail, keys in self._touched.items():
            self.batch.failures.update(failures_of(self._windows[jail], keys))
        self._touched.clear()
        for name, window in self._windows.items():
            self.batch.totals[name] = (window.total_failed, self._banned[name])
        self._fails = not self._write(self.batch)
        if not self._fails:
            self.batch = Batch()
        else:
            self._shorten()
        ended = loop.time()
        self._due = ended + min(APART_MOST, max(APART, APART_FACTOR * (ended - began)))

    def _shorten(self) -> None:
        """Forget what need not wait: a disk may be full for days."""
        if len(self.batch.facts) > self._facts_most:
            self._shorten_facts()
        if len(self.batch.failures) > self._keys_most:
            self.batch.failures = {key: kept for key, kept in self.batch.failures.items() if kept}
            self._keys_most = max(KEYS_MOST, 2 * len(self.batch.failures))

    def _shorten_facts(self) -> None:
        """Forget what newer facts replace, and bans that have ended."""
        newest: dict[str, Fact] = {}
        for fact in self.batch.facts:
            known = newest.get(fact.key)
            if known is None or known.version <= fact.version:
                newest[fact.key] = fact
        now = self._clock()
        self.batch.facts = [fact for fact in newest.values() if fact.ban is None or fact.ban.in_force(now)]
        self._facts_most = max(FACTS_MOST, 2 * len(self.batch.facts))
