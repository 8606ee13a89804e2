"""Turn: a lock that threads hold for a few microseconds."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
SHORTEST, LONGEST = 0.00005, 0.001  # seconds between two looks of a thread that waits: each twice the one before


class Turn(list[None]):
    """Who deletes its second item has the turn, until it appends one; `do` shows how.

    The first stays, and keeps the memory that appending would have to ask for. Both are a single step to other threads.
    An exception that a signal handler raises comes after a call, where a function begins, or where a loop begins anew.
    Deleting is none of these, unlike `acquire` of a lock, which is a call: such an exception comes before it, or once
    the `try` right after it has begun, and the turn is put back. (Not so one that a debugger's tracer raises, at any
    line.)
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__((None, None))

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do some work in this thread's turn."""
        while True:
            try:
                del self[1]
            except IndexError:
                self.wait()
                continue
            try:
                return work(*args, **kwargs)
            finally:
                self.append(None)

    def wait(self) -> None:
        """Wait until no thread has the turn. Another one may take it before the caller does, who waits again then.

        Who is woken inside a lock has it before it has the interpreter. The others find it taken then, wait for both,
        and from there on all of them wait at every request. So a thread looks now and then instead. It finds the turn
        free sooner or later, though beside many busy threads that may take as often as it has to wait for the
        interpreter, some hundred milliseconds.
        """
        pause = SHORTEST
        while len(self) < 2:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)
