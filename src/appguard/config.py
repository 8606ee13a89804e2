"""Reads and checks settings, of the app and of the daemon, in TOML.

A setting is checked where it is read, and every message says the file, the key, the value and what is accepted.
Unknown keys are errors. The app's settings come from, in this order: an argument, the environment
(`APPGUARD_STORE`, `APPGUARD_EVENT_LOG`, `APPGUARD_ENABLED`; empty is as good as not set), the `[app]` table of the file
in `APPGUARD_CONFIG`, the default. A file is read together with the files of `conf.d` beside it, whole and by one schema
whoever reads it; later files win key by key, in `[jails]` jail by jail. Where one value wins over another it replaces
it whole: no two lists and no two jails are ever merged.
"""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, cast

from appguard.address import Network
from appguard.answers import BAN_TEXT, OwnAnswer
from appguard.ban import Ban
from appguard.config_jails import JailConfig, read_jail
from appguard.config_sources import check_peers
from appguard.config_values import (
    Check,
    count,
    directory,
    flag,
    function,
    ignoreip,
    items,
    networks,
    one_of,
    one_or_more,
    paths,
    proxies,
    read,
    table,
    text,
    text_or_numbers,
    texts,
)
from appguard.errors import ConfigError
from appguard.event import BAN, LOGIN_PATHS, Event
from appguard.jail import Jail
from appguard.limit import Limit
from appguard.proxies import Proxies
from appguard.rate_fields import HEADERS
from appguard.traps import check_trap

DEFAULT_LIMITS = ("100/second",)
CONFIG_FILE = Path("/etc/appguard/appguard.toml")
RUNTIME_DIRECTORY = Path("/run/appguard")  # where a daemon publishes its bans


class AppOptions(TypedDict, total=False):
    """The arguments of every AppGuard middleware; the same keys stand in the `[app]` table."""

    name: str
    limits: Sequence[Limit | str]
    jails: Sequence[Jail]
    store: str
    counters: str
    secret: str
    trusted_proxies: Sequence[str]
    forwarding_header: str
    safelist: Sequence[str]
    exempt_paths: Sequence[str]
    login_paths: Sequence[str]
    event_log: str
    on_store_error: str
    enabled: bool
    traps: Sequence[str]
    hash_users: bool
    headers: Literal["draft", "legacy", "both", "none"]
    ban_status: int
    ban_text: str
    response: OwnAnswer | None
    on_limit: Callable[[Event], object] | None
    on_auth_failure: Callable[[Event], object] | None
    on_ban: Callable[[Ban], object] | None


@dataclass(frozen=True, slots=True)
class AppConfig:
    """An app's settings, checked."""

    name: str
    limits: tuple[Limit, ...] = tuple(map(Limit, DEFAULT_LIMITS))
    jails: tuple[Jail, ...] = ()
    store: str = field(default="", repr=False)  # may hold a password
    counters: str = field(default="", repr=False)  # as well
    secret: str = field(default="", repr=False)
    trusted_proxies: Proxies = field(default_factory=Proxies)
    forwarding_header: str = "x-forwarded-for"
    safelist: tuple[Network, ...] = ()
    exempt_paths: tuple[str, ...] = ()
    login_paths: tuple[str, ...] = LOGIN_PATHS
    event_log: str = ""
    on_store_error: str = "local"
    enabled: bool = True
    traps: tuple[str, ...] = ()
    hash_users: bool = False
    headers: str = "draft"
    ban_status: int = 403
    ban_text: str = BAN_TEXT
    response: OwnAnswer | None = None
    on_limit: Callable[[Event], object] | None = None
    on_auth_failure: Callable[[Event], object] | None = None
    on_ban: Callable[[Ban], object] | None = None


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The daemon's settings, checked."""

    jails: tuple[JailConfig, ...]
    firewall: Mapping[str, object]
    control_socket: Path
    store: str = field(default="local://", repr=False)  # may hold a password
    safelist: tuple[Network, ...] = ()
    trusted_proxies: Proxies = field(default_factory=Proxies)
    runtime_directory: Path = RUNTIME_DIRECTORY
    state_directory: Path = Path("/var/lib/appguard")


def limits(value: object) -> tuple[Limit, ...]:
    """Accept a list of rates: texts, `Limit`s, or tables with the keys of `Limit`."""
    found = tuple(map(_limit, items(value)))
    _refuse_same_names("limits", [limit.name for limit in found])
    for limit in filter(lambda limit: limit.shared, found):
        first = next(other for other in found if other.shared == limit.shared)
        if (limit.fixed, limit.key, limit.count) != (first.fixed, first.key, first.count):
            raise ConfigError(f"limits shared as {limit.shared!r} must have the same rate, burst, key and count")
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
        _refuse_of_the_daemon(item)
    _refuse_same_names("jails", [jail.name for jail in cast("list[Jail]", found)])
    return tuple(cast("list[Jail]", found))


