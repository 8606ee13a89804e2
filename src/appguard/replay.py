"""Replay: the whole engine on the time of finished logs. Says who would have been banned; enforces and asks nothing.

What the daemon would do with the lines as they were written is done here with the same parts: pipeline, jails with
their growing bans, escalation, recidive, caps and dry runs, the judge with what this host is now. The clock is the time
the logs tell. Nobody outside is asked: no `ignorecommand`, no name server; the report says where that matters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appguard.address import Grouping
from appguard.ban import Ban
from appguard.banning import Banning
from appguard.config import DaemonConfig
from appguard.config_jails import JailConfig
from appguard.config_sources import BANS_SOURCE
from appguard.engine import judge_of, reads, route_of, safelist_of, windows_of, without_questions
from appguard.errors import ConfigError
from appguard.event import Event
from appguard.filters.base import Filter, Named
from appguard.filters.literals import Literals
from appguard.host import HostFacts
from appguard.members import filter_of, wanted_kinds
from appguard.pipeline import Outcome, Pipeline, Route
from appguard.replayed_log import Match, Reading, ReplayedLog, merged
from appguard.sources.base import Chunk
from appguard.stores.memory import MemoryBanSet

TIDY_EVERY = 10_000  # matches: what has ended counts nowhere, it only takes room
TELL_EVERY = 5_000  # matches

Plan = Mapping[Path, Sequence[JailConfig]]


@dataclass(slots=True)
class ReplayedBan:
    """One ban that would have been: as `Ban`, and how often further failures prolonged it."""

    network: str
    jail: str
    start: float
    end: float | None
    failures: int
    reason: str
    evidence: Sequence[str]
    via: Sequence[str]
    dry_run: bool
    prolonged: int = 0


@dataclass(frozen=True, slots=True)
class ReplayedRefusal:
    """One network that a jail would have banned and the judge would not, why, and how often."""

    network: str
    jail: str
    why: str
    times: int


@dataclass(frozen=True, slots=True)
class ReplayedJail:
    """One jail: the events it counted, its bans, how many networks they were of, and its alarm at any time."""

    name: str
    total_failed: int
    total_banned: int
    networks: int
    dry_run: bool
    alarm: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """All that a replay found.

    `first` and `last` are times of events (None without any), `notes` say what is left out.
    """

    bans: Sequence[ReplayedBan]
    refused: Sequence[ReplayedRefusal]
    jails: Sequence[ReplayedJail]
    files: Sequence[Reading]
    lines: int
    matched: int
    first: float | None
    last: float | None
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is: the lines read, the bans so far, and the files with the bytes read of each."""

    lines: int
    bans: int
    files: Sequence[Reading]
    is_done: bool


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class _Told:
    """Stands for a filter whose finding is known already."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.needs: Sequence[Sequence[Literals]] = ()
        self.found: Event | Named | None = None

    def match(self, line: bytes, time: float) -> Event | Named | None:
        return self.found


def plan_of(config: DaemonConfig, files: Sequence[Path], names: Sequence[str] = ()) -> Plan:
    """Give the jails that read each file: those of these names, else those whose sources match its path.

    An earlier file of a log (`access.log.2.gz`) is read by the jails of the log. Raise `ConfigError`.
    """
    known = {each.jail.name: each for each in config.jails}
    strange = [name for name in names if name not in known]
    if strange:
        raise ConfigError(f"no such jail: {strange[0]!r} (jails: {', '.join(known) or 'none'})")
    chosen = [each for each in (known[name] for name in names) if BANS_SOURCE not in each.sources]
    if names and not chosen:
        raise ConfigError(f"jail {names[0]} reads no lines: it counts the bans of other jails; name those")
    plan = {path: chosen or [each for each in config.jails if reads(each, path)] for path in _oldest_first(files)}
    for path in (path for path, jails in plan.items() if not jails):
        raise ConfigError(
            f"{path}: no jail reads this file: its path matches no source of {', '.join(known) or 'any jail'};"
            " say which jail is to read it: --jail NAME"
        )
    return plan


def _oldest_first(files: Sequence[Path]) -> list[Path]:
    """Sort files so that of two lines of one second the one in the older file comes first, however they are named."""
    by_name = sorted(set(files), key=lambda path: (len(path.name), str(path)), reverse=True)  # x.log.10, x.log.9, x.log
    return sorted(by_name, key=lambda path: path.stat().st_mtime if path.exists() else 0.0)


class Replay:
    """One replay. `since` leaves out what was before, `latest` is the time now, beyond which no log can be."""

    def __init__(self, config: DaemonConfig, plan: Plan, facts: HostFacts, *, since: float, latest: float) -> None:
        wanted = {each.jail.name for jails in plan.values() for each in jails}
        listening = [each for each in config.jails if each.jail.name in wanted or BANS_SOURCE in each.sources]
        self._asking = [each.jail.name for each in listening if each.jail.ignorecommand]
        jails = {each.jail.name: without_questions(each) for each in listening}
        self._clock = _Clock()
        self._since = since
        self._windows = windows_of(list(jails.values()), Grouping(facts.on_link))
        self._set = MemoryBanSet(self._clock)
        self._banning = Banning(
            self._windows,
            self._set,
            judge_of(config, facts),
            self._clock,
            _nobody_waits,
            on_ban=self._on_ban,
            on_refused=self._on_refused,
        )
        self._logs: list[ReplayedLog] = []
        self._told: dict[Path, dict[str, _Told]] = {}
        routes: dict[str, list[Route]] = {}
        for path, readers in plan.items():
            routes[str(path)] = self._open(path, [jails[each.jail.name] for each in readers], latest)
        self._pipeline = Pipeline(routes, safelist_of(config))
        self._bans: list[ReplayedBan] = []
        self._in_force: dict[tuple[str, str], ReplayedBan] = {}
        self._refused: dict[tuple[str, str], ReplayedRefusal] = {}
        self._alarms: dict[str, str] = {}
        self._span: tuple[float, float] | None = None
        self._names = 0

    def _open(self, path: Path, readers: Sequence[JailConfig], latest: float) -> list[Route]:
        """Make what reads a file; give its ways into the jails."""
        kinds = wanted_kinds(readers)
        filters: dict[str, Filter] = {}
        told = self._told[path] = {}
        routes: list[Route] = []
        for each in readers:
            chosen = filter_of(each, kinds[each.filter])
            filters.setdefault(chosen.name, chosen)
            routes.append(route_of(each, told.setdefault(chosen.name, _Told(chosen.name)), self._windows))
        self._logs.append(ReplayedLog(path, filters, latest))
        return routes

    def run(self, tell: Callable[[Progress], None] = lambda progress: None) -> Replayed:
        """Read all files; `tell` is called now and then. A file that is damaged is read up to there."""
        for number, match in enumerate(merged(self._logs)):
            if number % TELL_EVERY == 0:
                tell(self._progress())
            if number % TIDY_EVERY == 0:
                self._tidy(match.time)
            if match.time >= self._since:
                self._feed(match)
        tell(self._progress(is_done=True))
        return self._replayed()

    def _feed(self, match: Match) -> None:
        self._clock.now = match.time
        self._span = (self._span[0] if self._span else match.time, match.time)
        for name, told in self._told[match.file].items():
            told.found = match.found.get(name)
        outcome = self._pipeline.feed(str(match.file), Chunk(str(match.file), [match.line]), match.time)
        self._names += len(outcome.unresolved)
        if outcome.bans:
            self._banning.take(outcome)
            self._note_alarms()

    def _note_alarms(self) -> None:
        for name in self._windows:
            alarm = self._banning.alarm(name)
            if alarm:
                self._alarms[name] = alarm

    def _tidy(self, now: float) -> None:
        """Forget what has ended, as the daemon does every second."""
        self._clock.now = now
        self._set.expire()
        for window in self._windows.values():
            window.sweep(now)
        self._banning.tick()

    def _on_ban(self, ban: Ban, is_new: bool) -> None:
        before = self._in_force.get((ban.jail, ban.key))
        if before is not None and not is_new:
            before.end = ban.end
            before.prolonged += 1
            return
        dry_run = self._windows[ban.jail].jail.dry_run
        made = ReplayedBan(
            ban.where, ban.jail, ban.start, ban.end, ban.failures, ban.reason, ban.evidence, ban.via, dry_run
        )
        self._in_force[ban.jail, ban.key] = made
        self._bans.append(made)

    def _on_refused(self, ban: Ban, why: str) -> None:
        before = self._refused.get((ban.jail, ban.key))
        times = before.times + 1 if before else 1
        self._refused[ban.jail, ban.key] = ReplayedRefusal(ban.where, ban.jail, why, times)

    def _progress(self, *, is_done: bool = False) -> Progress:
        files = [log.reading for log in self._logs]
        return Progress(sum(each.lines for each in files), len(self._bans), files, is_done)

    def _replayed(self) -> Replayed:
        files = [log.reading for log in self._logs]
        return Replayed(
            bans=tuple(self._bans),
            refused=tuple(self._refused.values()),
            jails=tuple(self._jail(name) for name in self._windows),
            files=tuple(files),
            lines=sum(each.lines for each in files),
            matched=sum(each.matched for each in files),
            first=self._span[0] if self._span else None,
            last=self._span[1] if self._span else None,
            notes=tuple(self._notes(files)),
        )

    def _jail(self, name: str) -> ReplayedJail:
        window, bans = self._windows[name], [ban for ban in self._bans if ban.jail == name]
        networks = len({ban.network for ban in bans})
        return ReplayedJail(
            name, window.total_failed, len(bans), networks, window.jail.dry_run, self._alarms.get(name, "")
        )

    def _notes(self, files: Sequence[Reading]) -> Iterator[str]:
        for name in self._asking:
            yield f"jail {name}: ignorecommand was not asked: some of its bans may be let off"
        if self._names:
            yield f"{self._names} events of clients known by a host name only are not counted: no name was looked up"
        for each in files:
            if each.undated:
                yield f"{each.path}: {each.undated} lines tell no time: they count when the file was last written"


def _nobody_waits(outcome: Outcome) -> None:
    """Take nothing: without `ignorecommand` no ban has to wait."""
