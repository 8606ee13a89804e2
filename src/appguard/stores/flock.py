"""A lock on an open file, which the kernel frees when its holder dies, taken without letting go of the interpreter."""

import sys
from collections.abc import Callable
from importlib import import_module

if sys.platform != "win32":
    import fcntl

    TRY, FREE = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
else:
    TRY = FREE = 0  # there is nothing to lock


def _find_flock() -> Callable[[int, int], int]:
    """Give the `flock` of C, which says whether it failed.

    That of `fcntl` lets go of the interpreter in the middle of every count, and a thread that has it then may find the
    lock taken. What never waits needs no letting go. A Python without ctypes has to do with `fcntl`.
    """

    def of_fcntl(file: int, operation: int) -> int:
        try:
            fcntl.flock(file, operation)
        except OSError:
            return -1
        return 0

    try:
        of_c: Callable[[int, int], int] = import_module("ctypes").PyDLL(None).flock
    except (ImportError, OSError, TypeError, AttributeError):
        return of_fcntl
    return of_c


flock = _find_flock()
