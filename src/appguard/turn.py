"""A thread's turn at a lock that others hold for a few microseconds."""

import time
from threading import Lock

EVERY, LOOKING = 0.00005, 0.01  # seconds between two looks, and seconds after which a thread stops to look


def wait_for_turn(lock: "Lock") -> None:
    """Take a lock that another thread has.

    Who is woken inside `acquire` has the lock before it has the interpreter. The others find it taken then, wait for
    both, and from there on all of them wait at every request. So a thread looks now and then instead; but not for
    ever, since beside threads that do nothing else it may never find the lock free.
    """
    end = time.monotonic() + LOOKING
    while time.monotonic() < end:
        time.sleep(EVERY)
        if lock.acquire(False):
            return
    lock.acquire()
