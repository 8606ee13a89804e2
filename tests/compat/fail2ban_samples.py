"""fail2ban's own annotated samples as records: a line, the filter and options to try it with, what must come of it.

`APPGUARD_FAIL2BAN_ROOT` is a source checkout (`config/filter.d`, `fail2ban/tests/files/logs`), or the directory in
which fail2ban is installed as a Python package (`tests/files/logs`), its configuration in `/etc/fail2ban`. Nothing of
it is copied: it is read when the test runs.

In a sample file `# failJSON: {...}` says what is expected of the next line, `# filterOptions:` with which options the
lines from there on are tried (each set on its own, each with a filter of its own), `# fileOptions:` what all of them
have in common, `# addFILE:` names a further file. Keys that begin with `test.` and the key `constraint` are for whoever
runs them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

ROOT = Path(os.environ.get("APPGUARD_FAIL2BAN_ROOT") or "/usr/lib/python3/dist-packages/fail2ban")
ANNOTATION = re.compile(r"^#+ ?(?:.*?# ?)?(failJSON|filterOptions|fileOptions|addFILE): *(.+)$")
Options = dict[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the filters are, those that fail2ban ships and those of its own tests, and the samples."""

    filters: Path
    test_filters: Path
    samples: Path

    def filter_file(self, name: str) -> Path:
        """Give the file of a filter."""
        directory = self.test_filters if name.startswith("zzz-") else self.filters
        return directory / f"{name}.conf"


def find_layout(root: Path = ROOT) -> Layout:
    """Find them below a source checkout or a directory of an installed package."""
    package = root / "fail2ban" if (root / "fail2ban" / "tests").is_dir() else root
    filters = root / "config" / "filter.d" if package != root else Path("/etc/fail2ban/filter.d")
    return Layout(filters, package / "tests" / "config" / "filter.d", package / "tests" / "files" / "logs")


@dataclass(frozen=True, slots=True)
class Record:
    """One sample line tried with one set of options."""

    filter: str
    options: Options
    line: bytes
    expected: Mapping[str, object]
    where: str

    @property
    def case(self) -> tuple[str, str]:
        """Name the filter whose state the record's line changes: records of one case belong together, in order."""
        return self.filter, json.dumps(self.options, sort_keys=True)


@dataclass
class _Reading:
    """What is in force at one place of a sample file."""

    options: list[dict[str, str]] = field(default_factory=lambda: [{}])
    common: dict[str, str] = field(default_factory=dict[str, str])
    expected: Mapping[str, object] | None = None
    further: list[str] = field(default_factory=list[str])

    def take(self, kind: str, value: object) -> None:
        """Take what an annotation says."""
        if kind == "failJSON":
            self.expected = cast("Mapping[str, object]", value)
        elif kind == "addFILE":
            self.further.append(str(value))
        elif kind == "fileOptions":
            self.common = cast("dict[str, str]", value)  # for the sets of options that follow, not for those in force
        else:
            sets = cast("list[dict[str, str]]", value if isinstance(value, list) else [value])
            self.options = [self.common | each for each in sets]


def records(layout: Layout) -> Iterator[Record]:
    """Give all records, the sample files in the order of their names."""
    for file in sorted(layout.samples.iterdir()):
        if file.is_file() and layout.filter_file(file.name).exists():
            yield from _records_of(file.name, layout)


def _records_of(name: str, layout: Layout) -> Iterator[Record]:
    queue = [name]
    reading = _Reading(further=queue)
    for file in queue:
        for number, line in enumerate((layout.samples / file).read_bytes().split(b"\n"), start=1):
            annotation = ANNOTATION.match(line.decode(errors="replace"))
            if annotation:
                reading.take(annotation[1], json.loads(annotation[2]))
            elif line.strip() and not line.startswith(b"#"):
                yield from _tried(name, line, reading, f"{file}:{number}")
                reading.expected = None


def _tried(name: str, line: bytes, reading: _Reading, where: str) -> Iterator[Record]:
    for options in reading.options:
        expected = dict(reading.expected or {"match": False})
        if not _holds(options.get("test.condition"), name, options):
            continue
        if not _holds(cast("str | None", expected.get("constraint")), name, options):
            continue
        prefix = options.get("test.prefix-line", "").encode()
        chosen = {key: value for key, value in options.items() if not key.startswith("test.")}
        yield Record(options.get("test.filter-name", name), chosen, prefix + line.rstrip(b"\r"), expected, where)


def _holds(condition: str | None, name: str, options: Options) -> bool:
    if condition is None:
        return True
    chosen = {key: value for key, value in options.items() if not key.startswith("test.")}
    return bool(eval(condition, {"__builtins__": {}}, {"name": name, "opts": chosen}))
