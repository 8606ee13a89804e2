"""The companion daemon: wires sources > filters > jails > ban set, and from there state, published bans and bouncer.

Everything runs on one event loop. A chunk of lines goes through in one plain call (`_deliver`): count, ban, wake the
bouncer, publish for the apps, and save counters and read position in one transaction (one write to a log, not synced;
`saving.py`). So a daemon killed at any point continues after a restart with exactly the lines it had not counted.
"""

import asyncio
import gc
import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from appguard.address import Grouping, NetworkSet, network_text, parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.banning import Banning
from appguard.bouncer import Bouncer
from appguard.bouncer_apart import APART, BouncerApart
from appguard.bouncers import Bouncers
from appguard.config import CONFIG_FILE, DaemonConfig, daemon_config
from appguard.config_sources import SOCKET_SOURCES
from appguard.control import serve
from appguard.errors import AddressError, AppGuardError, ConfigError, FirewallError, StateError
from appguard.event_log import Backlog, write_stderr
from appguard.firewalls.open import kinds_of, open_firewall
from appguard.following import Following
from appguard.host import administrators, read_host_facts
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.members import (
    Origin,
    ban_set_of,
    filter_of,
    open_source,
    sources_of,
    user_ids_of,
    wanted_kinds,
    wanted_statuses,
)
from appguard.names import Addresses, Names
from appguard.notify import keep_alive, notify, until_signal
from appguard.overview import Overview
from appguard.pipeline import Outcome, Pipeline, Route, Unresolved
from appguard.saving import Saving
from appguard.sources.base import Chunk, Source
from appguard.state import Batch, State
from appguard.status import BanRecord, DaemonStatus, JailStatus
from appguard.stores.local import Publisher

TICK = 1.0  # seconds between looks for ended bans
VANISHED = 30 * 86_400.0  # seconds after which the position in a log that is gone is dropped

log = logging.getLogger("appguard")


