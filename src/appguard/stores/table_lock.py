"""The lock of a table that processes map: free when its holder dies, and mostly taken without asking the kernel.

Theory of operation. In the table's header stands a flag, one byte, for each of `SEATS` seats. A process has a seat of
its own as long as it has the table open: the kernel keeps for it a record lock on that byte, which ends however the
process ends. (A child forked while another thread counted keeps the table open, and with it its parent's seat.)

To take the lock the quick way a process raises its flag and then looks at all of them. If no other is up it has the
lock, and gives it back by lowering its flag. If one is, it lowers its own at once and goes the slow way: it takes the
lock of the file (flock), raises the flag of seat 0, which belongs to whoever holds that, and waits until the others are
down. Of two that come at once one sees the other's flag, or both do and meet again on the slow way, where one waits for
the other. A flag that stays up is that of a process that was interrupted, or has died: then its seat is free, and who
waits lowers the flag for it. At seat 0 that is not needed: the next holder of the file's lock raises its flag anyway,
and lowers it.

All this asks that a raised flag can be seen before its owner looks at the others, while processors like to put off what
they store. On x86 nothing passes an atomic instruction, and taking or giving back a free lock of threads is exactly
one: that stands between the two, as a fence. On other processors it may not be enough, nor where a library has put
something else in the place of locks, as gevent does; nobody has a seat there, and everybody goes the slow way, as those
do who come when all seats are taken. What is written under the lock needs no more: x86 shows stores in order.
"""

import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from mmap import mmap
from threading import Lock
from typing import TypeVar

from appguard.stores.flock import FREE, TRY, flock

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")
SEATS = 64
FLAGS_AT = 256  # in the file: a line of the processor's cache
FLAGS = slice(FLAGS_AT, FLAGS_AT + SEATS)
ORDERLY = ("x86_64", "i386", "i686")  # processors on which nothing passes an atomic instruction
OTHERS = slice(FLAGS_AT + 1, FLAGS_AT + SEATS)  # all but that of seat 0
NOBODY = bytes(SEATS - 1)
NOT_FREE = (errno.EAGAIN, errno.EACCES, errno.EINVAL)  # the last from a kernel without such locks: nobody has a seat
PAUSE = 0.0001  # seconds between two looks
RECORD = struct.Struct("hhqqi4x")  # a `struct flock`


class TableLock:
    """The lock of an open file, for one thread at a time.

    `quick` is what the quick way needs, None without a seat: the file, the place of this process's flag in it, that of
    all flags, these as they are when only that one is up, and the lock of threads for the fence, which guards nothing.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.flags: mmap | bytearray = bytearray(FLAGS.stop)  # nobody else's, until it has joined
        self.quick: tuple[mmap, int, slice, bytes, Lock] | None = None
        self._mine = 0  # seat
        self._is_held = False  # the file's lock

    def join(self, table: mmap) -> None:
        """Take part with the others, and take a seat if one is free. The lock must be held."""
        self.flags = table
        fence = Lock()
        has_fence = os.uname().machine in ORDERLY and type(fence).__module__ == "_thread"
        seat = next(filter(self._takes_seat, range(1, SEATS)), 0) if has_fence else 0
        if seat:
            self._mine = seat
            table[FLAGS_AT + seat] = 0  # one who died may have left it up
            self.quick = table, FLAGS_AT + seat, FLAGS, bytes(each == seat for each in range(SEATS)), fence

    def do(self, patience: float, work: Callable[[], T]) -> T | None:
        """Do work that gives something under the lock, the slow way; None if it is not free within so many seconds."""
        try:
            return work() if self._is_taken(patience) else None
        finally:  # in no function of its own: where that begins, the exception of a signal's handler may come
            if self._is_held:
                self.flags[FLAGS_AT] = 0
                self._is_held = False
            flock(self.file, FREE)

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
        if not self._is_held and not flock(self.file, TRY):
            self._is_held = True
            self.flags[FLAGS_AT] = 1
            flock(self.file, TRY)  # once more, as a fence: the kernel takes locks with atomic instructions
        return self._is_held

    def _is_alone(self) -> bool:
        if self.flags[OTHERS] != NOBODY:
            self._lower_flags_of_dead()
        return self.flags[OTHERS] == NOBODY

    def _lower_flags_of_dead(self) -> None:
        for seat in range(1, SEATS):
            place = FLAGS_AT + seat
            if self.flags[place] and seat != self._mine and self._takes_seat(seat):
                self.flags[place] = 0
                self._set_record(fcntl.F_UNLCK, seat)

    def _takes_seat(self, seat: int) -> bool:
        """Take a seat if nobody has it; say whether that was so."""
        try:
            self._set_record(fcntl.F_WRLCK, seat)
        except OSError as error:
            if error.errno in NOT_FREE:
                return False
            raise
        return True

    def _set_record(self, kind: int, seat: int) -> None:
        fcntl.fcntl(self.file, fcntl.F_OFD_SETLK, RECORD.pack(kind, os.SEEK_SET, FLAGS_AT + seat, 1, 0))
