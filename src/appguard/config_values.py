"""What a setting may be: one small function for each kind of value, and the reader of a table of them.

Each takes what TOML, an argument or the environment gave and returns it checked, or raises an error that says what is
accepted. Where it stood and what it was, `read` adds.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from pathlib import Path
from typing import cast

from appguard.address import Network, parse_network
from appguard.errors import AppGuardError, ConfigError
from appguard.limit import path_pattern
from appguard.proxies import Proxies

Check = Callable[[object], object]


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
        raise ConfigError(f"expected a table{', with [ ] and not [[ ]]' if isinstance(value, list) else ''}")
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


def function(value: object) -> Callable[..., object] | None:
    """Accept a plain function, or None; an `async def` would never run."""
    if value is not None and (not callable(value) or iscoroutinefunction(value)):
        raise ConfigError("expected a function, not one that is async")
    return value


def count(value: object) -> int:
    """Accept a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError("expected a whole number of at least 1")
    return value


def items(value: object) -> list[object]:
    """Accept a list (not a text, which would be read letter by letter)."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError('expected a list such as ["..."]')
    return list(cast("Iterable[object]", value))


def texts(value: object) -> tuple[str, ...]:
    """Accept a list of texts."""
    return tuple(text(item) for item in items(value))


def text_or_numbers(value: object) -> str | tuple[int, ...]:
    """Accept a text or a list of whole numbers."""
    return text(value) if isinstance(value, str) else tuple(count(item) for item in items(value))


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