class StderrHandler(logging.Handler):
    """Logs to standard error from a thread: whoever reads it may stop, and the loop must not."""

    def __init__(self) -> None:
        super().__init__()
        self._backlog = Backlog(write_stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; what finds no room is dropped and counted."""
        self._backlog.put(f"{self.format(record)}\n".encode(errors="backslashreplace"))


class Daemon:
    """The daemon of one host."""

    def __init__(self, config: DaemonConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._started = clock()
        self._facts = read_host_facts()
        self._grouping = Grouping(self._facts.on_link)
        self._state = State(config.state_directory, clock)
        self._bans = ban_set_of(config.store, clock, self._on_change)
        self._publisher = Publisher(config.runtime_directory)
        self._windows = {each.jail.name: JailWindow(each.jail, self._grouping.key) for each in config.jails}
        safe = [*config.safelist, *config.trusted_proxies.networks]
        self._pipeline = Pipeline(self._routes(), NetworkSet(safe))
        self._names = Names()
        self._judge = self._new_judge()
        self._banning = Banning(self._windows, self._bans, self._judge, clock, self._note_late)
        self.following = Following(self._bans, clock)
        self._bouncers = Bouncers([self._new_bouncer(kind) for kind in kinds_of(config.firewall)])
        self._sources: dict[str, Source] = {}
        self._overview = Overview(config.jails, self._windows, self._banning, self._sources, self._bouncers, self.bans)
        self._saving = Saving(self._windows, self._banning.totals, self._write)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cursor = 0
        self._complaints: dict[str, str] = {}

    def _new_judge(self) -> Judge:
        return Judge(self._facts, safelist=self._config.safelist, proxies=self._config.trusted_proxies.networks)

    def _new_bouncer(self, kind: str) -> Bouncer | BouncerApart:
        if kind == APART:
            return BouncerApart(self.following, self._clock)
        return Bouncer(self._bans, open_firewall(kind, self._config.firewall), self._new_judge(), self._clock)

    def _routes(self) -> dict[str, list[Route]]:
        routes: dict[str, list[Route]] = {}
        kinds, statuses = wanted_kinds(self._config.jails), wanted_statuses(self._config.jails)
        for each in self._config.jails:
            for source in sources_of(each):
                chosen = filter_of(each, kinds[each.filter], statuses.get(each.filter, ()))
                users = user_ids_of(each) if source in SOCKET_SOURCES else None
                behind = tuple(map(network_text, each.behind))
                route = Route(chosen, self._windows[each.jail.name], users, behind)
                routes.setdefault(source, []).append(route)
        return routes

    async def run(self) -> None:
        """Run until cancelled; then the bans stay in the firewall. Raise `AppGuardError` if it cannot start."""
        self._allow_many_files()
        self._make_directories()
        self._loop = asyncio.get_running_loop()
        self._restore()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._bouncers.run())
                tasks.create_task(serve(self, self._config.control_socket))
                for source in self._sources.values():
                    tasks.create_task(source.run(self._deliver_from(source.name)))
                tasks.create_task(self._tick())
                tasks.create_task(keep_alive())
                notify("READY=1")
                log.info("AppGuard daemon is up: %d jails, %d bans", len(self._windows), len(self.bans()))
        finally:
            self._loop = None
            self._names.close()
            self._note(self._banning.settle())
            self._bans.close()
            self._saving.now()
            self._publisher.close()
            self._state.close()

    @staticmethod
    def _allow_many_files() -> None:
        """Use all file descriptors we may: every log has several files, and every one is kept open."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def _make_directories(self) -> None:
        """Make what a service manager would have made."""
        for path, mode in ((self._config.runtime_directory, 0o755), (self._config.control_socket.parent, 0o750)):
            try:
                path.mkdir(mode=mode, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{path} cannot be made: {error.strerror}; make it for the daemon: install -d -m {mode:o} "
                    f"-o {os.geteuid()} -g {os.getegid()} {path}"
                ) from error

    def _on_change(self) -> None:
        """Take what a shared ban set has learnt, told by another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._spread)

    def _restore(self) -> None:
        self._state.open()
        self._purge()
        bans = [ban for ban in self._state.bans() if ban.in_force(self._clock())]
        self._bans.restore(bans)
        self._banning.restore(bans)
        self._banning.history.restore(self._state.pasts())
        for name, window in self._windows.items():
            gone = window.restore(self._state.failures(name))
            self._saving.touch(name, gone)
            window.total_failed, self._banning.totals[name] = self._state.totals(name)
        if self._state.setting("enforce") == "off":
            self._hold_or_release(on=False)
        for each in self._config.jails:
            for name, origin in sources_of(each).items():
                self._sources[name] = self._sources.get(name) or self._open_source(name, origin)
        self._try("published bans", lambda: self._publisher.publish_all(self.bans()))

    def _purge(self) -> None:
        """Drop what will not be asked for any more; a full disk is no reason not to start."""
        before = self._clock() - VANISHED
        self._try("state", lambda: self._state.purge(self._windows, before, lambda path: Path(path).exists()))

    def _open_source(self, name: str, origin: Origin) -> Source:
        return open_source(name, origin, self._config.runtime_directory, self._state.positions(name))

    def _deliver_from(self, source: str) -> Callable[[Chunk], None]:
        def deliver(chunk: Chunk) -> None:
            self._deliver(source, chunk)

        return deliver

    def _deliver(self, source: str, chunk: Chunk) -> None:
        outcome = self._pipeline.feed(source, chunk, self._clock())
        if chunk.position is not None:
            self._saving.batch.positions[source, chunk.origin] = chunk.position
        for unresolved in outcome.unresolved:
            self._names.ask(unresolved.named.host, partial(self._resolved, unresolved))
        self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        self._banning.take(outcome)
        self._note_late(outcome)

    def _resolved(self, unresolved: Unresolved, addresses: Addresses) -> None:
        """Hear, maybe in another thread, which addresses the client of an event has."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._count, unresolved, addresses)

    def _count(self, unresolved: Unresolved, addresses: Addresses) -> None:
        self._take(self._pipeline.resolve(unresolved, addresses, self._clock()))

    def _note(self, outcome: Outcome) -> None:
        """Note what is to be saved."""
        for name, keys in outcome.touched.items():
            self._saving.touch(name, keys)
        for network in self._banning.history.changed:
            self._saving.batch.pasts[network] = self._banning.history.of(network)
        self._banning.history.changed.clear()

    def _note_late(self, outcome: Outcome) -> None:
        self._note(outcome)
        self._spread()

    def _spread(self) -> None:
        """Tell the bouncer, the apps and the state what changed in the ban set."""
        changes = self._bans.follow(self._cursor)
        if changes is None:
            self._try("state", self._spread_all)
        elif changes.facts:
            self._cursor = changes.cursor
            self._pipeline.learn(changes.facts)
            self._bouncers.wake()
            self.following.tell()
            self._saving.batch.facts.extend(changes.facts)
            self._try("published bans", lambda: self._publisher.publish(changes.facts, self.bans))
        self._saving.soon()

    def _spread_all(self) -> None:
        """Do so where too much changed for the ban set to remember it: compare with what the state holds."""
        snapshot = self._bans.snapshot()
        there = {ban.key for ban in snapshot.bans}
        gone = [Fact(ban.network, ban.version, None) for ban in self._state.bans() if ban.key not in there]
        facts = [*gone, *(Fact(ban.network, ban.version, ban) for ban in snapshot.bans)]
        self._saving.batch.facts = facts
        self._cursor = snapshot.cursor
        self._pipeline.learn(facts)
        self._bouncers.wake()
        self.following.tell()
        self._try("published bans", lambda: self._publisher.publish_all(snapshot.bans))

    def _write(self, batch: Batch) -> bool:
        self._try("state", lambda: self._state.save(batch))
        return "state" not in self._complaints

    def _try(self, what: str, act: Callable[[], None]) -> None:
        """Do what may fail for a while (a full disk); say so once, and once when it works again."""
        try:
            act()
        except (OSError, StateError) as error:
            if self._complaints.get(what) != str(error):
                log.error("%s cannot be written, trying again: %s", what, error)
            self._complaints[what] = str(error)
            return
        if self._complaints.pop(what, None):
            log.info("%s is written again", what)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for ban in self._bans.expire():
                log.info("[%s] Unban %s", ban.jail, ban.key)
            for name, window in self._windows.items():
                self._saving.touch(name, window.sweep(self._clock()))
            self._banning.tick()
            self._note(Outcome())
            if self._complaints.get("published bans"):
                self._try("published bans", lambda: self._publisher.publish_all(self.bans()))
            self._publisher.beat()
            self._look_at_host()
            self._saving.now()

    def _look_at_host(self) -> None:
        """Take what is new of this host: a neighbour on a link, for one, is counted alone, not with its /64."""
        facts = read_host_facts()
        self._judge.update(facts, administrators())
        if facts != self._facts:
            self._facts = facts
            self._grouping.learn(facts.on_link)
            self._overview.learn(facts)

    # What the control API asks; see `control.Controlled`.

    def bans(self) -> Sequence[Ban]:
        """Give the bans in force."""
        return self._bans.snapshot().bans

    def status(self) -> DaemonStatus:
        """Say how the daemon is."""
        complaint = f", not answering: {self._bans.complaint}" if self._bans.complaint else ""
        return self._overview.daemon(self._started, self._bans.name + complaint)

    def jail_status(self, name: str) -> JailStatus | None:
        """Say how one jail is."""
        return self._overview.jail(name)

    def record(self, ban: Ban) -> BanRecord:
        """Give the record of a ban, with who enforces it."""
        return self._overview.ban(ban)

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Put a person's ban in force."""
        if ban.network.version == 6 and ban.network.prefixlen == 128:
            ban = replace(ban, network=parse_network(self._grouping.key(parse_address(ban.key))))
        self._judge.check(ban, force=force)
        if force:
            self._bouncers.force(ban.network)
        kept = self._bans.ban(ban)
        if kept is None:
            return self._outlasting(ban)
        self._banning.totals[ban.jail] = self._banning.totals.get(ban.jail, 0) + 1
        log.warning("[%s] Ban %s", kept.jail, kept.key)
        self._spread()
        return kept

    def _outlasting(self, ban: Ban) -> Ban:
        found = self._find(ban.key)
        if found is None:
            raise ConfigError(f"{ban.key}: the ban would already have ended")
        return found

    async def settled(self) -> str:
        """Enforce what is new now; say why it is not enforced, nothing if it is."""
        try:
            await self._bouncers.settle()
        except FirewallError as error:
            return str(error)
        return "enforcement is off" if any(each.is_held for each in self._bouncers.status) else ""

    async def unban(self, what: str, jail: str | None = None) -> Ban | None:
        """Lift one ban."""
        found = self._find(what)
        lifted = self._bans.unban(found.network) if found and jail in (None, found.jail) else None
        if lifted is None:
            return None
        log.warning("[%s] Unban %s", lifted.jail, lifted.key)
        self._note(Outcome(self._banning.lift(lifted)))
        self._spread()
        return lifted

    def _find(self, what: str) -> Ban | None:
        """Find a ban by its network, an address (the ban of its /64 too), or its ref."""
        try:
            keys = {network_text(parse_network(what))}
            if "/" not in what:
                keys.add(self._grouping.key(parse_address(what)))
        except AddressError:
            return next((ban for ban in self.bans() if ban.ref == what.upper()), None)
        return next((ban for ban in self.bans() if ban.key in keys), None)

    async def enforce(self, on: bool) -> None:
        """Begin or stop to enforce."""
        self._state.set_setting("enforce", "on" if on else "off")
        self._hold_or_release(on)
        await self._bouncers.settle()

    def _hold_or_release(self, on: bool) -> None:
        self.following.switch(on)
        if on:
            self._bouncers.release()
        else:
            self._bouncers.hold()


def collect_seldom() -> None:
    """Look for circular garbage seldom: there is hardly any, and each time all that jails have counted is walked."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main(path: Path | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; give the exit code. Raise `AppGuardError` if it cannot start."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(message)s", level=logging.INFO, handlers=[StderrHandler()]
    )
    config = daemon_config(path or CONFIG_FILE)
    collect_seldom()
    try:
        farewell = "AppGuard daemon stops; bans stay in the firewall until they end"
        asyncio.run(until_signal(Daemon(config).run(), farewell))
    except* AppGuardError as errors:
        raise errors.exceptions[0] from errors
    return 0
