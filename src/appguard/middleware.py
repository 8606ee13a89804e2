"""What all adapters share: the guard, store and event log of one app, and what becomes of an answer.

An adapter translates its framework's request into texts and asks, in this order: `client` (who is it), `judge` and
the store's counters (may it pass), and when the answer is known `record` (was it a failed login). Constructing opens
nothing; files and sockets open at their first use, are reopened after a fork, and `close` closes them. Nothing here
raises on the request path.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from appguard.address import (
    UNKNOWN_HEADER,
    UNKNOWN_PEER,
    Client,
    ClientFinder,
    Grouping,
    NetworkSet,
    Peer,
    network_text,
)
from appguard.advice import ADVICE, SILENT_PROXY
from appguard.app_jails import AppJails
from appguard.config import AppConfig
from appguard.errors import ConfigError
from appguard.event import LIMIT_EXCEEDED, LOGIN_FAIL, Event, is_login_path, kind_of_answer
from appguard.event_log import EventLog
from appguard.guard import Guard, Refusal, SeenCredentials
from appguard.host import read_host_facts
from appguard.limit import ADMITTED, Hit, Verdict
from appguard.outcome import Outcome, Pending
from appguard.report import Note
from appguard.request import HeaderOf, Request, authorization, basic_user
from appguard.stores.base import Counters, Store
from appguard.stores.local import LocalStore
from appguard.stores.open import check_counters, default_uri, open_counters, open_store

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


class Middleware:
    """One app's protection."""

    def __init__(self, config: AppConfig, header_of: HeaderOf = lambda _native, _name: "") -> None:
        self.config = config
        if config.store:
            self._open_store(config.store)  # checks the URI, opens nothing
        if config.counters:
            check_counters(config.counters, config.limits)
        self._safelist = NetworkSet([*config.safelist, *config.trusted_proxies.networks])
        self.guard = Guard(
            config.limits,
            self._safelist,
            config.exempt_paths,
            header_of,
            None if config.counters else self._is_attempt,
            config.secret or config.name,
        )
        self._has_more_limits = self.guard.has_outcomes or self.guard.has_dry_limits
        self.event_log = EventLog(config.event_log)
        self._seen = SeenCredentials(os.urandom(16), SEEN_SECONDS)
        self._accepted = SeenCredentials(os.urandom(16), SEEN_SECONDS)
        self._forgiven = 0
        self._tried: dict[str, tuple[float, int]] = {}
        self._refusals: dict[str, tuple[float, int]] = {}
        self._said: set[str] = set()

    @cached_property
    def store(self) -> Store:
        """Give the app's store; the default is chosen at the first use."""
        store = self._open_store(self.config.store or default_uri())
        if self.config.jails and isinstance(store, LocalStore):
            raise ConfigError(
                f"jails: with store {store.name} the daemon bans: move them to [jails.NAME] of its appguard.toml"
            )
        return store

    @cached_property
    def counters(self) -> Counters:
        """Give where limits are counted: the store, or what `counters` names."""
        config = self.config
        if not config.counters:
            return self.store
        return open_counters(config.counters, app=config.name, on_store_error=config.on_store_error)

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
    def _jails(self) -> AppJails:
        return AppJails(self.config.jails, self._grouping.key, self._safelist)

    def start(self) -> None:
        """Open what can fail by a bad setting, ask the host what it must, and say once what is in force."""
        store = self.store
        _ = self.finder, self.counters
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
        self, client: Client, method: str, path: str, now: float, *, is_counted: bool, native: object
    ) -> Refusal | Sequence[Hit]:
        """Refuse, or give the hits to be counted; `now` is monotonic seconds. A CORS preflight is not counted."""
        if client.unknown:
            self.explain_unknown(client)
        if self.guard.denied:
            forgiven = self.store.lifts + self.counters.resets
            if forgiven != self._forgiven:
                self._forgiven = forgiven
                self.guard.denied.clear()
        return self.guard.judge(
            client, method, path, self.store.get, time.time(), now, is_counted=is_counted, native=native
        )

    def decide(
        self, client: Client, method: str, path: str, now: float, *, is_counted: bool, native: object = None
    ) -> Refusal | Pending | None:
        """Judge and count a request, in a thread: give its refusal, whose event is written, or what is pending.

        `native` is the framework's request.
        """
        found = self._judge(client, method, path, now, is_counted=is_counted, native=native)
        if isinstance(found, Refusal):
            return self._refused(client, found, method, path, now)
        verdict = self.counters.check(found) if found else ADMITTED
        if verdict.refused is not None:
            return self._refused(client, self.guard.settle(verdict, now), method, path, now)
        if not self._has_more_limits or not is_counted or not self.guard.is_limited(client, path):
            return None
        dry_hits = self.guard.dry_hits(client, method, path, native)
        for hit in dry_hits:
            self._try(hit, self.counters.check([hit]), client, method, path, now)
        return self.guard.pending([*found, *dry_hits], verdict.time, client, method, path, native)

    async def decide_async(
        self, client: Client, method: str, path: str, now: float, *, is_counted: bool, native: object = None
    ) -> Refusal | Pending | None:
        """Do what `decide` does, on the event loop."""
        found = self._judge(client, method, path, now, is_counted=is_counted, native=native)
        if isinstance(found, Refusal):
            return self._refused(client, found, method, path, now)
        verdict = await self.counters.check_async(found) if found else ADMITTED
        if verdict.refused is not None:
            return self._refused(client, self.guard.settle(verdict, now), method, path, now)
        if not self._has_more_limits or not is_counted or not self.guard.is_limited(client, path):
            return None
        dry_hits = self.guard.dry_hits(client, method, path, native)
        for hit in dry_hits:
            self._try(hit, await self.counters.check_async([hit]), client, method, path, now)
        return self.guard.pending([*found, *dry_hits], verdict.time, client, method, path, native)

    def settle(self, pending: Pending, outcome: Outcome) -> Refusal | None:
        """Count an outcome, in a thread; give a refusal if its user's limit is full, to be answered instead."""
        now, returned = time.monotonic(), self._to_give_back(pending, outcome)
        if returned:
            self.counters.give_back(returned, pending.time)
        verdicts = [(hit, self.counters.check([hit])) for hit in self.guard.to_ask(pending, outcome)]
        return self._settled(pending, verdicts, now)

    async def settle_async(self, pending: Pending, outcome: Outcome) -> Refusal | None:
        """Do what `settle` does, on the event loop."""
        now, returned = time.monotonic(), self._to_give_back(pending, outcome)
        if returned:
            await self.counters.give_back_async(returned, pending.time)
        verdicts = [(hit, await self.counters.check_async([hit])) for hit in self.guard.to_ask(pending, outcome)]
        return self._settled(pending, verdicts, now)

    def _to_give_back(self, pending: Pending, outcome: Outcome) -> Sequence[Hit]:
        self._accept(pending.request, outcome)
        returned = pending.to_give_back(outcome)
        for hit in returned:
            self.guard.denied.pop(hit.key, None)
        return returned

    def _settled(self, pending: Pending, verdicts: Sequence[tuple[Hit, Verdict]], now: float) -> Refusal | None:
        request, refusal = pending.request, None
        for hit, verdict in verdicts:
            refused = self.guard.settle(verdict, now)
            if refused is None or hit.limit not in pending.users:
                continue  # a limit of the client is full now: that is the next request's matter
            if hit.limit.dry_run:
                self._try(hit, verdict, request.client, request.method, request.path, now)
            else:
                refusal = refused
        return self._refused(request.client, refusal, request.method, request.path, now)

    def _try(self, hit: Hit, verdict: Verdict, client: Client, method: str, path: str, now: float) -> None:
        """Log what a limit in dry run would refuse: at once, then at most one line per limit and second."""
        if verdict.refused is None:
            return
        name = hit.limit.name
        due, suppressed = self._tried.get(name, (now, 0))
        if now < due:
            self._tried[name] = (due, suppressed + 1)
            return
        self._tried[name] = (now + 1.0, 0)
        more = f" ({suppressed} more since the last line)" if suppressed else ""
        log.warning("limit %s, in dry run, would refuse %s %s %r%s", name, client.key, method, path, more)

    def _is_attempt(self, request: Request) -> bool:
        """Say whether a request looks like a login: a form sent to a login path, or credentials not yet accepted."""
        if request.method == "POST" and is_login_path(request.path, self.config.login_paths):
            return True
        scheme, credential = authorization(request.header("authorization"))
        if scheme != "basic":
            return False
        return not self._accepted.knows(request.client.key, credential.encode(errors="replace"), time.monotonic())

    def _accept(self, request: Request, outcome: Outcome) -> None:
        """Remember credentials that worked, so that a page's many requests with them are no guesses."""
        if outcome.status >= 400 or outcome.kind:
            return
        scheme, credential = authorization(request.header("authorization"))
        if scheme == "basic":
            self._accepted.is_repeated(request.client.key, credential.encode(errors="replace"), time.monotonic())

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
            self.event_log.write(self._jails.count(event, self.store))

    def record(self, exchange: Exchange, notes: Sequence[Note]) -> Outcome | None:
        """Write the event of an answer and count it in the app's own jails; give its outcome, None without an event."""
        note = self._outcome(exchange, notes)
        if not note.kind:
            return None
        event = self._event(note.kind, exchange, user=note.user)
        is_repeated = False
        if event is not None and note.credential and note.kind == LOGIN_FAIL:
            tried = f"{note.user}\0{note.credential}".encode(errors="replace")
            is_repeated = self._seen.is_repeated(exchange.client.key, tried, time.monotonic())
        if event is not None:
            self.event_log.write(self._jails.count(event._replace(count=0) if is_repeated else event, self.store))
        return Outcome(exchange.status, note.kind, note.user, is_repeated)

    def _outcome(self, exchange: Exchange, notes: Sequence[Note]) -> Note:
        failures = [note for note in notes if note.kind == LOGIN_FAIL]
        if failures or notes:
            return (failures or notes)[0]
        scheme, credential = authorization(exchange.authorization)
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

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        self.event_log.close()
        if "store" in self.__dict__:
            self.store.close()
        if "counters" in self.__dict__:
            self.counters.close()

    async def close_async(self) -> None:
        """Do what `close` does, and close what belongs to the running event loop."""
        self.event_log.close()
        if "store" in self.__dict__:
            await self.store.close_async()
        if "counters" in self.__dict__:
            await self.counters.close_async()
