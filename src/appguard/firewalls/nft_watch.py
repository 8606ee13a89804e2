"""Hears what others change in nf_tables, and remembers which elements were taken out of our table.

The kernel tells of our own changes too. So what was taken out is a question, not a finding: whether it is missing is
asked of the kernel when it is known what ought to be there. An element that ends at its timeout is not told of. While
everything is made anew nothing is heard: whether our rules are there is asked afterwards.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from socket import socket

from appguard.firewalls.netlink import hear, keeping, listen, listen_again, listen_not
from appguard.firewalls.nft_messages import TAKEN_OUT, taken_out

LOST_APART = 60.0  # seconds between two times that what was not heard is reason to make everything anew
TAKEN_MOST = 10_000  # elements; of more it is not worth to remember each
TAKEN_AT_ONCE = 500  # of them; to ask the kernel about so many takes some 15 milliseconds, which a new ban has to wait

HEARD_AT_ONCE = 16  # datagrams, each of some dozens of elements

log = logging.getLogger("appguard.firewall")


class Watch:
    """Watches a table."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._link: socket | None = None
        self._suspect: Callable[[], None] = lambda: None
        self._taken: dict[tuple[str, bytes], None] = {}
        self._is_whole = True
        self._lost_at = float("-inf")

    @property
    def is_lost(self) -> bool:
        """Say that more was taken out than is known, which may wait until the last time is long enough ago."""
        return not self._is_whole and time.monotonic() >= self._lost_at + LOST_APART

    @contextmanager
    def __call__(self, suspect: Callable[[], None]) -> Generator[None]:
        """Hear on the running loop; call `suspect` after every change, our own too."""
        try:
            link = listen()
        except OSError as error:  # then the bouncer's question once an interval must do
            log.warning("foreign changes of the firewall are not heard at once: %s", error.strerror)
            yield
            return

        def heard() -> None:
            self._hear(link, HEARD_AT_ONCE)  # what still waits has this called again when others had their turn
            suspect()

        self._suspect = suspect

        loop = asyncio.get_running_loop()
        with link, keeping():
            self._link = link
            loop.add_reader(link, heard)
            try:
                yield
            finally:
                self._link = None
                loop.remove_reader(link)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Do not hear of what we load, which would cost as much as the load; then have asked what is there."""
        self._tell(listen_not)
        try:
            yield
        finally:
            self._tell(listen_again)
            self._suspect()

    def _tell(self, act: Callable[[socket], None]) -> None:
        try:
            if self._link is not None:
                act(self._link)
        except OSError as error:
            log.warning("what others change in the firewall may not be heard at once: %s", error.strerror)

    def settle(self) -> None:
        """Hear what waits after everything was made anew: nothing is lost then, however much there was to hear."""
        if self._link is not None:
            self._hear(self._link)
        if self.is_lost:
            self._lost_at = time.monotonic()
        self._is_whole = True

    def taken(self) -> tuple[tuple[str, bytes], ...]:
        """Give the set and the key of elements that were taken out; where there are more, have this asked again."""
        taken = tuple(self._taken.popitem()[0] for _ in range(min(TAKEN_AT_ONCE, len(self._taken))))
        if self._taken:
            self._suspect()
        return taken

    def _hear(self, link: socket, most: int = sys.maxsize) -> None:
        told, is_whole = hear(link, TAKEN_OUT, most)
        for each in told:
            self._taken.update(dict.fromkeys(taken_out(self._table, each)))
        self._is_whole = self._is_whole and is_whole and len(self._taken) <= TAKEN_MOST
        if len(self._taken) > TAKEN_MOST:
            self._taken.clear()
