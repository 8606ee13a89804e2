"""What all adapters share: the guard and store of one app, and what becomes of a request.

An adapter translates its framework's request into texts and asks, in this order: `client` (who is it), `decide` (may it
pass: a refusal, or a visit; on an event loop `consider`, and `conclude` if that is not all), and of a visit, when the
answer is known, `record` (was it a failed login), `due` and `settle` (what do limits of outcomes say). A limit at a
route asks in between, by `ask`. Constructing opens nothing; files and sockets open at their first use, are reopened
after a fork, and `close` closes them. Nothing here raises on the request path.
"""

import logging
from collections.abc import Sequence
from math import inf, nan
from threading import Lock

from appguard.address import NetworkSet, network_text
from appguard.advice import ONE_CLIENT, TWICE, findings, is_private
from appguard.answers import Answer, Answers
from appguard.app_events import AppEvents
from appguard.around import Around, begin_around
from appguard.attempts import Attempts
from appguard.clients import Clients
from appguard.config import AppConfig
from appguard.fork import in_every_child
from appguard.guard import Guard, Refusal
from appguard.limit import ADMITTED, Hit, Limit, Verdict
from appguard.opened import Opened, open_for, store_at
from appguard.proxies import Client
from appguard.request import HeaderOf, Request
from appguard.steps import LONGEST, Step, Steps, run, run_async
from appguard.stores.base import BUDGET, Counters, Store
from appguard.stores.open import check_counters
from appguard.traps import Traps
from appguard.visit import NOT_ASKED, Visit

_new = object.__new__
log = logging.getLogger("appguard")


