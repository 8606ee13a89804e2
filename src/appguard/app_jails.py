"""The jails of an app: they count its events and ban in its store, where no daemon does it.

Who calls may be many threads at once, as under a WSGI server. Earlier bans, for a `bantime` that grows, are remembered
by this process alone and only while it runs.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from appguard.address import Grouping, NetworkSet
from appguard.ban import PERMANENT, Ban
from appguard.ban_rate import BanRate, capped
from appguard.bantime import History, bantime_of
from appguard.errors import AppGuardError
from appguard.event import Event
from appguard.fork import in_every_child
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.stores.base import Store

NETWORKS_MOST = 10_000  # whose earlier bans are remembered

log = logging.getLogger("appguard")


class AppJails:
    """Some jails, and what they have counted. `grouping` is how addresses are counted on this host."""

    def __init__(
        self,
        jails: Sequence[Jail],
        grouping: Grouping,
        safelist: NetworkSet,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._windows = tuple(JailWindow(jail, grouping) for jail in jails)
        self._rates = {jail.name: BanRate(jail) for jail in jails}
        self._history = History(NETWORKS_MOST)
        self._safelist = safelist
        self._clock = clock
        self._renew_lock()
        in_every_child(self, AppJails._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = Lock()

    def count(self, event: Event, store: Store) -> tuple[Event, tuple[Ban, ...]]:
        """Count an event and put the bans it leads to in force.

        Give the event with the jail that counted it, and the bans that were not in force before.
        """
        if not self._windows or event.address in self._safelist:
            return event, ()
        counted, kept = "", list[Ban]()
        for window in self._windows:
            with self._lock:
                is_counted = window.counts(event)
                bans = window.record(event, event.to_line()) if is_counted else ()
                if window.clears(event):
                    window.forget(window.key(event))
            if is_counted and not window.jail.dry_run:
                counted = window.jail.name
            kept += filter(None, (self._ban(window.jail, ban, store) for ban in bans))
        return event._replace(jail=counted) if counted else event, tuple(kept)

    def _ban(self, jail: Jail, decided: Ban, store: Store) -> Ban | None:
        rate, now = self._rates[jail.name], self._clock()
        rate.calm(now)
        before = rate.alarm
        ban = capped(decided) if rate.count(now) else self._grown(jail, decided)
        if rate.alarm and not before:
            log.error("[%s] %s", jail.name, rate.alarm)
        if ban is None:
            return None
        if jail.dry_run:
            log.warning("[%s] Ban %s (dry run)", ban.jail, ban.key)
            return None
        try:
            kept = store.ban(ban)
        except AppGuardError as error:  # the request goes on; the next failure tries again
            log.error("[%s] %s could not be banned: %s", ban.jail, ban.key, error)
            return None
        if kept:
            log.warning("[%s] Ban %s", ban.jail, ban.key)
            with self._lock:
                self._history.note(kept)
                self._history.changed.clear()
        return kept

    def _grown(self, jail: Jail, ban: Ban) -> Ban:
        if not jail.bantime_increment:
            return ban
        with self._lock:
            earlier = self._history.earlier(jail, ban.where, ban.start)
        seconds = bantime_of(jail, earlier)
        return replace(ban, end=None if seconds == PERMANENT else ban.start + seconds)
