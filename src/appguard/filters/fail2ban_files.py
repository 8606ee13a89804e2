"""The files a fail2ban configuration is made of, read and merged into sections; nothing in them is expanded yet.

Theory of operation. `X.conf`, `X.d/*.conf`, `X.local` and `X.d/*.local` are read in this order, and around each of them
the files that its section `[INCLUDES]` names in `before` and `after`. What comes later wins, option by option; the
value it replaces stays readable as `known/option`. A section `Init?family=inet6` is no section: its options join
`[Init]` as `option?family=inet6`.
"""

import configparser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appguard.errors import ConfigError

DEFAULT = "DEFAULT"
INCLUDES = "INCLUDES"
FILES_MOST = 200

Options = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sections:
    """The options of all sections as they were written, and for each section the values that were replaced."""

    options: dict[str, Options] = field(default_factory=dict[str, Options])
    known: dict[str, Options] = field(default_factory=dict[str, Options])

    def has(self, section: str, option: str) -> bool:
        """Say whether a section itself sets an option."""
        return option in self.options.get(section, {})

    def merge(self, section: str, added: Mapping[str, str]) -> None:
        """Add the options of one more file."""
        section, question, condition = section.partition("?")
        there = self.options.setdefault(section, {})
        known = self.known.setdefault(section, {})
        for option, value in added.items():
            name = f"{option}{question}{condition}"
            if name in there:
                earlier = known.get(name, "")
                known[name] = there[name].replace(f"%(known/{name})s", earlier)
            there[name] = value


def read_sections(base: Path) -> Sections:
    """Read `base`.conf with all that belongs to it; raise `ConfigError`."""
    found = Sections()
    seen: set[Path] = set()
    files = [file for start in _files_of(base) for file in _with_includes(start, seen)]
    if not files:
        raise ConfigError(f"{base}.conf: there is no such file")
    for sections in files:
        for section, options in sections.items():
            if section != INCLUDES:
                found.merge(section, options)
    return found


def _files_of(base: Path) -> Iterator[Path]:
    for ending in (".conf", ".local"):
        yield base.with_name(base.name + ending)
        yield from sorted(base.with_name(f"{base.name}.d").glob(f"*{ending}"))


def _with_includes(file: Path, seen: set[Path]) -> Iterator[dict[str, Options]]:
    """Give the sections of a file and of all files it includes, in the order in which they are merged."""
    if file in seen:
        return
    seen.add(file)
    if len(seen) > FILES_MOST:
        raise ConfigError(f"{file}: more than {FILES_MOST} files include each other")
    sections = _parse(file)
    if sections is None:
        return
    includes = sections.get(INCLUDES, {})
    for included in _included(file, includes.get("before", "")):
        yield from _with_includes(included, seen)
    yield sections
    for included in _included(file, includes.get("after", "")):
        yield from _with_includes(included, seen)


def _included(file: Path, names: str) -> Iterator[Path]:
    for name in filter(None, map(str.strip, names.splitlines())):
        path = file.parent / name
        yield path
        if path.suffix == ".conf":
            yield path.with_suffix(".local")


def _parse(file: Path) -> dict[str, Options] | None:
    """Give the sections of one file, None where there is none."""
    parser = configparser.RawConfigParser(default_section="\0", inline_comment_prefixes=(";",))
    try:
        with file.open(encoding="utf-8") as opened:
            parser.read_file(opened)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (configparser.Error, ValueError) as error:  # not UTF-8, or a name with a NUL byte
        raise ConfigError(f"{file}: {str(error).splitlines()[0]}") from error
    return {section: dict(parser.items(section)) for section in parser.sections()}
