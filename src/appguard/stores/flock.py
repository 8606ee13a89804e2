"""Takes and frees the lock of a file without waiting, and without letting go of the interpreter meanwhile.

`fcntl.flock` lets go of it: another thread of the process might have it when the call returns, for 5 ms as a rule, and
all that time the other processes would wait for the lock. The function of the C library takes half a microsecond.
"""

import sys
from collections.abc import Callable

if sys.platform != "win32":
    import fcntl

    TRY, FREE = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN


def _letting_go(file: int, operation: int) -> int:
    try:
        fcntl.flock(file, operation)
    except OSError:
        return -1
    return 0


def _flock() -> Callable[[int, int], int]:
    try:
        from ctypes import PyDLL

        found: Callable[[int, int], int] = PyDLL(None).flock
    except (ImportError, OSError, AttributeError, TypeError):  # Python can be built without it
        return _letting_go
    return found


flock = _flock()  # of a descriptor and `TRY` or `FREE`: 0, or -1 if it could not be done
