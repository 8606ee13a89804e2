"""The lock of a table that processes map: free when its holder dies, and mostly taken without asking the kernel.

Theory of operation. In the table's header stands a flag, one byte, for each of `SEATS` seats. A process has a seat of
its own as long as it has the table open: the kernel keeps for it a record lock on that byte, which ends however the
process ends. To take the lock it raises its flag and then looks at all of them. If no other is up it has the lock, and
gives it back by lowering its flag. If one is, it lowers its own at once and takes the slow way: it takes the lock of
the file (flock), raises the flag of seat 0, which belongs to whoever holds that, and waits until the others are down.
Of two that come at once one sees the other's flag, or both do and meet again on the slow way; there one waits for the
other. A flag that stays up is that of a process that was interrupted, or has died: then its record lock is free, and
who waits lowers the flag for it. At seat 0 that is not needed: the next holder of the file's lock raises its flag
anyway, and lowers it.

All this asks that a raised flag can be seen before its owner looks at the others, while processors like to put off what
they store. On x86 nothing passes an atomic instruction, and taking or giving back a free lock of threads is one: that
stands between the two. Elsewhere it may not be enough, so nobody has a seat there, and everybody takes the slow way, as
those do who come when all seats are taken. What is written under the lock needs no more: x86 shows stores in order.
"""

import os
import struct
import sys
import time
from collections.abc import Callable
from mmap import mmap
from threading import Lock
from typing import ParamSpec, TypeVar

if sys.platform != "win32":
    import fcntl

P = ParamSpec("P")
T = TypeVar("T")
SEATS = 64
FLAGS_AT = 256  # in the file: a line of the processor's cache
FLAGS = slice(FLAGS_AT, FLAGS_AT + SEATS)
OTHERS = slice(FLAGS_AT + 1, FLAGS_AT + SEATS)  # than that of who holds the file's lock
NOBODY = bytes(SEATS - 1)
ORDERLY = ("x86_64", "i386", "i686")  # processors on which nothing passes an atomic instruction
PAUSE = 0.0001  # seconds between two looks
RECORD = struct.Struct("hhqqi4x")  # a `struct flock`


class TableLock:
    """The lock of an open file, for one thread at a time.

    The rest is for who takes the quick way, which there is only with a seat (`has_seat`): `flags`, in which `mine` is
    the place of this process's own, `alone`, which is all of them when only that one is up, and `fence`.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.flags: mmap | bytearray = bytearray(FLAGS.stop)  # nobody else's, until it has joined
        self.has_seat = False
        self.mine = FLAGS_AT
        self.alone = bytes(SEATS)
        self.fence = Lock()  # guards nothing
        self._is_held = False  # the file's lock

    def join(self, table: mmap) -> None:
        """Take part with the others, and take a seat if one is free. The lock must be held."""
        self.flags = table
        seats = range(1, SEATS) if os.uname().machine in ORDERLY else ()
        seat = next(filter(self._is_owned, seats), 0)
        if seat:
            self.mine = FLAGS_AT + seat
            table[self.mine] = 0  # it may be a dead process's
            self.alone = bytes(place == self.mine for place in range(FLAGS_AT, FLAGS.stop))
            self.has_seat = True

    def do(self, patience: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Do some work under the lock, the slow way; None if the lock is not free within so many seconds."""
        try:
            return work(*args, **kwargs) if self._is_taken(patience) else None
        finally:  # in no function of its own: where that begins, the exception of a signal's handler may come
            if self._is_held:
                self.flags[FLAGS_AT] = 0
                self._is_held = False
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def _is_taken(self, patience: float) -> bool:
        end = 0.0
        while not (self._holds_file() and self._is_alone()):
            now = time.monotonic()
            end = end or now + patience
            if now >= end:
                return False
            time.sleep(PAUSE)
        return True

    def _holds_file(self) -> bool:
        if not self._is_held:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another's
                return False
            self._is_held = True
            self.flags[FLAGS_AT] = 1
            if not self.fence.acquire(False):
                self.fence.release()
        return True

    def _is_alone(self) -> bool:
        for seat, flag in enumerate(self.flags[OTHERS], 1) if self.flags[OTHERS] != NOBODY else ():
            if flag and self._is_owned(seat):  # by nobody before
                self.flags[FLAGS_AT + seat] = 0
                self._ask(fcntl.F_UNLCK, seat)
        return self.flags[OTHERS] == NOBODY

    def _is_owned(self, seat: int) -> bool:
        """Take a seat that nobody owns; say whether that was so."""
        try:
            self._ask(fcntl.F_WRLCK, seat)
        except OSError:  # another's; or a kernel that cannot tell, so nobody has one
            return False
        return True

    def _ask(self, kind: int, seat: int) -> None:
        fcntl.fcntl(self.file, fcntl.F_OFD_SETLK, RECORD.pack(kind, os.SEEK_SET, FLAGS_AT + seat, 1, 0))
