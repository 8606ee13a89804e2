"""A thread's turn at a lock that others hold."""

import time
from threading import Lock, Thread
from typing import Any

from appguard.turn import LOOKING, wait_for_turn


class Watched:
    """A lock that notes how it was asked for."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.asked: list[bool] = []

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, waiting for it or not."""
        self.asked.append(blocking)
        return self.lock.acquire(blocking)


def taken_after(seconds: float) -> list[bool]:
    """Let a thread wait for a lock that is given back after a while; give how it asked."""
    watched: Any = Watched()
    assert watched.lock.acquire()
    thread = Thread(target=wait_for_turn, args=(watched,))
    thread.start()
    time.sleep(seconds)
    assert thread.is_alive()
    watched.lock.release()
    thread.join(10)
    assert not thread.is_alive() and watched.lock.locked()
    return watched.asked  # type: ignore[no-any-return]


def test_a_lock_that_is_free_again_is_found_so() -> None:
    """A thread that waits for microseconds never waits inside the lock, or all would from then on."""
    asked = taken_after(0.0)
    for _ in range(20):  # on a busy machine the thread may not run for so long that it gives up looking
        if True not in asked:
            break
        asked = taken_after(0.0)
    assert asked and True not in asked


def test_a_lock_that_is_never_seen_free_is_waited_for() -> None:
    """Who has looked long enough waits inside the lock, and is let in."""
    asked = taken_after(LOOKING + 0.1)
    assert asked[0] is False and asked[-1] is True and asked.count(True) == 1
