r"""Sample lines: files that say what a filter must make of lines, positive and negative, and what it makes of them.

    # filter: sshd                      (left out where the name of the file says it: sshd.txt)
    Nov 20 09:11:02 host sshd[7]: Failed password for root from 203.0.113.5 port 4711 ssh2
    => authn_login_fail 203.0.113.5 2026-11-20T09:11:02 user="root"

    Nov 20 09:11:02 host sshd[7]: Accepted password for root from 203.0.113.5 port 4711 ssh2
    => -

A line, and below it what the filter makes of it: `-` for nothing, else kind, address, time and details. A time with a
zone is that time, one without is this host's local time, and `-` is the time at which the line was read. Details that
are not named are not compared. `\e` in front of a bracket is the escape character that begins a colour. Lines that
begin with `#` and empty lines are passed over.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from appguard.errors import ConfigError
from appguard.event import Event
from appguard.filters.base import Filter, Named
from appguard.filters.open import open_filter, read_filter

READ_AT = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()  # when samples count as read: it gives the year
FILTER = re.compile(rb"# ?filter: (.+)")
DETAIL = re.compile(r" (\w+)=")
NEAR = 0.001


@dataclass(frozen=True, slots=True)
class Sample:
    """A line, what is expected of it, and where it stands."""

    number: int
    line: bytes
    expected: str


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one file and the filter they are for."""

    file: Path
    filter: Filter
    samples: tuple[Sample, ...]

    def wrong(self) -> list[str]:
        """Say of each sample that is not as expected where it stands, what was expected and what was found."""
        problems = ((each, problem_of(self.filter, each)) for each in self.samples)
        return [f"{self.file}:{each.number}: {problem}" for each, problem in problems if problem]


def read_samples(file: Path) -> Samples:
    """Read one file; raise `ConfigError`.

    Its filter is that of the line `# filter: ...`, else that of the data file of the same name beside it, else that of
    its own name.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    named, own = FILTER.search(text), file.with_suffix(".toml")
    try:
        if named is None and own.exists():
            made = read_filter(file.stem, own)
        else:
            made = open_filter(named[1].decode(errors="replace").strip() if named else file.stem)
    except ConfigError as error:
        raise ConfigError(f"{file}: filter: {error}") from error
    return Samples(file, made, tuple(_samples(file, text)))


def _samples(file: Path, text: bytes) -> Iterator[Sample]:
    numbered = enumerate(text.split(b"\n"), start=1)
    wanted = [(number, line) for number, line in numbered if line and not line.startswith(b"#")]
    if not wanted:
        raise ConfigError(f"{file}: no sample lines: expected lines, and below each '=> -' or '=> kind address time'")
    for (number, line), (below, expected) in zip(wanted[::2], [*wanted[1::2], (0, b"")], strict=False):
        if line.startswith(b"=> ") or not expected.startswith(b"=> "):
            raise ConfigError(
                f"{file}:{below or number}: expected a line and below it '=> -' or '=> kind address time'"
            )
        yield Sample(number, line.replace(rb"\e[", b"\x1b["), expected[3:].decode(errors="replace"))


def problem_of(made: Filter, sample: Sample) -> str:
    """Say what is not as the sample expects; empty if all is."""
    event = made.match(sample.line, READ_AT)
    if isinstance(event, Named):
        return f"expected {sample.expected}, found a client known by name only: {event.host}"
    found = _text(event)
    if event is None or sample.expected == "-":
        return "" if found == sample.expected else f"expected {sample.expected}, found {found}"
    kind, address, time, *_ = [*sample.expected.split(" ", 3), "", "", ""]
    try:
        details = _details(sample.expected.removeprefix(f"{kind} {address} {time}"))
        told = READ_AT if time == "-" else datetime.fromisoformat(time).timestamp()
    except ValueError as error:
        return f"cannot be read: {sample.expected}: {error}"
    right = (event.kind, event.address.text) == (kind, address) and abs(event.time - told) < NEAR
    different = [name for name, value in details.items() if _plain(getattr(event, name, None)) != value]
    if right and not different:
        return ""
    details_found = [f" {name}={json.dumps(_plain(getattr(event, name, None)))}" for name in different]
    return f"expected {sample.expected}, found {found}{''.join(details_found)}"


def _text(event: Event | None) -> str:
    if event is None:
        return "-"
    time = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{event.kind} {event.address} {time}"


def _plain(value: object) -> object:
    return list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value


def _details(text: str) -> dict[str, object]:
    """Read ` name=value name=value`, values as JSON; raise `ValueError`."""
    found: dict[str, object] = {}
    decoder = json.JSONDecoder()
    while text:
        name = DETAIL.match(text)
        if name is None:
            raise ValueError(f"expected ' name=value', not {text!r}")
        value, end = decoder.raw_decode(text, name.end())
        found[name[1]] = value
        text = text[end:]
    return found
