"""Reads and checks settings, of the app and of the daemon; the only module that knows TOML.

A setting is checked where it is read, and every message says the file, the key, the value and what is accepted.
Unknown keys are errors. The app's settings come from, in this order: an argument, the environment
(`APPGUARD_STORE`, `APPGUARD_EVENT_LOG`, `APPGUARD_ENABLED`; empty is as good as not set), the `[app]` table of the file
in `APPGUARD_CONFIG`, the default. A file is read together with the files of `conf.d` beside it, whole and by one schema
whoever reads it; later files win key by key, in `[jails]` jail by jail. Where one value wins over another it replaces
it whole: no two lists and no two jails are ever merged.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict, cast

from appguard.address import Network, Proxies, parse_network
from appguard.errors import AppGuardError, ConfigError
from appguard.event import LOGIN_PATHS
from appguard.jail import Jail
from appguard.limit import Limit, path_pattern

Check = Callable[[object], object]
DEFAULT_LIMITS = ("100/second",)
CONFIG_FILE = Path("/etc/appguard/appguard.toml")
EVENTS_SOURCE = "events"
SOCKET_SOURCES = (EVENTS_SOURCE, "syslog")


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
    firewall: Mapping[str, object]
    control_socket: Path


def read(table: object, where: str, checks: Mapping[str, Check]) -> dict[str, object]:
    """Check the keys that a table sets; raise `ConfigError` with the place, the key, the value and what is accepted."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} = {table!r}: expected a table")
    found: dict[str, object] = {}
    for key, value in cast("Mapping[str, object]", table).items():
        if key not in checks:
            near = difflib.get_close_matches(key, checks, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(sorted(checks))}"
            raise ConfigError(f"{where}: unknown key {key!r}: {hint}")
        try:
            found[key] = checks[key](value)
        except (AppGuardError, ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {key} = {value!r}: {error}") from error
    return found


def table(value: object) -> Mapping[str, object]:
    """Accept a table."""
    if not isinstance(value, Mapping):
        raise ConfigError("expected a table")
    return cast("Mapping[str, object]", value)


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
        path_pattern(path)
    return found


def directory(value: object) -> Path:
    """Accept an absolute path."""
    path = Path(text(value)).expanduser()
    if not path.is_absolute() or "\0" in str(path):
        raise ConfigError("expected an absolute path")
    return path


def ignoreip(value: object) -> tuple[Network, ...]:
    """Accept the safelist in fail2ban's spelling: one text, addresses and networks separated by spaces or commas."""
    return networks(value.replace(",", " ").split() if isinstance(value, str) else value)


def sources(value: object) -> tuple[str, ...]:
    """Accept one or more places that log lines come from."""
    found = one_or_more(value)
    for source in found:
        if source not in SOCKET_SOURCES and not source.startswith("/"):
            words = " or ".join(f'"{name}"' for name in SOCKET_SOURCES)
            raise ConfigError(f"{source!r}: expected a log file or glob with its whole path, or {words}")
    return found


def users(value: object) -> tuple[str, ...]:
    """Accept a list of user names or user ids."""
    found = items(value)
    for item in found:
        if not isinstance(item, str | int) or isinstance(item, bool) or item == "":
            raise ConfigError("expected a list of user names or user ids")
    return tuple(map(str, found))


def limits(value: object) -> tuple[Limit, ...]:
    """Accept a list of rates: texts, `Limit`s, or tables with the keys of `Limit`."""
    found = tuple(map(_limit, items(value)))
    _refuse_same_names("limits", [limit.name for limit in found])
    return found


def _limit(item: object) -> Limit:
    if isinstance(item, Limit):
        return item
    if isinstance(item, str):
        return Limit(item)
    if not isinstance(item, Mapping):
        raise ConfigError(f"{item!r}: expected a rate such as '5/minute'")
    found = read(cast("Mapping[str, object]", item), "limit", LIMIT_CHECKS)
    return Limit(**({"rate": ""} | found))  # type: ignore[arg-type]  # each was checked by its key's check


def jails(value: object) -> tuple[Jail, ...]:
    """Accept a list of `Jail`s."""
    found = items(value)
    for item in found:
        if not isinstance(item, Jail):
            raise ConfigError(f"{item!r}: expected Jail(...)")
    _refuse_same_names("jails", [jail.name for jail in cast("list[Jail]", found)])
    return tuple(cast("list[Jail]", found))


def _refuse_same_names(what: str, names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"two {what} are named {twice[0]!r}: they would be counted together")


LIMIT_CHECKS: dict[str, Check] = {"rate": text, "path": text, "methods": texts, "name": text}
APP_CHECKS: dict[str, Check] = {
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
    "limits": tuple(map(Limit, DEFAULT_LIMITS)),
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
APP_VARIABLES = {"APPGUARD_STORE": "store", "APPGUARD_EVENT_LOG": "event_log", "APPGUARD_ENABLED": "enabled"}
JAIL_OPTIONS = tuple(field.name for field in fields(Jail) if field.name != "name")
JAIL_CHECKS: dict[str, Check] = {
    **dict.fromkeys(JAIL_OPTIONS, lambda value: value),  # `Jail` checks them
    "events": one_or_more,
    "source": sources,
    "filter": text,
    "users": users,
}
FILE_CHECKS: dict[str, Check] = {
    "store": text,
    "safelist": networks,
    "ignoreip": ignoreip,
    "trusted_proxies": proxies,
    "runtime_directory": directory,
    "state_directory": directory,
    "app": table,
    "jails": table,
    "firewall": table,
    "control": table,
}
FILE_DEFAULTS: dict[str, object] = {
    "store": "local://",
    "safelist": (),
    "ignoreip": (),
    "trusted_proxies": Proxies(),
    "runtime_directory": Path("/run/appguard"),
    "state_directory": Path("/var/lib/appguard"),
}
TABLE_CHECKS: dict[str, dict[str, Check]] = {
    "app": APP_CHECKS,
    "firewall": {"kind": text, "path": directory, "reload": texts},
    "control": {"socket": directory},
}


def app_config(options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> AppConfig:
    """Give an app's settings from its arguments, the environment and the file; raise `ConfigError`."""
    environment = os.environ if environment is None else environment
    path = environment.get("APPGUARD_CONFIG", "")
    found = APP_DEFAULTS | (read_files(Path(path))["app"] if path else {})
    variables = {variable: environment[variable] for variable in APP_VARIABLES if environment.get(variable)}
    checks = {variable: APP_CHECKS[key] for variable, key in APP_VARIABLES.items()}
    found |= {APP_VARIABLES[name]: value for name, value in read(variables, "environment", checks).items()}
    found |= read(options, "AppGuard(...)", APP_CHECKS)
    return AppConfig(**({"name": _default_name()} | found))  # type: ignore[arg-type]  # checked by its key's check


def _default_name() -> str:
    try:
        return Path.cwd().name or "app"
    except OSError:  # the directory is gone
        return "app"


def read_files(path: Path) -> dict[str, dict[str, object]]:
    """Read and check a file and the `conf.d/*.toml` beside it; give their tables, the top one under "".

    Raise `ConfigError`.
    """
    try:
        drop_ins = sorted((path.parent / "conf.d").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        drop_ins = []
    except OSError as error:  # left out silently, it would leave out jails
        raise ConfigError(f"{path.parent / 'conf.d'}: cannot be read: {error.strerror}") from error
    merged: dict[str, dict[str, object]] = {}
    for file in (path, *(each for each in drop_ins if each.suffix == ".toml" and each.name[0] != ".")):
        for name, found in _read_file(file).items():
            merged[name] = merged.get(name, {}) | found
    return merged


def _read_file(file: Path) -> dict[str, dict[str, object]]:
    where = str(file)
    try:
        with file.open("rb") as opened:
            top = read(tomllib.load(opened), where, FILE_CHECKS)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    found = {name: read(top.pop(name, {}), f"{where}: [{name}]", checks) for name, checks in TABLE_CHECKS.items()}
    jail_tables = table(top.pop("jails", {}))
    found["jails"] = {name: _jail(name, each, f"{where}: [jails.{name}]") for name, each in jail_tables.items()}
    return found | {"": top}


def _jail(name: str, value: object, where: str) -> JailConfig:
    found = read(value, where, JAIL_CHECKS)
    try:
        jail = Jail(name, **{key: found[key] for key in JAIL_OPTIONS if key in found})  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    origins = cast("tuple[str, ...]", found.get("source", ()))
    if not origins:
        raise ConfigError(f'{where}: source is missing: give a log file, a glob, or "{EVENTS_SOURCE}"')
    logs = [origin for origin in origins if origin != EVENTS_SOURCE]
    chosen = str(found.get("filter", "" if logs else "appguard"))
    if not chosen:
        raise ConfigError(f'{where}: filter is missing: say how to read {logs[0]}, for example filter = "nginx"')
    reporters = cast("tuple[str, ...]", found.get("users", ()))
    if not reporters and not set(SOCKET_SOURCES).isdisjoint(origins):
        who = "say which users' apps may report to this jail over a socket, for example"
        raise ConfigError(f'{where}: users is missing: {who} users = ["www-data"]')
    return JailConfig(jail, origins, chosen, reporters)


def control_socket(runtime: Path) -> Path:
    """Give the control socket's place: beside the runtime directory, which containers get to see, not in it."""
    return runtime.with_name(f"{runtime.name}-control") / "control.sock"


def daemon_config(path: Path) -> DaemonConfig:
    """Read and check the daemon's settings; raise `ConfigError`."""
    tables = read_files(path)
    top = FILE_DEFAULTS | tables[""]
    safelist = cast("tuple[Network, ...]", top["safelist"]) + cast("tuple[Network, ...]", top["ignoreip"])
    runtime = cast("Path", top["runtime_directory"])
    return DaemonConfig(
        store=str(top["store"]),
        safelist=safelist,
        trusted_proxies=cast("Proxies", top["trusted_proxies"]),
        runtime_directory=runtime,
        state_directory=cast("Path", top["state_directory"]),
        jails=cast("tuple[JailConfig, ...]", tuple(tables["jails"].values())),
        firewall=tables["firewall"],
        control_socket=cast("Path", tables["control"].get("socket", control_socket(runtime))),
    )
