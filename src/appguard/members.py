"""Which filter, source and ban set the daemon's settings mean: the place that names the members of these families."""

import pwd
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appguard.address import Network
from appguard.config_jails import JailConfig
from appguard.config_sources import COMMAND, JOURNAL, STDIN, UDP, udp_address
from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.open import BARE, open_filter
from appguard.sources.base import Source
from appguard.sources.command import CommandSource, StdinSource
from appguard.sources.datagrams import DatagramSource
from appguard.sources.file import FileSource
from appguard.sources.journal import JournalSource
from appguard.sources.socket import EventSocket
from appguard.sources.syslog import SyslogPort, SyslogSocket
from appguard.stores.memory import MemoryBanSet
from appguard.stores.open import REDIS

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


def filter_of(config: JailConfig) -> Filter:
    """Give the filter of a jail; raise `ConfigError`."""
    try:
        return open_filter(config.filter)
    except ConfigError as error:
        raise ConfigError(f"jail {config.jail.name}: filter = {config.filter!r}: {error}") from error


def sources_of(config: JailConfig) -> dict[str, Origin]:
    """Give what a jail's sources read, by the name of each; jails that name the same share one source.

    All its files are one source, which reads none of them twice.
    """
    found: dict[str, Origin] = {}
    files: dict[str, None] = {}
    for source in config.sources:
        kind, _, where = source.partition(":")
        if kind == JOURNAL:
            is_bare = config.filter in BARE
            name = " ".join((source, *config.journalmatch, *(["(messages)"] if is_bare else [])))
            found[name] = Origin(kind, config.journalmatch, where, is_bare=is_bare)
        elif kind == COMMAND:
            found[f"{COMMAND} {shlex.join(config.command)}"] = Origin(kind, config.command)
        elif source.startswith(UDP):
            found[source] = Origin(kind, where=source, peers=config.peers)
        elif source in SOCKETS or source == STDIN:
            found[source] = Origin(source)
        else:
            files[source] = None
    return found | ({" ".join(files): Origin("files", tuple(files))} if files else {})


def open_source(name: str, origin: Origin, runtime: Path, positions: Mapping[str, str]) -> Source:
    """Give one source; a socket is bound at once, so that an error comes before the daemon says that it is up."""
    match origin.kind:
        case "journal":
            return JournalSource(name, origin.arguments, positions, directory=origin.where, is_bare=origin.is_bare)
        case "command":
            return CommandSource(name, origin.arguments)
        case "stdin":
            return StdinSource(name)
        case "files":
            return FileSource(name, origin.arguments, positions)
        case _:
            opened = _open_socket(name, origin, runtime)
            opened.open()
            return opened


def _open_socket(name: str, origin: Origin, runtime: Path) -> DatagramSource:
    if origin.kind not in SOCKETS:
        return SyslogPort(name, *udp_address(origin.where), origin.peers)
    kind, file = SOCKETS[origin.kind]
    return kind(name, runtime / file)


def ban_set_of(store: str, clock: Callable[[], float], on_change: Callable[[], None]) -> MemoryBanSet:
    """Give the ban set of a store; `on_change` may be called from another thread. Raise `ConfigError`."""
    if store == "local://":
        return MemoryBanSet(clock)
    if store.partition("://")[0] in REDIS:
        from appguard.stores.redis_bans import RedisBanSet  # redis is imported only where it is used

        return RedisBanSet(store, clock=clock, on_change=on_change)
    raise ConfigError(f"store = {store!r}: expected 'local://' (this host alone) or 'redis://host:6379/0' (a fleet)")


def user_ids_of(config: JailConfig) -> frozenset[int]:
    """Give the ids of the users who may feed a jail over a socket; raise `ConfigError`."""
    found: set[int] = set()
    for user in config.users:
        try:
            found.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except KeyError as error:
            raise ConfigError(f"jail {config.jail.name}: users: there is no user {user!r} on this host") from error
    return frozenset(found)
