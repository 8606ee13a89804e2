"""Which filter, source and ban set the daemon's settings mean: the place that names the members of these families."""

import logging
import pwd
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from appguard.address import Network
from appguard.config_jails import JailConfig
from appguard.config_sources import BANS_SOURCE, COMMAND, JOURNAL, STDIN, UDP, journalmatch, udp_address
from appguard.errors import ConfigError
from appguard.event import LOGIN_SUCCESS, REQUEST
from appguard.filters.base import Filter
from appguard.filters.open import is_bare, journalmatch_of, open_filter, warnings_of
from appguard.jail_key import PAIR, USER
from appguard.sources.base import Source
from appguard.sources.command import CommandSource, StdinSource
from appguard.sources.datagrams import DatagramSource
from appguard.sources.file import FileSource, whole_pattern
from appguard.sources.journal import JournalSource, journal_origin
from appguard.sources.socket import EventSocket
from appguard.sources.syslog import SyslogPort, SyslogSocket
from appguard.stores.memory import MemoryBanSet
from appguard.stores.open import REDIS, without_password
from appguard.stores.sure_time import SureTime

log = logging.getLogger("appguard")

SOCKETS = {"events": (EventSocket, "events.sock"), "syslog": (SyslogSocket, "log.sock")}


@dataclass(frozen=True, slots=True)
class Origin:
    """What one source reads.

    `kind` is `files` or what the settings call it; `arguments` are its files, journal matches or command, `where` is
    the journal's directory or a UDP port's URI, `peers` are those who may send to it.
    """

    kind: str
    arguments: tuple[str, ...] = ()
    where: str = ""
    peers: tuple[Network, ...] = ()
    is_bare: bool = False

    def has(self, path: str) -> bool:
        """Say whether it reads what has a position under this name: one of its files, or its journal."""
        if self.kind == JOURNAL:
            return path == journal_origin(self.where)
        patterns = map(whole_pattern, self.arguments if self.kind == "files" else ())
        return any(PurePath(path).match(pattern) for pattern in patterns)


def filter_of(config: JailConfig, kinds: Collection[str] = (), statuses: Collection[int] = ()) -> Filter:
    """Give the filter of a jail, told what `wanted_kinds` and `wanted_statuses` say of it; raise `ConfigError`.

    What a regex of it finds is of the kind that the jail names first. What its author should hear is logged.
    """
    opened = fresh_filter_of(config, kinds, statuses)
    for warning in warnings_of(opened):
        log.warning("jail %s: filter = %r: %s", config.jail.name, config.filter, warning)
    return opened


def fresh_filter_of(config: JailConfig, kinds: Collection[str] = (), statuses: Collection[int] = ()) -> Filter:
    """Give such a filter and log nothing."""
    logtype = "journal" if all(source.startswith(JOURNAL) for source in config.sources) else "file"
    options, kind = config.filter_options, config.jail.events[0]
    try:
        return open_filter(config.filter, options, logtype=logtype, kind=kind, kinds=kinds, statuses=statuses)
    except ConfigError as error:
        raise ConfigError(f"jail {config.jail.name}: filter = {config.filter!r}: {error}") from error


def wanted_kinds(configs: Sequence[JailConfig]) -> dict[str, frozenset[str]]:
    """Give the kinds of event that are wanted of each filter: one filter reads a line once for all its jails."""
    wanted: dict[str, frozenset[str]] = {}
    for config in configs:
        forgives = (LOGIN_SUCCESS,) if config.jail.key in (USER, PAIR) else ()
        wanted[config.filter] = wanted.get(config.filter, frozenset()).union(config.jail.events, forgives)
    return wanted


def wanted_statuses(configs: Sequence[JailConfig]) -> dict[str, frozenset[int]]:
    """Give the statuses that matter of requests that are nothing else, by filter; none if all do."""
    wanted: dict[str, frozenset[int]] = {}
    any_status: set[str] = set()
    for config in configs:
        if REQUEST in config.jail.events:
            wanted[config.filter] = wanted.get(config.filter, frozenset()).union(config.jail.statuses)
            any_status.update(() if config.jail.statuses else (config.filter,))
    return {name: statuses for name, statuses in wanted.items() if name not in any_status}


