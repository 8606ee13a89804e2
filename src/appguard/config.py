"""Reads and checks settings, of the app and of the daemon; the only module that knows TOML.

A setting is checked where it is read, and every message says the file, the key, the value and what is accepted.
Unknown keys are errors. The app's settings come from, in this order: an argument, the environment
(`APPGUARD_STORE`, `APPGUARD_EVENT_LOG`, `APPGUARD_ENABLED`), the `[app]` table of the file in `APPGUARD_CONFIG`, the
default; a key is replaced whole, never merged. The daemon reads one file and the files of `conf.d` beside it, later
ones winning key by key.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict, TypeVar, cast

from appguard.address import Network, Proxies, parse_network
from appguard.errors import AppGuardError, ConfigError
from appguard.event import LOGIN_PATHS
from appguard.jail import Jail
from appguard.limit import Limit, path_pattern

T = TypeVar("T")
D = TypeVar("D")
NO_TABLE: Mapping[str, object] = {}
DEFAULT_LIMITS = ("100/second",)
CONFIG_FILE = Path("/etc/appguard/appguard.toml")
EVENTS_SOURCE = "events"


class AppOptions(TypedDict, total=False):
    """The arguments of every AppGuard middleware; the same keys stand in the `[app]` table."""

    name: str
    limits: Sequence[Limit | str]
    jails: Sequence[Jail]
    store: str
    trusted_proxies: Sequence[str]
    forwarding_header: str
    safelist: Sequence[str]
    exempt_paths: Sequence[str]
    login_paths: Sequence[str]
    event_log: str
    on_store_error: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class AppConfig:
    """An app's settings, checked."""

    name: str
    limits: tuple[Limit, ...]
    jails: tuple[Jail, ...]
    store: str
    trusted_proxies: Proxies
    forwarding_header: str
    safelist: tuple[Network, ...]
    exempt_paths: tuple[str, ...]
    login_paths: tuple[str, ...]
    event_log: str
    on_store_error: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class JailConfig:
    """A jail of the daemon: its settings, the sources it listens to, their filter, and who may feed a socket."""

    jail: Jail
    sources: tuple[str, ...]
    filter: str
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The daemon's settings, checked."""

    store: str
    safelist: tuple[Network, ...]
    trusted_proxies: Proxies
    runtime_directory: Path
    state_directory: Path
    jails: tuple[JailConfig, ...]
    firewall: str
    control_socket: Path


class Table:
    """One table of settings being read: each read takes a key out, `end` refuses what is left."""

    def __init__(self, table: Mapping[str, object], where: str) -> None:
        self._left = dict(table)
        self._known: list[str] = []
        self.where = where

    def take(self, key: str, default: D, check: Callable[[object], T]) -> T | D:
        """Read one key; raise `ConfigError` naming the place, the key and the value."""
        self._known.append(key)
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            return check(value)
        except (AppGuardError, ValueError, TypeError) as error:
            raise ConfigError(f"{self.where}: {key} = {value!r}: {error}") from error

    def keys(self) -> list[str]:
        """Give the keys not read yet."""
        return list(self._left)

    def end(self) -> None:
        """Refuse keys nobody read."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(sorted(self._known))}"
            raise ConfigError(f"{self.where}: unknown key {key!r}: {hint}")


def text(value: object) -> str:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError("expected a text")
    return value


def flag(value: object) -> bool:
    """Accept true or false, also as the environment spells them."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = value if isinstance(value, bool) else words.get(str(value).lower())
    if found is None:
        raise ConfigError("expected true or false")
    return found