def traps(value: object) -> tuple[str, ...]:
    """Accept a list of paths that nobody has a reason to ask for."""
    return tuple(map(check_trap, texts(value)))


def ban_status(value: object) -> int:
    """Accept the status of an error."""
    if not isinstance(value, int) or isinstance(value, bool) or not 400 <= value <= 599:
        raise ConfigError("expected a status from 400 to 599")
    return value


def _refuse_of_the_daemon(jail: Jail) -> None:
    """Refuse what would do nothing in an app: it needs all bans of the host or of a fleet, or may wait."""
    settings: dict[str, object] = {"escalate": jail.escalate, "ignorecommand": jail.ignorecommand}
    settings |= {"events = 'guard_ban'": BAN in jail.events, "scope = 'fleet'": jail.is_shared}
    for name, is_set in settings.items():
        if is_set:
            raise ConfigError(f"jail {jail.name}: {name}: only a jail of the daemon can: write it in appguard.toml")


def _refuse_same_names(what: str, names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"two {what} are named {twice[0]!r}: they would be counted together")


LIMIT_CHECKS: dict[str, Check] = {
    "rate": text,
    "path": text,
    "methods": texts,
    "name": text,
    "key": text,
    "cost": count,
    "count": text_or_numbers,
    "burst": count,
    "dry_run": flag,
    "shared": text,
}
APP_CHECKS: dict[str, Check] = {
    "name": text,
    "limits": limits,
    "jails": jails,
    "store": text,
    "counters": text,
    "secret": text,
    "trusted_proxies": proxies,
    "forwarding_header": one_of("x-forwarded-for", "forwarded"),
    "safelist": networks,
    "exempt_paths": paths,
    "login_paths": texts,
    "event_log": text,
    "on_store_error": one_of("local", "open", "closed"),
    "enabled": flag,
    "traps": traps,
    "hash_users": flag,
    "headers": one_of(*HEADERS),
    "ban_status": ban_status,
    "ban_text": text,
    "response": function,
    "on_limit": function,
    "on_auth_failure": function,
    "on_ban": function,
}
APP_VARIABLES = {"APPGUARD_STORE": "store", "APPGUARD_EVENT_LOG": "event_log", "APPGUARD_ENABLED": "enabled"}
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
TABLE_CHECKS: dict[str, dict[str, Check]] = {
    "app": APP_CHECKS,
    "firewall": {
        "kind": one_or_more,
        "path": directory,
        "reload": texts,
        "command": texts,
        "transport": one_of("netlink", "nft"),
        "size": count,
        "block": one_of("drop", "reject", "log", "count"),
        "outbound": one_of("keep", "cut"),
    },
    "control": {"socket": directory},
}


def app_config(options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> AppConfig:
    """Give an app's settings from its arguments, the environment and the file; raise `ConfigError`."""
    environment = os.environ if environment is None else environment
    path = environment.get("APPGUARD_CONFIG", "")
    found = read_files(Path(path))["app"] if path else {}
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
    except FileNotFoundError as error:
        advice = "create it, or name another (daemon: --config, app: APPGUARD_CONFIG)"
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; {advice}") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    found = {name: read(top.pop(name, {}), f"{where}: [{name}]", checks) for name, checks in TABLE_CHECKS.items()}
    jail_tables = table(top.pop("jails", {}))
    found["jails"] = {name: read_jail(name, each, f"{where}: [jails.{name}]") for name, each in jail_tables.items()}
    return found | {"": top}


def control_socket(runtime: Path) -> Path:
    """Give the control socket's place: beside the runtime directory, which containers get to see, not in it."""
    return runtime.with_name(f"{runtime.name}-control") / "control.sock"


def daemon_config(path: Path) -> DaemonConfig:
    """Read and check the daemon's settings; raise `ConfigError`."""
    tables = read_files(path)
    top, jails = tables[""], cast("tuple[JailConfig, ...]", tuple(tables["jails"].values()))
    safelist = *cast("Sequence[Network]", top.get("safelist", ())), *cast("Sequence[Network]", top.pop("ignoreip", ()))
    runtime = cast("Path", top.get("runtime_directory", RUNTIME_DIRECTORY))
    check_peers({each.jail.name: (each.sources, each.peers) for each in jails})
    found = DaemonConfig(
        **top | {"safelist": safelist},  # type: ignore[arg-type]  # each was checked by its key's check
        jails=jails,
        firewall=tables["firewall"],
        control_socket=cast("Path", tables["control"].get("socket", control_socket(runtime))),
    )
    _refuse_to_share(path, found.store, jails)
    return found


def _refuse_to_share(path: Path, store: str, jails: Sequence[JailConfig]) -> None:
    """Refuse jails that hosts count for together where they share nothing."""
    shared = [each.jail.name for each in jails if each.jail.is_shared]
    if shared and not store.startswith("redis"):
        needed = "scope = 'fleet' needs a store that the hosts share: store = 'redis://...'"
        raise ConfigError(f"{path}: [jails.{shared[0]}]: {needed}")