class Middleware:
    """One app's protection; `visit` is what it makes of a request that it lets in."""

    def __init__(
        self, config: AppConfig, header_of: HeaderOf = lambda _native, _name: "", visit: type[Visit] = Visit
    ) -> None:
        self.config = config
        self._visit = visit
        if config.store:
            store_at(config.store, config)  # checks the URI
        if config.counters:
            check_counters(config.counters, config.limits)
        self._safelist = NetworkSet([*config.safelist, *config.trusted_proxies.networks])
        self._header_of = header_of
        self.clients = Clients(config, self.say)
        self.peers = self.clients.finder.known  # at hand
        self.answers = Answers(config.headers, config.ban_status, config.ban_text, config.response)
        self.fields = self.answers.fields
        self.has_fields = self.fields.has_any
        self._said: set[str] = set()
        begin_around(self)
        self._renew()
        in_every_child(self, Middleware._renew)

    def _renew(self) -> None:
        self._starting = Lock()

    def begin(self, around: Around) -> None:
        """Begin with nothing counted, in these surroundings."""
        config, self._around = self.config, around
        self._opened: Opened | None = None
        self.attempts = Attempts(config.login_paths, around.monotonic)
        self.guard = self._new_guard(config.limits, Traps(config.traps) if config.traps else None)
        self.has_more_limits = self.guard.has_outcomes or self.guard.has_dry_limits
        self.events = AppEvents(config, around, lambda: self.opened.jails, lambda: self.store)
        self.clock = around.wall
        self.monotonic = around.monotonic
        self._forgiven = 0
        self._has_refused = False
        self._routes: dict[tuple[str, Limit], Guard] = {}

    def _new_guard(self, limits: Sequence[Limit], traps: Traps | None = None) -> Guard:
        config = self.config
        return Guard(
            limits,
            self._safelist,
            config.exempt_paths,
            self._header_of,
            None if config.counters else self.attempts.is_one,
            config.secret or config.name,
            traps,
        )

    @property
    def opened(self) -> Opened:
        """Give what is open; at the first use it is opened, once, though threads come together."""
        if self._opened is None:
            with self._starting:
                if self._opened is None:
                    self._opened = open_for(self.config, self._around, self.clients.grouping, self._safelist)
        return self._opened

    @property
    def store(self) -> Store:
        """Give the app's store."""
        return self.opened.store

    @property
    def counters(self) -> Counters:
        """Give where limits are counted: the store, or what `counters` names."""
        return self.opened.counters

    def start(self) -> None:
        """Open what can fail by a bad setting, ask the host what it must, and say once what is in force.

        The first requests of several threads come here at once: none goes on before all is known.
        """
        store = self.store
        with self._starting:
            if "start" in self._said:
                return
            self.clients.learn_host()
            self._said.add("start")
        proxies = [network_text(network) for network in self.config.trusted_proxies.networks]
        proxies += ["unix:"] if self.config.trusted_proxies.unix else []
        log.info(
            "AppGuard protects %s: store %s, limits %s, event log %s, trusted proxies %s",
            self.config.name,
            store.name,
            ", ".join(map(str, self.config.limits)) or "none",
            self.events.log.target or "events.sock or logger",
            ", ".join(proxies) or "none",
        )
        for what, message, args in findings(self.config, store):
            self.say(what, logging.WARNING, message, args)

    def start_under(self, outer: object) -> None:
        """Start at the first request; `outer` is what another AppGuard before this one left on it, if there is one."""
        self.start()
        if isinstance(outer, Visit) and outer.middleware.config.name == self.config.name:
            self.say("twice", logging.WARNING, TWICE, {"name": self.config.name})

    def say(self, what: str, level: int, message: str, *args: object) -> None:
        """Log something once."""
        if what not in self._said:
            self._said.add(what)
            log.log(level, message, *args)

    def _forgive(self, opened: Opened, now: float) -> None:
        """Drop what is remembered of refusals when a ban was lifted or counters were reset, and when all are over."""
        guard = self.guard
        if guard.denied_until <= now:
            guard.denied.clear()
        forgiven = opened.store.lifts + opened.counters.resets
        if forgiven != self._forgiven:
            self._forgiven = forgiven
            for each in (guard, *self._routes.values()):
                each.denied.clear()

    def decide(
        self, client: Client, method: str, path: str, is_preflight: bool, native: object = None
    ) -> Refusal | Visit:
        """Judge and count a request, in a thread: give its refusal, of which events are told, or its visit.

        `native` is the framework's request. A CORS preflight is not counted by limits of requests.
        """
        opened, guard, address = self._opened, self.guard, client.address
        if opened is None:
            opened = self.opened
        ban_of, now = opened.ban_of, nan  # most requests need no time: no refusal is remembered
        hits: Sequence[Hit] | None = None
        if guard.denied or not opened.is_immediate:
            now = self.monotonic()
            self._forgive(opened, now)
        else:
            hits = guard.usual.get(client.key)
        if hits is None or is_preflight or address is None or ban_of(address) is not None:
            found = guard.judge(client, method, path, ban_of, self.clock, now, is_preflight, native)
            if type(found) is Refusal:
                self.events.refused(client, found, method, path, now)
                return found
            hits = found
        check = opened.check  # `opened` says why
        verdict = check(hits) if hits else ADMITTED
        if verdict.refused is not None:
            now = self.monotonic()
            return self.refuse(client, guard.settle(verdict, now), method, path, now)
        visit = _new(self._visit)  # in half the time that calling it would take
        visit.middleware = self
        visit.client = client
        visit.method = method
        visit.path = path
        visit.hits = hits
        visit.least = verdict.least if self.has_fields else None
        visit.notes = visit.pending = ()
        visit.outcome = visit.refusal = None
        visit.waited = 0.0
        if self.has_more_limits or address is None or not opened.is_immediate:
            self._go_on(opened, visit, verdict, now, native, is_preflight)
        return visit

    def _go_on(
        self, opened: Opened, visit: Visit, verdict: Verdict, begun: float, native: object, is_preflight: bool
    ) -> None:
        """Do the rest for a visit that began at `begun`, which is read only where counters ask another host."""
        if not opened.is_immediate:
            took = self.monotonic() - begun
            visit.waited = took if took < LONGEST else 0.0
        if self.has_more_limits or visit.client.address is None:
            steps = self._further(visit, verdict, native, is_preflight)
            if steps is not None:
                run(steps, opened.counters, visit)

    async def decide_async(
        self, client: Client, method: str, path: str, is_preflight: bool, native: object = None
    ) -> Refusal | Visit:
        """Do what `decide` does, on the event loop."""
        found = self.consider(client, method, path, is_preflight, native)
        if isinstance(found, Refusal) or found.asked is None or await found.asked:
            return found
        return await self.conclude(found, is_preflight, native)

    def consider(
        self, client: Client, method: str, path: str, is_preflight: bool, native: object = None
    ) -> Refusal | Visit:
        """Begin what `decide` does, on the event loop: refuse, or ask.

        Await what the visit has `asked`, if anything: unless that gives True, `conclude` decides the rest.
        """
        opened, guard, address = self._opened or self.opened, self.guard, client.address
        if opened.is_immediate:
            decided = self.decide(client, method, path, is_preflight, native)
            if type(decided) is not Refusal:
                decided.meet(decided.least)
                decided.asked = None
            return decided
        now = self.monotonic()
        hits: Sequence[Hit] | None = None
        if guard.denied:
            self._forgive(opened, now)
        else:
            hits = guard.usual.get(client.key)
        ban_of = opened.ban_of  # `opened` says why
        if hits is None or is_preflight or address is None or ban_of(address) is not None:
            found = guard.judge(client, method, path, ban_of, self.clock, now, is_preflight, native)
            if type(found) is Refusal:
                self.events.refused(client, found, method, path, now)
                return found
            hits = found
        visit = _new(self._visit)  # as in `decide`
        visit.middleware = self
        visit.client = client
        visit.method = method
        visit.path = path
        visit.hits = hits
        visit.notes = visit.pending = ()
        visit.outcome = visit.refusal = visit.verdict = None
        visit.begun = now
        ask = opened.ask
        visit.asked = (ask(visit) if hits else None) or NOT_ASKED
        return visit

    async def conclude(self, visit: Visit, is_preflight: bool, native: object) -> Refusal | Visit:
        """Decide the rest, and all if counters were not asked or could not answer."""
        opened, verdict, client = self.opened, visit.verdict, visit.client
        if verdict is None:
            seconds = inf if visit.asked is NOT_ASKED else BUDGET - (self.monotonic() - visit.begun)
            verdict = await opened.check_async(visit.hits, seconds) if visit.hits else ADMITTED
            visit.hear(verdict)
        if verdict.refused is not None:
            refusal = self.guard.settle(verdict, visit.begun)
            return self.refuse(client, refusal, visit.method, visit.path, visit.begun)
        if self.has_more_limits or client.address is None:
            steps = self._further(visit, verdict, native, is_preflight)
            if steps is not None:
                await run_async(steps, opened.counters, visit)
        return visit

    def _further(self, visit: Visit, verdict: Verdict, native: object, is_preflight: bool) -> Steps[None] | None:
        """Do what follows for some of the requests that were let in; give the steps if limits are to be asked."""
        guard = self.guard
        if visit.client.address is None:
            self.clients.explain(visit.client)
        elif guard.has_dry_limits and guard.is_limited(visit.client):
            return self._admit(guard, visit, visit.hits, verdict, native, self.monotonic(), is_preflight)
        elif guard.is_limited(visit.client):
            self._note(guard, visit, visit.hits, verdict, native)
        return None

    def ask(self, visit: Visit, limit: Limit, route: str, native: object) -> Refusal | None:
        """Ask a limit at a route that a visit has reached, in a thread; give and note its refusal."""
        return run(self._ask(visit, limit, route, native), self.counters, visit)

    async def ask_async(self, visit: Visit, limit: Limit, route: str, native: object) -> Refusal | None:
        """Do what `ask` does, on the event loop."""
        return await run_async(self._ask(visit, limit, route, native), self.counters, visit)

    def _ask(self, visit: Visit, limit: Limit, route: str, native: object) -> Steps[Refusal | None]:
        guard, now = self._guard_at(limit, route), self.monotonic()
        if guard.denied:
            self._forgive(self.opened, now)
        if not guard.is_limited(visit.client):
            return None
        found = guard.judge(visit.client, visit.method, visit.path, lambda _: None, self.clock, now, native=native)
        verdict = ADMITTED
        if not isinstance(found, Refusal):
            counted = {hit.key for hit in visit.hits}  # by limits asked before that share its counter
            found = [hit for hit in found if hit.key not in counted]
            verdict = yield Step(found)
        if verdict.refused is not None:
            found = guard.settle(verdict, now)
        if isinstance(found, Refusal):
            visit.refusal = self.refuse(visit.client, found, visit.method, visit.path, now)
            return found
        least, before, place = verdict.least, visit.least, len(visit.hits)
        visit.hits = [*visit.hits, *found]
        if self.has_fields and least is not None and (before is None or least[1] < before[1]):
            visit.meet((place + least[0], least[1], least[2]))
        yield from self._admit(guard, visit, found, verdict, native, now)
        return None

    def _guard_at(self, limit: Limit, route: str) -> Guard:
        guard = self._routes.get((route, limit))
        if guard is None:
            if self.config.counters:
                check_counters(self.config.counters, [limit])
            guard = self._routes.setdefault((route, limit), self._new_guard([limit.at(route)]))
        return guard

    def _note(self, guard: Guard, visit: Visit, hits: Sequence[Hit], verdict: Verdict, native: object) -> None:
        """Note on a visit what its outcome will settle."""
        pending = guard.pending(hits, verdict.time, visit.client, visit.method, visit.path, native)
        if pending is not None:
            visit.pending = [*visit.pending, (guard, pending)]

    def _admit(
        self,
        guard: Guard,
        visit: Visit,
        hits: Sequence[Hit],
        verdict: Verdict,
        native: object,
        now: float,
        is_preflight: bool = False,
    ) -> Steps[None]:
        """Ask the limits in dry run, and note on a visit what its outcome will settle."""
        client, method, path = visit.client, visit.method, visit.path
        tried = guard.dry_hits(client, method, path, native, is_preflight)
        for hit in tried:
            if (yield Step([hit])).refused is not None:
                self.events.would_refuse(hit.limit, client, method, path, now)
        self._note(guard, visit, [*hits, *tried], verdict, native)

    def refuse(self, client: Client, refusal: Refusal, method: str, path: str, now: float) -> Refusal:
        """Tell of a refusal by a limit, and give it."""
        self.events.refused(client, refusal, method, path, now)
        if not self._has_refused and refusal.limit is not None:
            self._has_refused = True
            if self.guard.knows_only(client.key) and is_private(client):
                self.say("one client", logging.WARNING, ONE_CLIENT, {"client": client.key})
        return refusal

    def answer(self, refusal: Refusal, client: Client, method: str, path: str, native: object, accept: str) -> Answer:
        """Give the answer to a refused request; `accept` is the header of that name."""
        answers, own = self.answers, None
        if answers.has_own:
            own = answers.own(refusal, Request(client, method, path, native, self._header_of))
        return own or answers.usual(refusal, accept)

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        self.events.log.close()
        if self._opened is not None:
            self._opened.close()

    async def close_async(self) -> None:
        """Do what `close` does, and close what belongs to the running event loop."""
        self.events.log.close()
        if self._opened is not None:
            await self._opened.close_async()
