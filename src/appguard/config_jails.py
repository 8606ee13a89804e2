"""Checks the tables `[jails.NAME]`: the jail itself, the sources it listens to, their filter, who may feed it.

`use` takes the settings of a ready jail; every other key of the table wins over it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import cast

from appguard.address import Network, network_text
from appguard.config_sources import BANS_SOURCE, EVENTS_SOURCE, SOCKET_SOURCES, SOURCE_CHECKS, check_sources
from appguard.config_values import Check, ignoreip, items, networks, one_or_more, read, text
from appguard.errors import ConfigError
from appguard.event import BAN
from appguard.filters.options import CHECKS as FILTER_CHECKS
from appguard.jail import Jail
from appguard.ready_jails import ready_jail


@dataclass(frozen=True, slots=True)
class JailConfig:
    """A jail of the daemon: its settings, the sources it listens to, their filter, and who may feed a socket.

    `behind` are machines that all clients of these sources came through, where the lines do not say so.
    `filter_options` are the regexes and the like that it sets beside the filter, in fail2ban's words.
    """

    jail: Jail
    sources: tuple[str, ...]
    filter: str
    users: tuple[str, ...] = ()
    behind: tuple[Network, ...] = ()
    filter_options: Mapping[str, object] = field(default_factory=dict[str, object])
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


def enabled(value: object) -> None:
    """Refuse fail2ban's word: here a jail that is written down is in use."""
    raise ConfigError("a jail that is written down is in use: leave this out, or the whole table")


def filter_(value: object) -> str:
    """Accept the name of a filter, or a table of the name and its options, which become one text."""
    if not isinstance(value, Mapping):
        return text(value)
    options = dict(cast("Mapping[str, object]", value))
    name = text(options.pop("name", ""))
    return f"{name}:{json.dumps(options, sort_keys=True, default=str)}"


JAIL_OPTIONS = tuple(field.name for field in fields(Jail) if field.name != "name")
JAIL_CHECKS: dict[str, Check] = {
    **dict.fromkeys(JAIL_OPTIONS, lambda value: value),  # `Jail` checks them
    "events": one_or_more,
    "enabled": enabled,
    "use": text,
    "ignoreip": ignoreip,
    "filter": filter_,
    "users": users,
    "behind": networks,
    **FILTER_CHECKS,
    **SOURCE_CHECKS,
}


def read_jail(name: str, value: object, where: str) -> JailConfig:
    """Check one table; raise `ConfigError`."""
    found = read(value, where, JAIL_CHECKS)
    found = _ready(str(found.pop("use", "")), where) | found
    origins = cast("tuple[str, ...]", found.get("source", ()))
    jail = _jail(name, found, where, origins)
    if not origins:
        raise ConfigError(f'{where}: source is missing: give a log file, a glob, "{EVENTS_SOURCE}" or "{BANS_SOURCE}"')
    if BANS_SOURCE in origins:
        _refuse_beside_bans(found, where, origins)
        return JailConfig(jail, origins, "")
    check_sources(found, origins, where)
    logs = [origin for origin in origins if origin != EVENTS_SOURCE]
    chosen = str(found.get("filter", "" if logs else "appguard"))
    if not chosen:
        raise ConfigError(f'{where}: filter is missing: say how to read {logs[0]}, for example filter = "nginx"')
    if not found.get("users") and not set(SOCKET_SOURCES).isdisjoint(origins):
        who = "say which users' apps may report to this jail over a socket, for example"
        raise ConfigError(f'{where}: users is missing: {who} users = ["www-data"]')
    options = {name: found[name] for name in FILTER_CHECKS if name in found and name not in SOURCE_CHECKS}
    more = {name: found[name] for name in ("users", "behind", "journalmatch", "peers", "command") if name in found}
    return JailConfig(jail, origins, chosen, filter_options=options, **more)  # type: ignore[arg-type]  # checked by key


def _ready(name: str, where: str) -> dict[str, object]:
    """Give the settings of a ready jail, checked as if they stood in the table; none without a name."""
    if not name:
        return {}
    try:
        return read(ready_jail(name), where, JAIL_CHECKS)
    except ConfigError as error:
        raise ConfigError(f"{where}: use = {name!r}: {error}") from error


def _jail(name: str, found: dict[str, object], where: str, origins: tuple[str, ...]) -> Jail:
    options = {key: found[key] for key in JAIL_OPTIONS if key in found}
    if BANS_SOURCE in origins:
        options.setdefault("events", (BAN,))
    ignored = cast("tuple[Network, ...]", found.get("ignoreip", ()))
    try:
        jail = Jail(name, **options)  # type: ignore[arg-type]  # it checks them
        return replace(jail, safelist=(*jail.safelist, *map(network_text, ignored))) if ignored else jail
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'jail {name}: ')}") from error


def _refuse_beside_bans(found: dict[str, object], where: str, origins: tuple[str, ...]) -> None:
    if len(origins) > 1 or "filter" in found or "users" in found:
        raise ConfigError(f'{where}: source = "{BANS_SOURCE}" stands alone, without filter and users')
