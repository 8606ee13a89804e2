"""A thread that works with one Redis: connects, works, says once what fails, and connects again."""

import logging
from collections.abc import Callable
from threading import Event, Thread

from appguard.stores.redis_advice import explained
from appguard.stores.redis_commands import Commands
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_uri import RedisUri

ANSWER = 2.0  # seconds Redis may take to answer
RETRY = 0.5  # seconds between attempts while it is down
END = 3.0  # seconds the thread may take to end

log = logging.getLogger("appguard.stores")


class RedisThread:
    """Runs `work` with a client until `close`; `key` is one of the keys it works on, which all have one hash tag.

    `work` returns when `stop` is set, and says with `works` that Redis has answered. `what` is what it does, in words.
    """

    def __init__(self, uri: RedisUri, key: str, what: str, work: Callable[[Commands], None]) -> None:
        self.stop = Event()
        self.complaint = "it has not answered yet"
        self._uri = uri
        self._key = key
        self._what = what
        self._work = work
        self._is_said = False
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread. May be repeated: where there is none to spare, the next call tries again."""
        if self._thread is not None:
            return
        self.stop.clear()
        thread = Thread(target=self._run, name=f"appguard-{self._work.__name__.strip('_')}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._fail(str(error))
        else:
            self._thread = thread

    def _fail(self, complaint: str) -> None:
        self.complaint = complaint
        if not self._is_said:
            self._is_said = True
            log.error("%s: %s: until it answers, not: %s", self._uri, complaint, self._what)

    def works(self) -> None:
        """Note that Redis has answered."""
        self.complaint = ""
        if self._is_said:
            self._is_said = False
            log.warning("%s answers again: %s", self._uri, self._what)

    def close(self) -> None:
        """End the thread. May be repeated."""
        self.stop.set()
        if self._thread is not None:
            self._thread.join(END)
            self._thread = None

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                client = connect_to(self._uri, ANSWER, self._key)
                try:
                    self._work(client)
                finally:
                    client.close()
            except Exception as error:  # noqa: BLE001 - a thread that ended would hear of nothing any more
                self._fail(explained(error, self._uri))
                self.stop.wait(RETRY)
