"""Which filter the second argument of the verb `regex` means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from appguard.errors import ConfigError
from appguard.filters import fail2ban
from appguard.filters.base import Filter
from appguard.filters.open import FAIL2BAN, FILTERS, REGEX, WITH_OPTIONS, open_filter
from appguard.filters.regex import RegexFilter

NAME = re.compile(r"[\w.-]+(?:\[.*\])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The filter, its name as settings spell it, what the journal is asked for, and what is used, as it is shown."""

    filter: Filter
    name: str
    journalmatch: str
    used: tuple[tuple[str, str], ...]


def chosen_filter(spelled: str, ignoreregex: str, options: Mapping[str, object], *, is_journal: bool) -> Chosen:
    """Give the filter that is meant; raise `ConfigError`."""
    name = _name_of(spelled)
    given = dict(options)
    if name == REGEX:
        given["failregex"] = spelled
    if ignoreregex:
        given["ignoreregex"] = ["%(known/ignoreregex)s", *_ignoreregexes(ignoreregex)]
    try:
        made = open_filter(name, given, logtype="journal" if is_journal else "file")
    except ConfigError as error:
        raise ConfigError(f"{error}{_hint(spelled) if name == REGEX else ''}") from error
    used = [("failregex line", spelled) if name == REGEX else ("failregex filter", name)]
    used += [("ignoreregex line", ignoreregex)] if ignoreregex else []
    if not isinstance(made, RegexFilter):
        return Chosen(made, name, "", tuple(used))
    if made.options.maxlines > 1:
        used.append(("maxlines", str(made.options.maxlines)))
    used += [("datepattern", pattern) for pattern in made.options.datepattern]
    return Chosen(made, name, made.options.journalmatch, tuple(used))


def _name_of(spelled: str) -> str:
    """Spell a filter as settings do; what is none is a regex."""
    if spelled in FILTERS or spelled.startswith((FAIL2BAN, *WITH_OPTIONS)):
        return spelled
    if NAME.fullmatch(spelled.rpartition("/")[2]) and not spelled.isspace():
        file, bracket, parameters = spelled.partition("[")
        path = Path(file).expanduser()
        if path.suffix == ".toml" and path.is_file():
            return str(path.absolute())
        if path.suffix in (".conf", ".local") and path.is_file():
            return f"{FAIL2BAN}{path.absolute()}{bracket}{parameters}"
        if (fail2ban.FILTERS / f"{file}.conf").is_file() or (fail2ban.FILTERS / f"{file}.local").is_file():
            return FAIL2BAN + spelled
    return REGEX


def _hint(spelled: str) -> str:
    """Say, of what is taken for a regex and looks like a filter's name, that there is no such filter."""
    if not NAME.fullmatch(spelled):
        return ""
    names = [*FILTERS, *(file.stem for file in fail2ban.FILTERS.glob("*.conf"))]
    near = get_close_matches(spelled.partition("[")[0], names, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f" (there is no filter {spelled!r}, so it is taken for a regex{meant})"


def _ignoreregexes(given: str) -> tuple[str, ...]:
    path = Path(given).expanduser()
    if path.suffix == ".conf" and path.is_file():
        return fail2ban.read_filter(str(path.absolute())).ignoreregex
    return (given,)
