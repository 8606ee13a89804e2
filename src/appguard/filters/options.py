"""The options of a filter in fail2ban's dialect, whether they come from a file or from our own settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

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
    checked: dict[str, object] = {}
    for name, value in values.items():
        try:
            checked[name] = CHECKS[name](value)
        except ConfigError as error:
            raise ConfigError(f"{name} = {value!r}: {error}") from error
    return FilterOptions(**checked)  # type: ignore[arg-type]  # each was checked by its name's check


def with_known(name: str, value: object, own: FilterOptions) -> object:
    """Give what a jail sets with the filter's own value where it says `%(known/failregex)s`, as fail2ban's jails do."""
    known: object = getattr(own, name, "")
    text = "\n".join(cast("tuple[str, ...]", known)) if isinstance(known, tuple) else str(known)
    if isinstance(value, str):
        return value.replace(f"%(known/{name})s", text)
    if isinstance(value, list | tuple):
        return [with_known(name, each, own) for each in cast("Sequence[object]", value)]
    return value


def _lines(value: object) -> tuple[str, ...]:
    """Accept one regex a line, or a list of them."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ConfigError("expected a text, one regex a line, or a list of texts")
    texts = map(_text, cast("Sequence[object]", given))
    return tuple(line.strip() for text in texts for line in text.splitlines() if line.strip())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError("expected a text")
    return value.strip()


def _maxlines(value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= LINES_MOST:
        raise ConfigError(f"expected a whole number from 1 to {LINES_MOST}")
    return int(text)


def _usedns(value: object) -> str:
    text = ("no", "yes")[value] if isinstance(value, bool) else str(value).strip().lower()
    if text not in USE_DNS:
        raise ConfigError(f"expected one of {', '.join(map(repr, USE_DNS))}")
    return text


CHECKS: dict[str, Callable[[object], object]] = {
    "failregex": _lines,
    "ignoreregex": _lines,
    "prefregex": _text,
    "datepattern": _lines,
    "maxlines": _maxlines,
    "usedns": _usedns,
    "journalmatch": _text,
    "logtype": _text,
}
