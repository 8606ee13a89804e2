"""Which filter, source and ban set the daemon's settings mean: the place that names the members of these families."""

import pwd
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appguard.config_jails import SOCKET_SOURCES, JailConfig
from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.open import open_filter
from appguard.sources.base import Source
from appguard.sources.file import FileSource
from appguard.sources.socket import EventSocket
from appguard.sources.syslog import SyslogSocket
from appguard.stores.memory import MemoryBanSet
from appguard.stores.open import REDIS, without_password

SOCKETS = {"events": (EventSocket, "events.sock"), "syslog": (SyslogSocket, "log.sock")}


def filter_of(config: JailConfig) -> Filter:
    """Give the filter of a jail; raise `ConfigError`."""
    try:
        return open_filter(config.filter)
    except ConfigError as error:
        raise ConfigError(f"jail {config.jail.name}: filter = {config.filter!r}: {error}") from error


def sources_of(config: JailConfig) -> dict[str, tuple[str, ...]]:
    """Give a jail's sources by name: each socket, and all its files as one source, which reads none of them twice."""
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
