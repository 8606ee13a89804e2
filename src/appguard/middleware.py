"""What all adapters share: the guard, store and event log of one app, and what becomes of an answer.

An adapter translates its framework's request into texts and asks, in this order: `client` (who is it), `judge` and
the store's counters (may it pass), and when the answer is known `record` (was it a failed login). Constructing opens
nothing; files and sockets open at their first use, are reopened after a fork, and `close` closes them. Nothing here
raises on the request path.
"""

import base64
import binascii
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

from appguard.address import (
    UNKNOWN_HEADER,
    UNKNOWN_HOP,
    UNKNOWN_PEER,
    UNKNOWN_PROXY,
    Client,
    ClientFinder,
    Grouping,
    NetworkSet,
    Peer,
    network_text,
)
from appguard.ban import Ban
from appguard.ban_rate import BanRate, capped
from appguard.config import AppConfig
from appguard.errors import AppGuardError, ConfigError
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, Event, is_login_path, kind_of_answer
from appguard.event_log import EventLog
from appguard.fork import in_every_child
from appguard.guard import Guard, Refusal, SeenCredentials
from appguard.host import read_host_facts
from appguard.jail_window import JailWindow
from appguard.limit import Hit
from appguard.report import Note
from appguard.stores.base import Store
from appguard.stores.local import LocalStore
from appguard.stores.open import default_uri, open_store

SILENT_PROXY = "silent"
SEEN_SECONDS = 600.0
REFUSALS_MOST = 8192
SUPPRESSED_SECONDS = 60.0

log = logging.getLogger("appguard")

NGINX_LINE = "`proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`"
ADVICE = {
    UNKNOWN_PEER: (
        "the server gives no client address (peer %(evidence)r), so this app's clients cannot be told apart: if a "
        'proxy talks to it over a unix socket, add trusted_proxies=["unix:"]'
    ),
    UNKNOWN_PROXY: (
        "%(evidence)s sends forwarding headers but is not trusted, so this app's clients cannot be told apart: if it "
        'is your proxy, add trusted_proxies=["%(evidence)s"]'
    ),
    UNKNOWN_HOP: (
        "a trusted proxy forwards %(evidence)r, which is no address: let it send the client's address alone, in nginx "
        f"for example by {NGINX_LINE}"
    ),
    UNKNOWN_HEADER: (
        "%(evidence)s sends another forwarding header than %(header)s, so this app's clients cannot be told apart: "
        "add forwarding_header=%(other)r"
    ),
    SILENT_PROXY: (
        "the proxy at the unix socket sends no %(header)s header, so this app's clients cannot be told apart: let it "
        f"send one, in nginx for example by {NGINX_LINE}"
    ),
}


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


