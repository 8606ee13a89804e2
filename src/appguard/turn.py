"""A thread's turn at a lock that others hold for a few microseconds."""

import time
from threading import Lock

LOOKS, EVERY = 10, 0.00005  # how often, and after how many seconds each


def wait_for_turn(lock: "Lock") -> None:
    """Take a lock that another thread has.

    Who is woken inside `acquire` has the lock before it has the interpreter. The others find it taken then, wait for
    both, and from there on all of them wait at every request. So a thread looks now and then instead; but not for
    ever, since beside threads that do nothing else it may never find the lock free.
    """
    for _ in range(LOOKS):
        time.sleep(EVERY)
        if lock.acquire(False):
            return
    lock.acquire()
