"""Reads the jails of a fail2ban configuration: jail.conf, jail.d, jail.local and what they include.

Files are merged and `%(option)s` expanded as for filters. A jail's `%(known/failregex)s` means the filter's own, where
no earlier file of the jails sets one; it stays as it is for whoever opens the filter.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appguard.errors import ConfigError
from appguard.filters.fail2ban_files import DEFAULT, INCLUDES, Sections, read_sections
from appguard.filters.fail2ban_values import Values

OPTIONS = (
    *("enabled", "filter", "logpath", "backend", "journalmatch", "maxretry", "findtime", "bantime"),
    *("bantime.increment", "bantime.factor", "bantime.formula", "bantime.multipliers", "bantime.maxtime"),
    *("bantime.rndtime", "bantime.overalljails", "ignoreip", "ignoreself", "ignorecommand", "usedns", "datepattern"),
    *("failregex", "ignoreregex", "prefregex", "maxlines", "logtype", "logencoding", "logtimezone", "port", "action"),
    "protocol",
)
OF_THE_FILTER = ("failregex", "ignoreregex", "prefregex", "datepattern")
GIVEN_BY_FAIL2BAN = {"fail2ban_version": "fail2ban", "fail2ban_confpath": "/etc/fail2ban"}
TRUE = ("1", "true", "yes", "on")
SECTION = re.compile(r"\[([^\]]+)\]")
OPTION = re.compile(r"([^\s#;=:\[][^=:]*?)\s*[=:]")


@dataclass(frozen=True, slots=True)
class Fail2banJail:
    """An enabled jail: its options, expanded; those that cannot be, and why; and where options are set, `file:line`."""

    name: str
    options: Mapping[str, str]
    unreadable: Mapping[str, str]
    places: Mapping[str, str]

    def get(self, option: str) -> str:
        """Give an option, empty if it is not set."""
        return self.options.get(option, "").strip()

    def is_true(self, option: str) -> bool:
        """Say whether an option is set and true."""
        return self.get(option).lower() in TRUE


def read_jails(directory: Path) -> list[Fail2banJail]:
    """Give the jails that are enabled, in the order of their files; raise `ConfigError`."""
    sections = read_sections(directory / "jail")
    for name, known in sections.known.items():
        if name != DEFAULT:
            known.update({option: f"%%(known/{option})s" for option in OF_THE_FILTER if option not in known})
    places = _places(directory)
    found = (_jail(name, sections, places) for name in sections.options if name not in (DEFAULT, INCLUDES))
    return [jail for jail in found if jail.is_true("enabled")]


def _jail(name: str, sections: Sections, places: Mapping[tuple[str, str], str]) -> Fail2banJail:
    values = Values(sections, GIVEN_BY_FAIL2BAN)
    options: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for option in OPTIONS:
        try:
            value = values.option(name, option)
        except ConfigError as error:
            unreadable[option] = str(error)
            continue
        if value is not None:
            options[option] = value
    own = {option: places.get((name, option), places.get((DEFAULT, option), "")) for option in OPTIONS}
    return Fail2banJail(name, options, unreadable, {option: place for option, place in own.items() if place})


def _places(directory: Path) -> dict[tuple[str, str], str]:
    """Give the file and line that set an option of a section last, by section and option."""
    found: dict[tuple[str, str], str] = {}
    for file in _files(directory):
        section = ""
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:  # one that is read at all was read before
            continue
        for number, line in enumerate(lines, start=1):
            if head := SECTION.match(line):
                section = head[1]
            elif option := OPTION.match(line):
                found[section, option[1].lower()] = f"{file}:{number}"
    return found


def _files(directory: Path) -> Iterator[Path]:
    yield from sorted(directory.glob("paths-*"))
    for ending in (".conf", ".local"):
        yield directory / f"jail{ending}"
        yield from sorted((directory / "jail.d").glob(f"*{ending}"))
