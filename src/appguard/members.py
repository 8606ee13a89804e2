"""Which filter, source and ban set the daemon's settings mean: the place that names the members of these families."""

import logging
import pwd
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from appguard.config_jails import BANS_SOURCE, SOCKET_SOURCES, JailConfig
from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.open import open_filter, warnings_of
from appguard.sources.base import Source
from appguard.sources.file import FileSource
from appguard.sources.socket import EventSocket
from appguard.sources.syslog import SyslogSocket
from appguard.stores.memory import MemoryBanSet
from appguard.stores.open import REDIS

log = logging.getLogger("appguard")

JOURNAL = "journal"  # its messages carry no date
SOCKETS = {"events": (EventSocket, "events.sock"), "syslog": (SyslogSocket, "log.sock")}


def filter_of(config: JailConfig, kinds: Collection[str] = ()) -> Filter:
    """Give the filter of a jail, told the kinds of event that are wanted of it; raise `ConfigError`.

    What a regex of it finds is of the kind that the jail names first.
    """
    logtype = "journal" if all(source.startswith(JOURNAL) for source in config.sources) else "file"
    options, kind = config.filter_options, config.jail.events[0]
    try:
        opened = open_filter(config.filter, options, logtype=logtype, kind=kind, kinds=kinds)
    except ConfigError as error:
        raise ConfigError(f"jail {config.jail.name}: filter = {config.filter!r}: {error}") from error
    for warning in warnings_of(opened):
        log.warning("jail %s: filter = %r: %s", config.jail.name, config.filter, warning)
    return opened


def wanted_kinds(configs: Sequence[JailConfig]) -> dict[str, frozenset[str]]:
    """Give the kinds of event that are wanted of each filter: one filter reads a line once for all its jails."""
    wanted: dict[str, frozenset[str]] = {}
    for config in configs:
        wanted[config.filter] = wanted.get(config.filter, frozenset()).union(config.jail.events)
    return wanted


def sources_of(config: JailConfig) -> dict[str, tuple[str, ...]]:
    """Give a jail's sources by name: each socket, and all its files as one source, which reads none of them twice.

    A jail that counts bans has none: it is told of them.
    """
    if BANS_SOURCE in config.sources:
        return {}
    files = tuple(dict.fromkeys(source for source in config.sources if source not in SOCKET_SOURCES))
    found = {source: (source,) for source in config.sources if source in SOCKET_SOURCES}
    return found | ({" ".join(files): files} if files else {})


def open_source(name: str, patterns: Sequence[str], runtime: Path, positions: Mapping[str, str]) -> Source:
    """Give one source; a socket is bound at once, so that an error comes before the daemon says that it is up."""
    if name not in SOCKETS:
        return FileSource(name, patterns, positions)
    kind, file = SOCKETS[name]
    opened = kind(name, runtime / file)
    opened.open()
    return opened


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
