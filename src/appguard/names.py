"""Finds the addresses of host names, off the hot path: a log line names its client and the resolver may take seconds.

Theory of operation. A few threads ask the system's resolver, one question at a time each; there is no way to stop it,
so whoever waits for a slow answer is another thread, and at most `WAITING_MOST` questions wait. What does not fit is
dropped and said once. Answers are remembered for a while, those that there is no such name too. Only what looks like a
host name with a domain is asked for: a resolver takes `1.2.3` and `0x7f.1` for addresses, and no log means them.
"""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from queue import Full, Queue

from appguard.address import Address, parse_address
from appguard.errors import AddressError

NAME = re.compile(
    r"(?=.{4,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
THREADS = 4
WAITING_MOST = 1_000
REMEMBERED_MOST = 10_000
FOUND_SECONDS, NOT_FOUND_SECONDS = 3600.0, 300.0
ADDRESSES_MOST = 8

Addresses = tuple[Address, ...]
Then = Callable[[Addresses], None]

log = logging.getLogger("appguard")


def system_addresses(host: str) -> Addresses:
    """Ask the system's resolver; nothing for a name that there is not."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    found: dict[Address, None] = {}
    for *_, where in answers:
        try:
            found[parse_address(str(where[0]))] = None
        except AddressError:  # an address family that we do not know
            continue
    return tuple(found)[:ADDRESSES_MOST]


class Names:
    """Host names and their addresses."""

    def __init__(
        self, resolve: Callable[[str], Addresses] = system_addresses, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, Addresses]] = {}  # until when each is good; the oldest first
        self._waiting: Queue[tuple[str, Then] | None] = Queue(WAITING_MOST)
        self._threads: list[threading.Thread] = []
        self._waits_for_thread = False
        self.dropped = 0

    def ask(self, host: str, then: Then) -> None:
        """Call `then` with the addresses of a host: at once if they are known, else later from another thread."""
        if NAME.fullmatch(host) is None:
            return
        known = self._known(host)
        if known is not None:
            then(known)
            return
        if len(self._threads) < THREADS:
            self._start()
        try:
            self._waiting.put_nowait((host, then))
        except Full:
            self._drop()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="names", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: those there are go on, and the next question tries again
            if not self._threads and not self._waits_for_thread:
                log.warning("host names wait for their addresses: %s", error)
            self._waits_for_thread = True
        else:
            self._threads.append(thread)
            self._waits_for_thread = False

    def close(self) -> None:
        """Answer nobody any more; a thread that waits for the resolver ends with its process."""
        while not self._waiting.empty():
            self._waiting.get()
        for _ in self._threads:
            self._waiting.put(None)

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            log.warning("more than %d host names wait for their addresses: their events do not count", WAITING_MOST)

    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            host, then = asked
            addresses = self._known(host)
            if addresses is None:
                addresses = self._resolve(host)
                self._remember(host, addresses)
            then(addresses)

    def _known(self, host: str) -> Addresses | None:
        with self._lock:
            until, addresses = self._answers.get(host.lower(), (0.0, ()))
            return addresses if until > self._clock() else None

    def _remember(self, host: str, addresses: Addresses) -> None:
        with self._lock:
            self._answers.pop(host.lower(), None)
            good = FOUND_SECONDS if addresses else NOT_FOUND_SECONDS
            self._answers[host.lower()] = (self._clock() + good, addresses)
            if len(self._answers) > REMEMBERED_MOST:
                del self._answers[next(iter(self._answers))]
