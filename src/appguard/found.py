"""What the log says of events that jails count: in a flood not every one, for that would cost more than to count them.

Of one chunk each jail tells the first `FOUND_MOST` addresses one by one, then how many more there were. A jail that
counts any request tells them only to who wants to know everything.
"""

import logging
from collections.abc import Iterable
from itertools import islice

from appguard.address import Host, host_text
from appguard.event import REQUEST
from appguard.jail_window import JailWindow

FOUND_MOST = 100

log = logging.getLogger("appguard")


class Found:
    """What the jails found in one chunk. `end` says what was not said one by one."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def note(self, window: JailWindow, hosts: Iterable[Host], number: int) -> None:
        """Take the addresses, in brief, of so many events that a jail has counted."""
        jail = window.jail
        level = logging.DEBUG if REQUEST in jail.events and not jail.statuses else logging.INFO
        if log.isEnabledFor(level):
            before = self._counts.get(jail.name, 0)
            self._counts[jail.name] = before + number
            for host in islice(hosts, max(0, FOUND_MOST - before)):
                log.log(level, "[%s] Found %s", jail.name, host_text(host))

    def end(self) -> None:
        """Say how many more there were."""
        for name, number in self._counts.items():
            if number > FOUND_MOST:
                log.info("[%s] Found %d more", name, number - FOUND_MOST)
