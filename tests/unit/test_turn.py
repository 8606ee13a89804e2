"""A thread's turn at a lock that others hold."""

import time
from threading import Lock, Thread

from appguard.turn import EVERY, LOOKS, wait_for_turn


def test_a_lock_that_comes_free_is_taken() -> None:
    """Whether it is free again at the next look, or only after the last one, the thread has it in the end."""
    for held in (0.0, 3 * LOOKS * EVERY + 0.05):
        lock, taken = Lock(), list[bool]()
        assert lock.acquire()

        def wait(lock: "Lock" = lock, taken: list[bool] = taken) -> None:
            wait_for_turn(lock)
            taken.append(lock.locked())

        thread = Thread(target=wait)
        thread.start()
        time.sleep(held)
        assert not taken
        lock.release()
        thread.join(10)
        assert taken == [True] and lock.locked()


def test_a_thread_has_its_turn_beside_one_that_never_leaves_the_lock_free_for_long() -> None:
    """Who is never lucky when it looks waits in the lock, and whoever lets go of it then lets it in."""
    lock, turns, is_over = Lock(), list[int](), list[bool]()

    def hold() -> None:
        while not is_over:
            with lock:
                time.sleep(LOOKS * EVERY)

    holders = [Thread(target=hold) for _ in range(2)]
    for thread in holders:
        thread.start()
    for number in range(20):
        wait_for_turn(lock)
        turns.append(number)
        lock.release()
    is_over.append(True)
    for thread in holders:
        thread.join(10)
    assert turns == list(range(20))
