"""Counters of one app, exact between its processes on this host; how they are shared, `counter_table` says.

What is given up, and when. A table that cannot be made is not shared; and a lock that another process does not give
back (it was stopped in the few microseconds in which it held it) is waited for once, at most `PATIENCE`. Until there
is a table, or the lock is free again, each process counts for itself: a client may have its amount once per process,
and those requests are missing in the table afterwards. The log says when that begins and ends.
"""

import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from mmap import mmap
from pathlib import Path
from threading import Lock
from typing import TypeVar

from appguard.fork import in_every_child
from appguard.limit import ADMITTED, Hit, Verdict, admitted, least_of
from appguard.rate import Left
from appguard.stores.counter_table import RESETS, SETS, CounterTable, open_table
from appguard.stores.memory_counters import MemoryCounters
from appguard.turn import Turn

PATIENCE = 0.25  # seconds; on a busy machine a holder that lost its processor to others is back by then
RECHECK = 1.0  # seconds: how late a table that was removed, or can be made now, is noticed

T = TypeVar("T")
_new = object.__new__
log = logging.getLogger("appguard.stores.local")


class LocalCounters:
    """Counters shared by all processes of this user that use the same app name.

    `directory` is where the table lies, None for the user's own; `monotonic` gives the seconds of CLOCK_MONOTONIC.
    """

    is_immediate = True

    def __init__(
        self,
        app: str,
        directory: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sets: int = SETS,
    ) -> None:
        self._app = app
        self._table_directory = directory
        self._table_clock = monotonic
        self._sets = sets
        self._alone = MemoryCounters(monotonic)
        self._counted_alone = 0
        self._table_complaint = ""
        self._shared: CounterTable | None = None
        # The same, and how to lock it quickly.
        self._quick: tuple[CounterTable, mmap, int, slice, bytes, Lock] | None = None
        self._renew_table()
        in_every_child(self, LocalCounters._renew_table)

    def _renew_table(self) -> None:
        """Open the table anew in a forked child, which shares the lock of its parent's."""
        self._table_turn = Turn()
        self._is_stuck = False
        self.close_table()

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        if not hits:
            return ADMITTED
        turn, clock = self._table_turn, self._table_clock  # `opened` says why
        while True:  # what `Turn.do` does, with one call less
            try:
                del turn[1]
            except IndexError:
                turn.wait()
                continue
            try:
                quick = self._quick
                if quick is not None:  # as most requests have it
                    table, flags, mine, every, alone, fence = quick
                    try:  # what `table_lock` calls the quick way
                        flags[mine] = 1
                        if not fence.acquire(False):  # one of the two takes place: an atomic instruction
                            fence.release()
                        # The clock is read under the lock: it does not go back between processes.
                        if flags[every] == alone and (now := clock()) < self._look_at_table:
                            left = table.quickly(hits[0], now) if len(hits) == 1 else None  # as `_count` does
                            if left is None:
                                return _count_all(table, hits, now)
                            verdict = _new(Verdict)  # as `admitted` does
                            verdict.refused = None
                            verdict.wait = 0.0
                            verdict.time = now
                            verdict.least = (0, left[0], left[1]) if hits[0].policy is not None else None
                            verdict.is_known = True
                            return verdict
                    finally:
                        flags[mine] = 0
                return self._check(hits)
            finally:
                turn.append(None)

    def _check(self, hits: Sequence[Hit]) -> Verdict:
        """Do the same when the table is to be looked at first, or its lock may be another's."""
        table = self._shared
        if table is None or self._table_clock() >= self._look_at_table:
            table = self._look()
        if table is None:
            return self._alone.check(hits)
        verdict = self._locked(table, lambda: _count(table, hits, self._table_clock()))
        if verdict is None:
            self._counted_alone += 1
            return self._alone.check(hits)
        return verdict

    async def check_async(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Do what `check` does; it blocks for `PATIENCE` at most, and only if another process was stopped."""
        return self.check(hits)

    def give_back(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Take reserved hits out again, from wherever they were counted."""
        self._table_turn.do(self._give_back, hits, time)

    def _give_back(self, hits: Sequence[Hit], time: float) -> None:
        table = self._shared
        if table is None or not self._locked(table, lambda: _give_back(table, hits, time, self._table_clock())):
            self._alone.give_back(hits, time)

    async def give_back_async(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do what `give_back` does; it blocks as `check_async` does."""
        self.give_back(hits, time)

    @property
    def resets(self) -> int:
        """Give a number that changes with every reset, by whichever process of the app."""
        table = self._shared
        return self._alone.resets + (table.words[RESETS] if table is not None else 0)

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key."""
        self._alone.reset(key)
        self._table_turn.do(self._forget, key)

    def _forget(self, key: str) -> None:
        table = self._shared or self._look()
        if table is not None:
            self._locked(table, lambda: table.forget(key))

    def close_table(self) -> None:
        """Close the table; the next use opens it again."""
        self._table_turn.do(self._close)

    def _close(self) -> None:
        self._close_shared()
        self._look_at_table = 0.0

    def _close_shared(self) -> None:
        table, self._shared, self._quick = self._shared, None, None
        if table is not None:
            table.close()

    def _look(self) -> CounterTable | None:
        """Give the table, opened if it is not or if it was removed; None if there can be none."""
        now = self._table_clock()
        if self._shared is None and now < self._look_at_table:
            return None
        self._look_at_table = now + RECHECK
        if self._shared is not None and self._shared.is_current():
            self._choose_way()
            return self._shared
        self._close_shared()
        try:
            patience = 0.0 if self._table_complaint else PATIENCE
            self._shared = open_table(self._app, self._table_directory, patience, self._sets)
            self._table_complaint = ""
            self._choose_way()
        except OSError as error:
            if str(error) != self._table_complaint:
                self._table_complaint = str(error)
                log.error("no table for the processes of %s, each counts limits for itself: %s", self._app, error)
        return self._shared

    def _locked(self, table: CounterTable, work: Callable[[], T]) -> T | None:
        """Do what gives something under the lock of the table, the slow way; None if it is not free."""
        done = table.lock.do(0.0 if self._is_stuck else PATIENCE, work)
        if self._is_stuck is not (done is None):
            self._is_stuck = done is None
            self._choose_way()
            if self._is_stuck:
                log.error("another process of %s keeps the lock of %s", self._app, table.path)
            else:
                log.warning("%s is free again; %d requests were counted apart", table.path, self._counted_alone)
        return done

    def _choose_way(self) -> None:
        table = self._shared
        quick = table.lock.quick if table is not None and not self._is_stuck else None
        self._quick = (table, *quick) if table is not None and quick is not None else None


def _count(table: CounterTable, hits: Sequence[Hit], now: float) -> Verdict:
    left = table.quickly(hits[0], now) if len(hits) == 1 else None
    return _count_all(table, hits, now) if left is None else admitted(now, least_of(hits, (left,)))


def _count_all(table: CounterTable, hits: Sequence[Hit], now: float) -> Verdict:
    refused: Hit | None = None
    longest = 0.0
    slots = [table.find(hit.key) for hit in hits]
    for hit, slot in zip(hits, slots, strict=True):
        wait = table.wait(slot, hit.rate, now, hit.cost) if slot >= 0 else _wait_of_new(hit)
        if wait > longest:
            refused, longest = hit, wait
    if refused is not None:
        return Verdict(refused, longest)
    left: list[Left] = []
    is_moved = False
    for hit, slot in zip(hits, slots, strict=True):
        if hit.cost and (slot < 0 or is_moved):  # another key of this request may just have taken the slot
            slot, is_moved = table.find(hit.key), True
        left.append(_add(table, slot, hit, now))
    return admitted(now, least_of(hits, left))


def _add(table: CounterTable, slot: int, hit: Hit, now: float) -> Left:
    """Count an admitted hit, whose slot this is (-1: none yet); give what is left then."""
    rate, cost = hit.rate, hit.cost
    if cost and slot < 0:
        slot = table.take(table.place(hit.key), rate, now)
    if slot < 0:  # nothing is counted for it, or there is no room
        return rate.most, 0.0
    if not cost:
        return table.left(slot, rate, now)
    return table.quickly(hit, now) or table.add(slot, rate, now, cost)


def _wait_of_new(hit: Hit) -> float:
    """Give the wait of a key nothing was counted for: there is one only for more than the whole amount."""
    return 0.0 if hit.cost <= hit.rate.most else hit.rate.window


def _give_back(table: CounterTable, hits: Sequence[Hit], at: float, now: float) -> bool:
    for hit in hits:
        slot = table.find(hit.key)
        if slot >= 0:
            table.give_back(slot, hit.rate, at, now, hit.cost)
    return True