def items(value: object) -> list[object]:
    """Accept a list (not a text, which would be read letter by letter)."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError('expected a list such as ["..."]')
    return list(cast("Iterable[object]", value))


def texts(value: object) -> tuple[str, ...]:
    """Accept a list of texts."""
    return tuple(text(item) for item in items(value))


def networks(value: object) -> tuple[Network, ...]:
    """Accept a list of addresses and networks."""
    return tuple(parse_network(item) for item in texts(value))


def proxies(value: object) -> Proxies:
    """Accept a list of addresses, networks and `unix:`."""
    found = texts(value)
    return Proxies(networks([item for item in found if item != "unix:"]), unix="unix:" in found)


def one_or_more(value: object) -> tuple[str, ...]:
    """Accept a text or a list of texts."""
    return (value,) if isinstance(value, str) and value else texts(value)


def one_of(*accepted: str) -> Callable[[object], str]:
    """Accept one of some words."""

    def check(value: object) -> str:
        if value not in accepted:
            raise ConfigError(f"expected one of {', '.join(map(repr, accepted))}")
        return str(value)

    return check


def paths(value: object) -> tuple[str, ...]:
    """Accept a list of path patterns."""
    found = texts(value)
    for path in found:
        if not path.startswith("/"):
            raise ConfigError(f"{path!r} must begin with '/'")
        path_pattern(path)
    return found


def directory(value: object) -> Path:
    """Accept an absolute path."""
    path = Path(text(value)).expanduser()
    if not path.is_absolute():
        raise ConfigError("expected an absolute path")
    return path


def limits(value: object) -> tuple[Limit, ...]:
    """Accept a list of rates: texts, `Limit`s, or tables with the keys of `Limit`."""
    return tuple(_limit(item) for item in items(value))


def _limit(item: object) -> Limit:
    if isinstance(item, Limit):
        return item
    if isinstance(item, str):
        return Limit(item)
    if not isinstance(item, Mapping):
        raise ConfigError(f"{item!r}: expected a rate such as '5/minute'")
    table = Table(cast("Mapping[str, object]", item), "limit")
    found = Limit(
        table.take("rate", "", text),
        path=table.take("path", "", text),
        methods=table.take("methods", (), texts),
        name=table.take("name", "", text),
    )
    table.end()
    return found


def jails(value: object) -> tuple[Jail, ...]:
    """Accept a list of `Jail`s."""
    found = items(value)
    for item in found:
        if not isinstance(item, Jail):
            raise ConfigError(f"{item!r}: expected Jail(...)")
    return tuple(cast("list[Jail]", found))


def app_config(options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> AppConfig:
    """Give an app's settings from its arguments, the environment and the file; raise `ConfigError`."""
    environment = os.environ if environment is None else environment
    path = environment.get("APPGUARD_CONFIG", "")
    from_file = daemon_tables(Path(path)).get("app", NO_TABLE) if path else NO_TABLE
    checked = read_app(from_file, f"{path}: [app]")
    variables = {
        key: environment[variable]
        for key, variable in (
            ("store", "APPGUARD_STORE"),
            ("event_log", "APPGUARD_EVENT_LOG"),
            ("enabled", "APPGUARD_ENABLED"),
        )
        if variable in environment
    }
    checked |= read_app(variables, "environment: APPGUARD_")
    checked |= read_app(options, "AppGuard(...)")
    defaults: dict[str, object] = {"name": Path.cwd().name or "app", "limits": tuple(map(Limit, DEFAULT_LIMITS))}
    return AppConfig(**(APP_DEFAULTS | defaults | checked))  # type: ignore[arg-type]  # each was checked by its key's check


APP_CHECKS: dict[str, Callable[[object], object]] = {
    "name": text,
    "limits": limits,
    "jails": jails,
    "store": text,
    "trusted_proxies": proxies,
    "forwarding_header": one_of("x-forwarded-for", "forwarded"),
    "safelist": networks,
    "exempt_paths": paths,
    "login_paths": texts,
    "event_log": text,
    "on_store_error": one_of("local", "open", "closed"),
    "enabled": flag,
}
APP_DEFAULTS: dict[str, object] = {
    "jails": (),
    "store": "",
    "trusted_proxies": Proxies(),
    "forwarding_header": "x-forwarded-for",
    "safelist": (),
    "exempt_paths": (),
    "login_paths": LOGIN_PATHS,
    "event_log": "",
    "on_store_error": "local",
    "enabled": True,
}