def sources_of(config: JailConfig) -> dict[str, Origin]:
    """Give what a jail's sources read, by the name of each; jails that name the same share one source.

    All its files are one source, which reads none of them twice. A jail that counts bans has none: it is told of them.
    """
    if BANS_SOURCE in config.sources:
        return {}
    found: dict[str, Origin] = {}
    files: dict[str, None] = {}
    for source in config.sources:
        kind, _, where = source.partition(":")
        if kind == JOURNAL:
            matches, bare = config.journalmatch or _matches_of(config), is_bare(config.filter)
            name = " ".join((source, *matches, *(["(messages)"] if bare else [])))
            found[name] = Origin(kind, matches, where, is_bare=bare)
        elif kind == COMMAND:
            found[f"{COMMAND} {shlex.join(config.command)}"] = Origin(kind, config.command)
        elif source.startswith(UDP):
            found[source] = Origin(kind, where=source, peers=config.peers)
        elif source in SOCKETS or source == STDIN:
            found[source] = Origin(source)
        else:
            files[source] = None
    return found | ({" ".join(files): Origin("files", tuple(files))} if files else {})


def origins_of(configs: Iterable[JailConfig]) -> dict[str, Origin]:
    """Give what the sources of all jails read, by name."""
    return {name: origin for config in configs for name, origin in sources_of(config).items()}


def _matches_of(config: JailConfig) -> tuple[str, ...]:
    """Give what fail2ban's filter itself matches in the journal; everything if it does not say."""
    try:
        matches = journalmatch_of(config.filter)
        return journalmatch(matches) if matches else ()
    except ConfigError as error:
        raise ConfigError(f"jail {config.jail.name}: filter = {config.filter!r}: {error}") from error


def open_source(name: str, origin: Origin, runtime: Path, positions: Mapping[str, str], *, may_be_slow: bool) -> Source:
    """Give one source; a socket is bound at once, so that an error comes before the daemon says that it is up."""
    match origin.kind:
        case "journal":
            return JournalSource(name, origin.arguments, positions, directory=origin.where, is_bare=origin.is_bare)
        case "command":
            return CommandSource(name, origin.arguments)
        case "stdin":
            return StdinSource(name)
        case "files":
            return FileSource(name, origin.arguments, positions, may_be_slow=may_be_slow)
        case _:
            opened = _open_socket(name, origin, runtime)
            opened.open()
            return opened


def _open_socket(name: str, origin: Origin, runtime: Path) -> DatagramSource:
    if origin.kind not in SOCKETS:
        return SyslogPort(name, *udp_address(origin.where), origin.peers)
    kind, file = SOCKETS[origin.kind]
    return kind(name, runtime / file)


def ban_set_of(store: str, clock: Callable[[], float], sure: SureTime, on_change: Callable[[], None]) -> MemoryBanSet:
    """Give the ban set of a store; `on_change` may be called from another thread. Raise `ConfigError`."""
    if store == "local://":
        return MemoryBanSet(clock, sure)
    if store.partition("://")[0] in REDIS:
        from appguard.stores.redis_bans import RedisBanSet  # redis is imported only where it is used

        return RedisBanSet(store, clock=clock, on_change=on_change, sure=sure)
    expected = "'local://' (this host alone) or 'redis://host:6379/0' (a fleet)"
    raise ConfigError(f"store = {without_password(store)!r}: expected {expected}")


def user_ids_of(config: JailConfig) -> frozenset[int]:
    """Give the ids of the users who may feed a jail over a socket; raise `ConfigError`."""
    found: set[int] = set()
    for user in config.users:
        try:
            found.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except KeyError as error:
            raise ConfigError(f"jail {config.jail.name}: users: there is no user {user!r} on this host") from error
    return frozenset(found)
