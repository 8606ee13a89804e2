"""Metrics: counters for Prometheus, where the app has prometheus_client installed; else nothing.

    appguard_refused_total   app, reason (ban, limit, trap, store), name (the jail or limit)
    appguard_events_total    app, event (its kind)
    appguard_bans_total      app, jail

Names are those of the settings, so there are as many series as settings, whatever strangers send. Where processes share
counters (`PROMETHEUS_MULTIPROC_DIR`) they are files: what cannot be written is not counted, and fails no request.
"""

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

from appguard.ban import Ban
from appguard.event import Event
from appguard.guard import UNCOUNTED, Refusal

if TYPE_CHECKING:
    from prometheus_client import Counter

LABELS = {
    "appguard_refused": ("Requests refused", ("app", "reason", "name")),
    "appguard_events": ("Events told of", ("app", "event")),
    "appguard_bans": ("Bans by the app's own jails", ("app", "jail")),
}

log = logging.getLogger("appguard")

_first: "dict[str, dict[str, Counter]]" = {}  # what the first thread of this process has made


@lru_cache(maxsize=1)
def counters() -> "dict[str, Counter]":
    """Give the counters of this process, made at the first use; none without prometheus_client."""
    try:
        from prometheus_client import REGISTRY, Counter
    except ImportError:
        return {}
    made = {name: Counter(name, text, labels, registry=None) for name, (text, labels) in LABELS.items()}
    if _first.setdefault("made", made) is made:  # threads may come at once, and a name is registered once or raises
        for counter in made.values():
            REGISTRY.register(counter)
    return _first["made"]


class Metrics:
    """The counters of one app, each remembered from its first use on. `is_on`: there are some, as far as is known."""

    def __init__(self, app: str) -> None:
        self.is_on = True
        self._app = app
        self._known: dict[tuple[str, ...], Counter | None] = {}
        self._has_failed = False

    def refused(self, refusal: Refusal) -> None:
        """Count a refused request."""
        limit = refusal.limit
        if limit is not None:
            self._add("appguard_refused", "limit", limit.name)
        elif refusal.ban is not None:
            self._add("appguard_refused", "ban", refusal.ban.jail)
        else:
            self._add("appguard_refused", "store" if refusal is UNCOUNTED else "trap", "")

    def event(self, event: Event) -> None:
        """Count an event."""
        self._add("appguard_events", event.kind)

    def banned(self, ban: Ban) -> None:
        """Count a ban."""
        self._add("appguard_bans", ban.jail)

    def _add(self, *what: str) -> None:
        try:
            if what not in self._known:
                self._known[what] = self._counter(*what)
            known = self._known[what]
            if known is not None:
                known.inc()
        except Exception as error:  # noqa: BLE001 - another's code, and no request fails for what it raises
            if not self._has_failed:
                self._has_failed = True
                log.error("not all is counted for Prometheus: %s: %s", type(error).__name__, error)

    def _counter(self, name: str, *labels: str) -> "Counter | None":
        known = counters()
        self.is_on = bool(known)
        found = known.get(name)
        return None if found is None else found.labels(self._app, *labels)
