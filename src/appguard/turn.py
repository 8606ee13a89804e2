"""Turn: a lock that threads hold for a few microseconds."""

import time

EVERY = 0.00005  # seconds between two looks of a thread that waits


class Turn(list[None]):
    """Who deletes its one item has the turn, until it appends one.

    Both are a single step to other threads. Deleting is no call: no exception that a signal handler raises can come
    between it and a `try` right after it, so that the turn is always put back. And it takes a fifth of what a lock of
    `threading` does where its code has left the processor's caches, as in a server it has.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__((None,))

    def wait(self) -> None:
        """Take the turn once the thread that has it puts it back.

        Who is woken inside a lock has it before it has the interpreter. The others find it taken then, wait for both,
        and from there on all of them wait at every request. So a thread looks now and then instead.
        """
        while True:
            time.sleep(EVERY)
            try:
                del self[0]
            except IndexError:
                continue
            return

    def __enter__(self) -> None:
        try:
            del self[0]
        except IndexError:
            self.wait()

    def __exit__(self, *_: object) -> None:
        self.append(None)
