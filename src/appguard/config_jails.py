"""Checks the tables `[jails.NAME]`: the jail itself, the sources it listens to, their filter, who may feed it."""

from dataclasses import dataclass, fields
from typing import cast

from appguard.address import Network
from appguard.config_sources import EVENTS_SOURCE, SOCKET_SOURCES, SOURCE_CHECKS, check_sources
from appguard.config_values import Check, items, one_or_more, read, text
from appguard.errors import ConfigError
from appguard.jail import Jail


@dataclass(frozen=True, slots=True)
class JailConfig:
    """A jail of the daemon: its settings, the sources it listens to, their filter, and who may feed a socket."""

    jail: Jail
    sources: tuple[str, ...]
    filter: str
    users: tuple[str, ...]
    journalmatch: tuple[str, ...] = ()
    peers: tuple[Network, ...] = ()
    command: tuple[str, ...] = ()


def users(value: object) -> tuple[str, ...]:
    """Accept a list of user names or user ids."""
    found = items(value)
    for item in found:
        if not isinstance(item, str | int) or isinstance(item, bool) or item == "":
            raise ConfigError("expected a list of user names or user ids")
    return tuple(map(str, found))


JAIL_OPTIONS = tuple(field.name for field in fields(Jail) if field.name != "name")
JAIL_CHECKS: dict[str, Check] = {
    **dict.fromkeys(JAIL_OPTIONS, lambda value: value),  # `Jail` checks them
    "events": one_or_more,
    **SOURCE_CHECKS,
    "filter": text,
    "users": users,
}


def read_jail(name: str, value: object, where: str) -> JailConfig:
    """Check one table; raise `ConfigError`."""
    found = read(value, where, JAIL_CHECKS)
    try:
        jail = Jail(name, **{key: found[key] for key in JAIL_OPTIONS if key in found})  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    origins = cast("tuple[str, ...]", found.get("source", ()))
    if not origins:
        raise ConfigError(f'{where}: source is missing: give a log file, a glob, or "{EVENTS_SOURCE}"')
    check_sources(found, origins, where)
    logs = [origin for origin in origins if origin != EVENTS_SOURCE]
    chosen = str(found.get("filter", "" if logs else "appguard"))
    if not chosen:
        raise ConfigError(f'{where}: filter is missing: say how to read {logs[0]}, for example filter = "nginx"')
    reporters = cast("tuple[str, ...]", found.get("users", ()))
    if not reporters and not set(SOCKET_SOURCES).isdisjoint(origins):
        who = "say which users' apps may report to this jail over a socket, for example"
        raise ConfigError(f'{where}: users is missing: {who} users = ["www-data"]')
    return JailConfig(
        jail,
        origins,
        chosen,
        reporters,
        journalmatch=cast("tuple[str, ...]", found.get("journalmatch", ())),
        peers=cast("tuple[Network, ...]", found.get("peers", ())),
        command=cast("tuple[str, ...]", found.get("command", ())),
    )
