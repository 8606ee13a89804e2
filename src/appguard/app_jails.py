"""The jails of an app: they count its events and ban in its store, where no daemon does it.

Who calls may be many threads at once, as under a WSGI server.
"""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock

from appguard.address import Address, NetworkSet
from appguard.ban import Ban
from appguard.ban_rate import BanRate, capped
from appguard.errors import AppGuardError
from appguard.event import Event
from appguard.fork import in_every_child
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.stores.base import Store

log = logging.getLogger("appguard")


class AppJails:
    """Some jails, and what they have counted. `group` is how an address is counted on this host."""

    def __init__(self, jails: Sequence[Jail], group: Callable[[Address], str], safelist: NetworkSet) -> None:
        self._windows = tuple(JailWindow(jail, group) for jail in jails)
        self._rates = {jail.name: BanRate(jail) for jail in jails}
        self._safelist = safelist
        self._renew_lock()
        in_every_child(self, AppJails._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = Lock()

    def count(self, event: Event, store: Store) -> Event:
        """Count an event and put the bans it leads to in force; give it with the jail that counted it."""
        if event.address in self._safelist:
            return event
        counted = ""
        for window in self._windows:
            with self._lock:
                is_counted = window.counts(event)
                bans = window.record(event, event.to_line()) if is_counted else ()
                if window.clears(event):
                    window.forget(window.key(event))
            if is_counted and not window.jail.dry_run:
                counted = window.jail.name
            for ban in bans:
                self._ban(ban, store, is_dry=window.jail.dry_run)
        return event._replace(jail=counted) if counted else event

    def _ban(self, decided: Ban, store: Store, *, is_dry: bool) -> None:
        rate, now = self._rates[decided.jail], time.time()
        rate.calm(now)
        before = rate.alarm
        ban = capped(decided) if rate.count(now) else decided
        if rate.alarm and not before:
            log.error("[%s] %s", decided.jail, rate.alarm)
        if ban is None:
            return
        if is_dry:
            log.warning("[%s] Ban %s (dry run)", ban.jail, ban.key)
            return
        try:
            if store.ban(ban):
                log.warning("[%s] Ban %s", ban.jail, ban.key)
        except AppGuardError as error:  # the request goes on; the next failure tries again
            log.error("[%s] %s could not be banned: %s", ban.jail, ban.key, error)