class Middleware:
    """One app's protection."""

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        if config.store:
            self._open_store(config.store)  # checks the URI, opens nothing
        self._safelist = NetworkSet([*config.safelist, *config.trusted_proxies.networks])
        self.guard = Guard(config.limits, self._safelist, config.exempt_paths)
        self.event_log = EventLog(config.event_log)
        self._seen = SeenCredentials(os.urandom(16), SEEN_SECONDS)
        self._refusals: dict[str, tuple[float, int]] = {}
        self._said: set[str] = set()
        self._renew_lock()
        in_every_child(self, Middleware._renew_lock)

    def _renew_lock(self) -> None:
        self._windows_lock = Lock()  # a WSGI server counts in many threads

    @cached_property
    def store(self) -> Store:
        """Give the app's store; the default is chosen at the first use."""
        store = self._open_store(self.config.store or default_uri())
        if self.config.jails and isinstance(store, LocalStore):
            raise ConfigError(
                f"jails: with store {store.name} the daemon bans: move them to [jails.NAME] of its appguard.toml"
            )
        return store

    def _open_store(self, uri: str) -> Store:
        return open_store(uri, app=self.config.name, on_store_error=self.config.on_store_error)

    @cached_property
    def _grouping(self) -> Grouping:
        return Grouping(read_host_facts().on_link)

    @cached_property
    def finder(self) -> ClientFinder:
        """Give the finder of clients; it asks the host for its on-link networks at the first use."""
        return ClientFinder(self.config.trusted_proxies, self._grouping)

    @cached_property
    def _windows(self) -> tuple[JailWindow, ...]:
        return tuple(JailWindow(jail, self._grouping.key) for jail in self.config.jails)

    @cached_property
    def _rates(self) -> dict[str, BanRate]:
        return {jail.name: BanRate(jail) for jail in self.config.jails}

    def start(self) -> None:
        """Open what can fail by a bad setting, ask the host what it must, and say once what is in force."""
        store = self.store
        _ = self.finder
        if "start" in self._said:
            return
        self._said.add("start")
        proxies = [network_text(network) for network in self.config.trusted_proxies.networks]
        proxies += ["unix:"] if self.config.trusted_proxies.unix else []
        log.info(
            "AppGuard protects %s: store %s, limits %s, event log %s, trusted proxies %s",
            self.config.name,
            store.name,
            ", ".join(map(str, self.config.limits)) or "none",
            self.event_log.target or "events.sock or logger",
            ", ".join(proxies) or "none",
        )

    def client(self, peer: Peer, port: int | None, forwarded: str | None, has_other_header: bool) -> Client:
        """Give the client behind a peer whose forwarding headers are to be looked at.

        `port` 0 is how servers mark a peer they have rewritten; `has_other_header` says that the forwarding header
        that is not configured was sent. A rewritten peer that is itself a trusted proxy is one the server did not know
        of: the walk goes on from it.
        """
        is_rewritten = port == 0 and peer.client.address is not None
        proxies = self.config.trusted_proxies
        if is_rewritten and (proxies.networks or proxies.unix):
            self._say(
                "rewritten",
                logging.WARNING,
                "the server replaces the peer by a forwarded address before AppGuard sees it: trust proxies in one "
                "place, by `uvicorn --no-proxy-headers` or by dropping trusted_proxies",
            )
        if forwarded is None and has_other_header and peer.is_trusted:
            return Client(None, unknown=UNKNOWN_HEADER, evidence=str(peer.client.address))
        return self.finder.behind(peer, forwarded, is_rewritten=is_rewritten and not peer.is_trusted)

    def explain_unknown(self, client: Client) -> None:
        """Say once, for each way a client can be unknown, which line to add."""
        is_silent = client.unknown == UNKNOWN_PEER and not client.evidence and self.config.trusted_proxies.unix
        why = SILENT_PROXY if is_silent else client.unknown
        level = logging.INFO if client.evidence == "testclient" else logging.ERROR
        header = self.config.forwarding_header
        other = "forwarded" if header == "x-forwarded-for" else "x-forwarded-for"
        self._say(why, level, ADVICE[why], {"evidence": client.evidence, "header": header, "other": other})

    def _say(self, what: str, level: int, message: str, *args: object) -> None:
        if what not in self._said:
            self._said.add(what)
            log.log(level, message, *args)

    def _judge(
        self, client: Client, method: str, path: str, now: float, *, is_counted: bool
    ) -> Refusal | Sequence[Hit]:
        """Refuse, or give the hits to be counted; `now` is monotonic seconds. A CORS preflight is not counted."""
        if client.unknown:
            self.explain_unknown(client)
        return self.guard.judge(client, method, path, self.store.get, time.time(), now, is_counted=is_counted)

    def decide(self, client: Client, method: str, path: str, now: float, *, is_counted: bool) -> Refusal | None:
        """Judge and count a request, in a thread; give its refusal, whose event is written."""
        found = self._judge(client, method, path, now, is_counted=is_counted)
        if isinstance(found, Refusal):
            return self._refused(client, found, method, path, now)
        refusal = self.guard.settle(self.store.check(found), now) if found else None
        return self._refused(client, refusal, method, path, now)

    async def decide_async(
        self, client: Client, method: str, path: str, now: float, *, is_counted: bool
    ) -> Refusal | None:
        """Do what `decide` does, on the event loop."""
        found = self._judge(client, method, path, now, is_counted=is_counted)
        if isinstance(found, Refusal):
            return self._refused(client, found, method, path, now)
        refusal = self.guard.settle(await self.store.check_async(found), now) if found else None
        return self._refused(client, refusal, method, path, now)

    def _refused(self, client: Client, refusal: Refusal | None, method: str, path: str, now: float) -> Refusal | None:
        if refusal is not None and refusal.limit is not None and client.address is not None:
            self._write_refusal(client, method, path, now)
        return refusal

    def _write_refusal(self, client: Client, method: str, path: str, now: float) -> None:
        """Write the event of a refusal by a limit: at once, then at most one per client and second."""
        due, suppressed = self._refusals.get(client.key, (now, 0))
        if now < due:
            self._refusals[client.key] = (due, suppressed + 1)
            return
        if len(self._refusals) >= REFUSALS_MOST:
            self._refusals.clear()
        self._refusals[client.key] = (now + 1.0, 0)
        if now > due + SUPPRESSED_SECONDS:
            suppressed = 0  # of a flood long over, which no jail may count as one of now
        event = self._event(LIMIT_EXCEEDED, Exchange(client, method, path, 429), count=1 + suppressed)
        if event:
            self.event_log.write(self._count(event))

    def record(self, exchange: Exchange, notes: Sequence[Note]) -> bool:
        """Write the event of an answer and count it in the app's own jails; say whether the answer was one."""
        note = self._outcome(exchange, notes)
        if not note.kind:
            return False
        event = self._event(note.kind, exchange, user=note.user)
        if event is None:
            return True
        if note.credential and note.kind == LOGIN_FAIL:
            tried = f"{note.user}\0{note.credential}".encode(errors="replace")
            if self._seen.is_repeated(exchange.client.key, tried, time.monotonic()):
                event = replace(event, count=0)
        self.event_log.write(self._count(event))
        return True

    def _outcome(self, exchange: Exchange, notes: Sequence[Note]) -> Note:
        failures = [note for note in notes if note.kind == LOGIN_FAIL]
        if failures or notes:
            return (failures or notes)[0]
        scheme, credential = ([*exchange.authorization.split(None, 1), "", ""])[:2]
        scheme = scheme.lower()
        login_paths = self.config.login_paths
        kind = kind_of_answer(
            exchange.status, scheme=scheme, method=exchange.method, path=exchange.path, login_paths=login_paths
        )
        user = basic_user(credential) if scheme == "basic" else ""
        # What a form on a login path was sent is in the body: there the same header again is no repetition.
        is_form = exchange.method == "POST" and is_login_path(exchange.path, login_paths)
        return Note(kind, user, "" if is_form else credential)

    def _event(self, kind: str, exchange: Exchange, *, user: str = "", count: int = 1) -> Event | None:
        client = exchange.client
        if client.address is None:
            return None
        return Event(
            kind,
            time.time(),
            client.address,
            count=count,
            app=self.config.name,
            user=user,
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            via=tuple(hop.text for hop in client.via),
            request_id=exchange.request_id,
            user_agent=exchange.user_agent,
        )

    def _count(self, event: Event) -> Event:
        if event.address in self._safelist:
            return event
        counted = ""
        for window in self._windows:
            with self._windows_lock:
                is_counted = window.counts(event)
                bans = window.record(event, event.to_line()) if is_counted else ()
                if window.clears(event):
                    window.forget(window.key(event))
            if is_counted and not window.jail.dry_run:
                counted = window.jail.name
            for ban in bans:
                self._ban(ban, is_dry=window.jail.dry_run)
        return replace(event, jail=counted) if counted else event

    def _ban(self, decided: Ban, *, is_dry: bool) -> None:
        rate = self._rates[decided.jail]
        ban = capped(decided) if rate.count(time.time()) else decided
        if ban is None or ban is not decided:
            self._say(f"rate of {decided.jail}", logging.ERROR, "[%s] %s", decided.jail, rate.alarm)
        if ban is None:
            return
        if is_dry:
            log.warning("[%s] Ban %s (dry run)", ban.jail, ban.key)
            return
        try:
            if self.store.ban(ban):
                log.warning("[%s] Ban %s", ban.jail, ban.key)
        except AppGuardError as error:  # the request goes on; the next failure tries again
            log.error("[%s] %s could not be banned: %s", ban.jail, ban.key, error)

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        self.event_log.close()
        if "store" in self.__dict__:
            self.store.close()

    async def close_async(self) -> None:
        """Do what `close` does, and close what belongs to the running event loop."""
        self.event_log.close()
        if "store" in self.__dict__:
            await self.store.close_async()


def basic_user(credential: str) -> str:
    """Give the user name of HTTP Basic credentials (RFC 7617); the password, or what has no colon, is dropped."""
    try:
        user, colon, _ = base64.b64decode(credential, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return ""
    return user.decode(errors="replace") if colon else ""
