"""A lock for the processes that map one file into memory; the kernel frees it when its holder dies.

It is a robust mutex of the C library (pthread_mutexattr_setrobust(3)), asked but never waited for, and so taken and
freed without a system call: a quarter of what flock takes alone, a tenth where other work goes on between. The calls
keep the interpreter's lock. A holder that let go of it (as it would to sleep until the lock is free, or in `fcntl`)
might have to wait 5 ms for another thread to give it back, and all that time nobody could count.

Where Python was built without ctypes it is flock. The two must not meet in one file: `KIND` tells them apart, and C
libraries and sizes of words too.
"""

import errno
import mmap
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import calcsize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import PyDLL

if sys.platform != "win32":
    import fcntl

ROOM = 256  # bytes, more than those of a pthread_mutexattr_t
BETWEEN = 0.0001  # seconds between two looks at a lock that is taken
BUSY = errno.EBUSY
SHARED = ROBUST = 1  # PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST


def _c_library() -> "PyDLL | None":
    """Give the C library if it has such a mutex and Python can call it."""
    try:
        import ctypes

        library = ctypes.PyDLL(None)
        return library if library.pthread_mutexattr_setrobust else None
    except (ImportError, OSError, AttributeError, TypeError):
        return None


def _kind() -> str:
    if LIBRARY is None:
        return "flock"
    try:
        libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[0]
    except (ValueError, OSError):  # not by GNU
        libc = ""
    return f"{libc or 'libc'}{8 * calcsize('P')}"


LIBRARY = _c_library()
KIND = _kind()


class SharedLock:
    """A lock at a place of a map, which is as it was when the file was made unless `make` is called.

    `try_lock` gives 0 if it has taken the lock. Any other answer goes to `lock`: the holder may have died with it. Only
    who has it may call `unlock`.
    """

    def __init__(self, shared: mmap.mmap, place: int, file: int) -> None:
        self.try_lock: Callable[[], int] = partial(_try_flock, file)
        self.unlock: Callable[[], object] = partial(_unlock_flock, file)
        if LIBRARY is not None:
            from ctypes import addressof, c_char, c_void_p

            self._bytes = c_char.from_buffer(shared, place)  # keeps the map
            self._mutex = c_void_p(addressof(self._bytes))
            self.try_lock = partial(LIBRARY.pthread_mutex_trylock, self._mutex)
            self.unlock = partial(LIBRARY.pthread_mutex_unlock, self._mutex)

    def make(self) -> None:
        """Make a lock that nobody has; raise `OSError`."""
        if LIBRARY is None:
            return
        from ctypes import create_string_buffer

        attributes = create_string_buffer(ROOM)
        for failure in (
            LIBRARY.pthread_mutexattr_init(attributes),
            LIBRARY.pthread_mutexattr_setpshared(attributes, SHARED),
            LIBRARY.pthread_mutexattr_setrobust(attributes, ROBUST),
            LIBRARY.pthread_mutex_init(self._mutex, attributes),
        ):
            if failure:
                raise OSError(failure, f"no lock that processes share: {os.strerror(failure)}")

    def lock(self, patience: float = 0.0, answer: int = BUSY) -> bool:
        """Take the lock, of which `try_lock` gave this answer; say whether it was free within so many seconds."""
        end = time.monotonic() + patience
        while answer and answer != errno.EOWNERDEAD:
            answer = self.try_lock()
            if answer and answer != errno.EOWNERDEAD:
                if time.monotonic() >= end:
                    return False
                time.sleep(BETWEEN)
        if answer:  # we have it from one who died, and say that what it protects is in order
            assert LIBRARY is not None
            LIBRARY.pthread_mutex_consistent(self._mutex)
        return True


def _try_flock(file: int) -> int:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return BUSY
    return 0


def _unlock_flock(file: int) -> None:
    with suppress(OSError):  # the app closed a file that is not its own: noticed when the table is looked for
        fcntl.flock(file, fcntl.LOCK_UN)
