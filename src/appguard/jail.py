"""Jail: which events are counted, under which key, and what ban they lead to. Settings only; `jail_window.py` counts.

fail2ban's names stay. Where fail2ban has a dot, as in `bantime.increment`, here is an underscore, because TOML takes a
dot for a table. Everything is checked when a jail is made, so that what counts need not.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast

from appguard.address import network_text, parse_network
from appguard.ban import JAIL_NAME, PERMANENT, parse_duration
from appguard.counted import RUNS_MOST
from appguard.errors import AddressError, ConfigError
from appguard.event import KINDS, LOGIN_FAIL
from appguard.exemption_target import check_target
from appguard.jail_key import ADDRESS, USER, Prefixes, check_key
from appguard.jail_paths import check_path
from appguard.ports import ports_text

DISTINCT = ("path", "user", "user_agent", "address")
BANS_PER_MINUTE = 200
ESCALATE_TO = "/24,/48"
HOST, FLEET = "host", "fleet"


@dataclass(frozen=True, slots=True)
class Jail:
    """The settings of one jail; durations are seconds or texts such as `"10m"`, `bantime` -1 is for ever.

    Counted are events of the kinds `events`, if given only with one of the `statuses` and on one of the `paths`, never
    on `exempt_paths` nor from the `safelist`. `distinct` counts different values of a field instead of events. A jail
    by user bans every address that the failures of that user came from. With `scope` "fleet" all hosts of a store count
    together. Its bans are about `ports` of `protocol` alone: numbers, ranges such as `"8000-8010"` and names such as
    `"ssh"`, of `"tcp"`, `"udp"` or, if none is named, both; without either they are about everything. Raise
    `ConfigError` for a value that cannot be.
    """

    name: str
    maxretry: int = 5
    findtime: float | str = 600
    bantime: float | str = 600
    events: Sequence[str] = (LOGIN_FAIL,)
    statuses: Sequence[int] = ()
    paths: Sequence[str] = ()
    exempt_paths: Sequence[str] = ()
    key: str = ADDRESS
    distinct: str = ""
    safelist: Sequence[str] = ()
    dry_run: bool = False
    bans_per_minute: int = BANS_PER_MINUTE
    bantime_increment: bool = False
    bantime_factor: float = 1.0
    bantime_multipliers: Sequence[float] = ()
    bantime_formula: str = ""
    bantime_maxtime: float | str = PERMANENT
    bantime_rndtime: float | str = 0
    bantime_overalljails: bool = False
    escalate: int = 0
    escalate_to: str = ESCALATE_TO
    ignorecommand: str = ""
    scope: str = HOST
    ports: Sequence[int | str] = ()
    protocol: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check every value and turn durations into seconds; raise `ConfigError`."""
        if not JAIL_NAME.fullmatch(self.name):
            raise ConfigError(f"jail name {self.name!r}: expected 1 to 64 letters, digits, '-', '_', '.'")
        for field in fields(self):
            check = _CHECKS.get(field.name)
            if check is not None:
                what = f"jail {self.name}: {field.name}"
                object.__setattr__(self, field.name, check(getattr(self, field.name), what))
        self._check_together()

    def _check_together(self) -> None:
        """Check the settings that mean something only beside others."""
        ports_text(self.ports, self.protocol, f"jail {self.name}: ports")
        if self.distinct and self.maxretry > RUNS_MOST:
            raise ConfigError(f"jail {self.name}: maxretry = {self.maxretry}: with distinct at most {RUNS_MOST}")
        if self.distinct and self.distinct == self.key:
            raise ConfigError(f"jail {self.name}: distinct = {self.distinct!r}: there is one {self.key} per key")
        if self.escalate and self.key != ADDRESS:
            raise ConfigError(f"jail {self.name}: escalate: only a jail with key = 'address' grows to networks")
        if self.is_shared:
            self._check_shared()
        given = [name for name in _INCREMENTS if getattr(self, name) != _DEFAULTS[name]]
        if given and not self.bantime_increment:
            raise ConfigError(f"jail {self.name}: {given[0]} means nothing without bantime_increment = true")
        if self.bantime_increment and self.bantime == PERMANENT:
            raise ConfigError(f"jail {self.name}: bantime_increment: a bantime of -1 cannot grow")

    def _check_shared(self) -> None:
        """Check what cannot be where the fleet counts: it bans in the same moment."""
        if self.ignorecommand:
            raise ConfigError(f"jail {self.name}: ignorecommand: with scope = 'fleet' nobody can be asked before a ban")
        if self.maxretry > RUNS_MOST:
            raise ConfigError(f"jail {self.name}: maxretry = {self.maxretry}: with scope = 'fleet' at most {RUNS_MOST}")

    @property
    def is_shared(self) -> bool:
        """Say whether all hosts of a fleet count for this jail together."""
        return self.scope == FLEET

    @property
    def is_by_user(self) -> bool:
        """Say whether a key of this jail is a user name alone."""
        return self.key == USER


def _whole(least: int, most: int) -> Callable[[object, str], object]:
    def check(value: object, what: str) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError(f"{what} = {value!r}: expected a whole number from {least} to {most}")
        return value

    return check


