"""What becomes of an event in an app: its jails count it, the event log gets it, hooks and metrics hear of it.

Nothing here raises on the request path. A flood of refusals is a line per client and second, not one per request.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appguard.app_jails import AppJails
from appguard.around import Around
from appguard.ban import Ban
from appguard.config import AppConfig
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, PROBE, Event, is_login_path, kind_of_answer
from appguard.event_log import EventLog
from appguard.guard import TRAPPED, Refusal, SeenCredentials
from appguard.hooks import Hooks
from appguard.limit import Limit
from appguard.matching import hashed_user
from appguard.metrics import Metrics
from appguard.outcome import Outcome
from appguard.proxies import Client
from appguard.report import Note
from appguard.request import authorization, basic_user
from appguard.stores.base import Store

SEEN_SECONDS = 600.0
REFUSALS_MOST = 8192
SUPPRESSED_SECONDS = 60.0

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, as far as an event tells of them; texts as received."""

    client: Client
    method: str
    path: str
    status: int
    authorization: str = field(default="", repr=False)
    user_agent: str = ""
    request_id: str = ""


class _Refusals:
    """Of one client: when the next line about it is due, and how many refusals it will tell of beside its own."""

    __slots__ = ("due", "suppressed")

    def __init__(self, due: float) -> None:
        self.due = due
        self.suppressed = 0


class AppEvents:
    """The events of one app. `jails` gives its jails at the first use, `store` where they ban."""

    def __init__(
        self, config: AppConfig, around: Around, jails: Callable[[], AppJails], store: Callable[[], Store]
    ) -> None:
        self._config = config
        self._jails = jails
        self._store = store
        self.log = EventLog(config.event_log)
        self._write = around.write or self.log.write
        self._clock = around.wall
        self._monotonic = around.monotonic
        self.metrics = Metrics(config.name)
        self._hooks = Hooks({"on_limit": config.on_limit, "on_auth_failure": config.on_auth_failure})
        self._ban_hooks = Hooks({"on_ban": config.on_ban})
        self._seen = SeenCredentials(os.urandom(16), SEEN_SECONDS)
        self._tried: dict[str, tuple[float, int]] = {}
        self._refusals: dict[str, _Refusals] = {}

    def refused(self, client: Client, refusal: Refusal, method: str, path: str, now: float) -> None:
        """Tell of a refused request: by a limit at most once per client and second, by a trap always, else never.

        `now` is monotonic seconds.
        """
        if self.metrics.is_on:
            self.metrics.refused(refusal)
        if refusal.limit is None:
            if refusal is TRAPPED:
                self._tell(self._event(PROBE, Exchange(client, method, path, refusal.status)))
            return
        known = self._refusals.get(client.key)
        if known is not None and now < known.due:
            known.suppressed += 1
            return
        if len(self._refusals) >= REFUSALS_MOST:
            self._refusals.clear()
        self._refusals[client.key] = _Refusals(now + 1.0)
        is_over = known is None or now > known.due + SUPPRESSED_SECONDS  # what is long over no jail may count as now
        exchange = Exchange(client, method, path, refusal.status)
        event = self._event(LIMIT_EXCEEDED, exchange, count=1 if is_over or known is None else 1 + known.suppressed)
        self._hooks.call("on_limit", event)
        self._tell(event)

    def would_refuse(self, limit: Limit, client: Client, method: str, path: str, now: float) -> None:
        """Log what a limit in dry run would refuse: at once, then at most one line per limit and second."""
        name = limit.name
        due, suppressed = self._tried.get(name, (now, 0))
        if now < due:
            self._tried[name] = (due, suppressed + 1)
            return
        self._tried[name] = (now + 1.0, 0)
        more = f" ({suppressed} more since the last line)" if suppressed else ""
        log.warning("limit %s, in dry run, would refuse %s %s %r%s", name, client.key, method, path, more)

    def record(self, exchange: Exchange, notes: Sequence[Note]) -> Outcome | None:
        """Tell of an answer that is an event; give its outcome, None without an event."""
        note = self._note(exchange, notes)
        if not note.kind:
            return None
        event = self._event(note.kind, exchange, user=note.user)
        is_repeated = False
        if event is not None and note.credential and note.kind == LOGIN_FAIL:
            tried = f"{note.user}\0{note.credential}".encode(errors="replace")
            is_repeated = self._seen.is_repeated(exchange.client.key, tried, self._monotonic())
        event = event._replace(count=0) if event is not None and is_repeated else event
        if note.kind == LOGIN_FAIL:
            self._hooks.call("on_auth_failure", event)
        self._tell(event)
        return Outcome(exchange.status, note.kind, note.user, is_repeated)

    def _tell(self, event: Event | None) -> None:
        if event is None:
            return
        if self.metrics.is_on:
            self.metrics.event(event)
        counted, bans = self._jails().count(event, self._store())
        self._write(counted)
        for ban in bans:
            self.banned(ban)

    def banned(self, ban: Ban) -> None:
        """Tell of a ban by a jail of the app."""
        if self.metrics.is_on:
            self.metrics.banned(ban)
        self._ban_hooks.call("on_ban", ban)

    def _note(self, exchange: Exchange, notes: Sequence[Note]) -> Note:
        failures = [note for note in notes if note.kind == LOGIN_FAIL]
        if failures or notes:
            return (failures or notes)[0]
        scheme, credential = authorization(exchange.authorization)
        login_paths = self._config.login_paths
        kind = kind_of_answer(
            exchange.status, scheme=scheme, method=exchange.method, path=exchange.path, login_paths=login_paths
        )
        user = basic_user(credential) if scheme == "basic" else ""
        # What a form on a login path was sent is in the body: there the same header again is no repetition.
        is_form = exchange.method == "POST" and is_login_path(exchange.path, login_paths)
        return Note(kind, user, "" if is_form else credential)

    def _event(self, kind: str, exchange: Exchange, *, user: str = "", count: int = 1) -> Event | None:
        client, config = exchange.client, self._config
        if client.address is None:
            return None
        if user and config.hash_users:
            user = hashed_user(user, config.secret or config.name)
        return Event(
            kind,
            self._clock(),
            client.address,
            count=count,
            app=config.name,
            user=user,
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            via=tuple(hop.text for hop in client.via),
            request_id=exchange.request_id,
            user_agent=exchange.user_agent,
        )