def read_app(options: object, where: str) -> dict[str, object]:
    """Check an app's settings; give those that are set. Raise `ConfigError`."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: expected a table")
    table = Table(cast("Mapping[str, object]", options), where)
    found: dict[str, object] = {}
    for key, check in APP_CHECKS.items():
        value = table.take(key, None, check)
        if value is not None:
            found[key] = value
    table.end()
    return found


def daemon_tables(path: Path) -> dict[str, object]:
    """Read a file and the `conf.d/*.toml` beside it, later ones winning key by key."""
    merged: dict[str, object] = {}
    for file in (path, *sorted((path.parent / "conf.d").glob("*.toml"))):
        try:
            with file.open("rb") as opened:
                merged |= tomllib.load(opened)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid TOML: {error}") from error
    return merged


def daemon_config(path: Path) -> DaemonConfig:
    """Read and check the daemon's settings; raise `ConfigError`."""
    where = str(path)
    table = Table(daemon_tables(path), where)
    runtime = table.take("runtime_directory", Path("/run/appguard"), directory)
    firewall = Table(table.take("firewall", NO_TABLE, _table), f"{where}: [firewall]")
    control = Table(table.take("control", NO_TABLE, _table), f"{where}: [control]")
    read_app(table.take("app", NO_TABLE, _table), f"{where}: [app]")
    jail_tables = table.take("jails", NO_TABLE, _table)
    found = DaemonConfig(
        store=table.take("store", "local://", text),
        safelist=table.take("safelist", (), networks) + table.take("ignoreip", (), ignoreip),
        trusted_proxies=table.take("trusted_proxies", Proxies(), proxies),
        runtime_directory=runtime,
        state_directory=table.take("state_directory", Path("/var/lib/appguard"), directory),
        jails=tuple(_jail(name, each, f"{where}: [jails.{name}]") for name, each in jail_tables.items()),
        firewall=firewall.take("kind", "nftables", text),
        control_socket=control.take("socket", runtime / "control.sock", directory),
    )
    for each in (table, firewall, control):
        each.end()
    return found


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError("expected a table")
    return cast("Mapping[str, object]", value)


def ignoreip(value: object) -> tuple[Network, ...]:
    """Accept the safelist in fail2ban's spelling: one text, addresses and networks separated by spaces or commas."""
    return networks(value.replace(",", " ").split() if isinstance(value, str) else value)


def _jail(name: str, value: object, where: str) -> JailConfig:
    table = Table(_table(value), where)
    options = {
        field.name: table.take(field.name, field.default, _as_it_is)
        for field in fields(Jail)
        if field.name not in ("name", "events")
    }
    sources = table.take("source", (), one_or_more)
    users = table.take("users", (), _users)
    reads_events = EVENTS_SOURCE in sources
    chosen = table.take("filter", "appguard" if reads_events else "", text)
    try:
        jail = Jail(name, **options, events=table.take("events", Jail("x").events, texts))  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    table.end()
    if not sources:
        raise ConfigError(f'{where}: source is missing: give a log file, a glob, or "{EVENTS_SOURCE}"')
    if not chosen:
        raise ConfigError(f'{where}: filter is missing: say how to read {sources[0]}, for example filter = "nginx"')
    if reads_events and not users:
        raise ConfigError(
            f"{where}: users is missing: say which users' apps may report to this jail over {EVENTS_SOURCE}.sock, "
            'for example users = ["www-data"]'
        )
    return JailConfig(jail, sources, chosen, users)


def _as_it_is(value: object) -> object:
    return value


def _users(value: object) -> tuple[str, ...]:
    found = items(value)
    for item in found:
        if not isinstance(item, str | int) or isinstance(item, bool) or item == "":
            raise ConfigError("expected a list of user names or user ids")
    return tuple(map(str, found))