def _flag(value: object, what: str) -> object:
    if not isinstance(value, bool):
        raise ConfigError(f"{what} = {value!r}: expected true or false")
    return value


def _findtime(value: object, what: str) -> object:
    findtime = parse_duration(value, what)
    if findtime == PERMANENT:
        raise ConfigError(f"{what} cannot be for ever")
    return findtime


def _bantime(value: object, what: str) -> object:
    if isinstance(value, Mapping):
        words = ", ".join(f"{what}_{word}" for word in cast("Mapping[object, object]", value))
        raise ConfigError(f"{what}: TOML takes fail2ban's dot for a table: write {words.replace(what, 'bantime')}")
    return parse_duration(value, what)


def _rndtime(value: object, what: str) -> object:
    return 0 if value == 0 and not isinstance(value, bool) else _findtime(value, what)


def _items(value: object, what: str) -> tuple[object, ...]:
    """Give a list; one text or number stands for a list of it."""
    if isinstance(value, str | int | float):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes | Mapping):
        raise ConfigError(f"{what} = {value!r}: expected a list")
    return tuple(cast("Iterable[object]", value))


def _texts(value: object, what: str) -> tuple[str, ...]:
    found = _items(value, what)
    if not all(isinstance(item, str) and item for item in found):
        raise ConfigError(f"{what} = {list(found)!r}: expected a list of texts")
    return cast("tuple[str, ...]", found)


def _kinds(value: object, what: str) -> object:
    kinds = _items(value, what)
    if not kinds or not set(kinds) <= set(KINDS):
        raise ConfigError(f"{what} = {list(kinds)!r}: expected some of {', '.join(KINDS)}")
    return kinds


def _statuses(value: object, what: str) -> object:
    found = _items(value, what)
    if not all(isinstance(item, int) and not isinstance(item, bool) and 100 <= item <= 599 for item in found):
        raise ConfigError(f"{what} = {list(found)!r}: expected statuses from 100 to 599")
    return found


def _paths(value: object, what: str) -> object:
    found = _texts(value, what)
    for path in found:
        check_path(path, what)
    return found


def _key(value: object, what: str) -> object:
    check_key(str(value), what)
    return value


def _scope(value: object, what: str) -> object:
    if value not in (HOST, FLEET):
        raise ConfigError(f"{what} = {value!r}: expected 'host' (this host counts alone) or 'fleet' (all together)")
    return value


def _distinct(value: object, what: str) -> object:
    if value not in ("", *DISTINCT):
        raise ConfigError(f"{what} = {value!r}: expected one of {', '.join(map(repr, DISTINCT))}")
    return value


def _networks(value: object, what: str) -> object:
    try:
        return tuple(network_text(parse_network(text)) for text in _texts(value, what))
    except AddressError as error:
        raise ConfigError(f"{what}: {error}") from error


def _factor(value: object, what: str) -> object:
    if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{what} = {value!r}: expected a number over 0")
    return float(value)


def _multipliers(value: object, what: str) -> object:
    found = value.split() if isinstance(value, str) else _items(value, what)
    try:
        return tuple(_factor(float(item) if isinstance(item, str) else item, what) for item in found)
    except ValueError as error:
        raise ConfigError(f"{what} = {value!r}: expected numbers such as [1, 2, 4, 8]") from error


def _formula(value: object, what: str) -> object:
    if value != "":
        raise ConfigError(
            f"{what}: no formula is evaluated: leave it out, and the n-th ban lasts bantime * factor * 2^(n-1),"
            " or write the numbers you want as bantime_multipliers"
        )
    return value


def _escalate(value: object, what: str) -> object:
    return value if value == 0 and not isinstance(value, bool) else _whole(2, RUNS_MOST)(value, what)


def _escalate_to(value: object, what: str) -> object:
    Prefixes.of(str(value), what)
    return value


def _target(value: object, what: str) -> object:
    if value:
        check_target(str(value), what)
    return value


def _ports(value: object, what: str) -> object:
    found = _items(value, what)
    ports_text(found, (), what)
    return found


_CHECKS: dict[str, Callable[[object, str], object]] = {
    "maxretry": _whole(1, 10_000),
    "findtime": _findtime,
    "bantime": _bantime,
    "events": _kinds,
    "statuses": _statuses,
    "paths": _paths,
    "exempt_paths": _paths,
    "key": _key,
    "distinct": _distinct,
    "safelist": _networks,
    "dry_run": _flag,
    "bans_per_minute": _whole(1, 1_000_000),
    "bantime_increment": _flag,
    "bantime_factor": _factor,
    "bantime_multipliers": _multipliers,
    "bantime_formula": _formula,
    "bantime_maxtime": parse_duration,
    "bantime_rndtime": _rndtime,
    "bantime_overalljails": _flag,
    "escalate": _escalate,
    "escalate_to": _escalate_to,
    "ignorecommand": _target,
    "ports": _ports,
    "protocol": _texts,
    "scope": _scope,
}
_INCREMENTS = ("bantime_factor", "bantime_multipliers", "bantime_maxtime", "bantime_rndtime", "bantime_overalljails")
_DEFAULTS: dict[str, object] = {field.name: field.default for field in fields(Jail)}
