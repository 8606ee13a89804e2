"""The options of a filter in fail2ban's dialect, whether they come from a file or from our own settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from appguard.errors import ConfigError

LINES_MOST = 100
USE_DNS = ("yes", "warn", "no", "raw")


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """What a filter looks for, in fail2ban's words and tags."""

    failregex: tuple[str, ...] = ()
    ignoreregex: tuple[str, ...] = ()
    prefregex: str = ""
    datepattern: tuple[str, ...] = ()
    maxlines: int = 1
    usedns: str = "warn"
    journalmatch: str = ""
    logtype: str = "file"


def options_of(values: Mapping[str, object]) -> FilterOptions:
    """Check the options that a filter or a jail sets; raise `ConfigError`."""
    return FilterOptions(**{name: CHECKS[name](name, value) for name, value in values.items()})  # type: ignore[arg-type]


def _lines(name: str, value: object) -> tuple[str, ...]:
    """Accept one regex a line, or a list of them."""
    texts = value.splitlines() if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigError(f"{name} = {value!r}: expected a text, one a line, or a list of texts")
    return tuple(str(each).strip() for each in texts if str(each).strip())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r}: expected a text")
    return value.strip()


def _maxlines(name: str, value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= LINES_MOST:
        raise ConfigError(f"{name} = {value!r}: expected a whole number from 1 to {LINES_MOST}")
    return int(text)


def _usedns(name: str, value: object) -> str:
    text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else str(value).strip().lower()
    if text not in USE_DNS:
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(map(repr, USE_DNS))}")
    return str(text)


CHECKS = {
    "failregex": _lines,
    "ignoreregex": _lines,
    "prefregex": _text,
    "datepattern": _lines,
    "maxlines": _maxlines,
    "usedns": _usedns,
    "journalmatch": _text,
    "logtype": _text,
}
