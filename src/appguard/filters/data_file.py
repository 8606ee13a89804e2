r"""Filters that are data: a TOML file of regular expressions, our own in `data/`, a user's anywhere.

    description = "What it reads, and what it cannot."
    time = ["syslog", "iso"]                # forms of the group `time`, as `times.py` names them
    warnings = ["Said when the daemon starts."]
    head = '(?P<time>[^ ]++) app: '         # what all lines begin with; may be left out
    [[line]]                                # any number; the first that fits is taken
    kind = "authn_login_fail"               # or "by_status": what an access log's status says
    regex = 'bad password for (?P<user>.*) from (?P<address>[0-9A-Fa-f:.]++)'

Theory of operation. `head`, then one `regex` behind it must fit the whole line, from its first character to its last:
nothing is searched for, so nothing that a client has written into the middle of a line is taken for the line. Where a
text that a client chose stands before the address, the greedy `.*` and the fixed end of the line put the boundary where
the program put it. Our own regular expressions are linear: possessive (`++`) wherever the next character says where a
field ends. A user's have a budget, as all regexes of others (`expression.py`). A line with `cut = true` is for those
that were cut off at their end, and fits only a line so long. Colours of a terminal are taken out before. A group is a
field of `fields.py`; a line without a time was written now.
"""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from appguard.briefs import NOTHING, UNREAD, Briefs, Row
from appguard.errors import ConfigError
from appguard.event import LINE_MOST, Event, What
from appguard.filters.base import host_of
from appguard.filters.expression import Expression, OverBudget
from appguard.filters.fields import BY_STATUS, FIELDS, check_kind, event_of, may_be_cut, rest_of
from appguard.filters.literals import literals_of
from appguard.filters.patience import Patience
from appguard.filters.tags import pieces_of, with_local_flags
from appguard.filters.times import check_forms, seconds_of

DATA = Path(__file__).with_name("data")
COLOUR = re.compile(r"\x1b\[[0-9;]*+m")
FLAGS = re.DOTALL | re.ASCII
KEYS = {"description": str, "time": list, "warnings": list, "head": str, "line": list}
MORE = {"status", "method", "path", "request", "count"}  # groups with more than is told in brief
LINE_KEYS = {"kind": str, "regex": str, "cut": bool}
GROUP = re.compile(r"\(\?P<(\w+)")
LINEAR = "^"  # costs as little as our own regular expressions do


@dataclass(frozen=True, slots=True)
class Form:
    """One form of line: the kind of event it tells of, and the rest of the line behind the head."""

    kind: str
    regex: Expression
    is_cut: bool = False

    def what(self, head: Expression) -> What | None:
        """Say what its event is in brief: if it is of one kind, with its time in the head and nothing jails look at."""
        is_usual = "address" in self.regex.groups ^ head.groups and "time" not in self.regex.groups
        is_usual = is_usual and not MORE & (self.regex.groups | head.groups)
        return (self.kind, 0) if is_usual and self.kind != BY_STATUS else None


class United:
    """All forms of one of our own filters as one expression.

    The name of the last group that took part says which form it was: `whats` has what that tells in brief, and the
    groups of the address and of the time, the latter empty if no line tells it.
    """

    def __init__(self, head: Expression, forms: Sequence[Form]) -> None:
        tried: list[str] = []
        self.whats: dict[str | None, tuple[What | None, str, str]] = {}
        for number, form in enumerate(forms):
            name = f"form{number}"
            tried.append(GROUP.sub(rf"(?P<{name}_\1", form.regex.pattern) + f"(?P<{name}>)")
            address = "address" if "address" in head.groups else f"{name}_address"
            self.whats[name] = form.what(head), address, "time" if "time" in head.groups else name
        self.fit = re.compile(f"(?>{head.pattern})(?:{'|'.join(tried)})", FLAGS).fullmatch


class DataFilter:
    """Reads lines by regular expressions."""

    def __init__(self, name: str, head: Expression, forms: Sequence[Form], time_forms: Sequence[str] = ()) -> None:
        self.name = name
        self.patience = Patience(name)
        self.description = ""
        self.warnings: tuple[str, ...] = ()
        self.rest = ""
        self._head = head
        self._forms = tuple(form for form in forms if not form.is_cut)
        self._cut = tuple(form for form in forms if form.is_cut)
        self._time_forms = tuple(time_forms)
        self.may_be_slow = any(each.costs_like != LINEAR for each in self.regexes)
        is_of_use = not self.may_be_slow and any(form.what(head) for form in self._forms)
        self._united = United(head, self._forms) if is_of_use else None
        self._when = lru_cache(maxsize=1024)(self._seconds)
        of_head = literals_of(head.pattern, FLAGS)
        self.needs = tuple((*of_head, *literals_of(form.regex.pattern, FLAGS)) for form in self._forms)

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line."""
        text = line.decode(errors="replace")
        if "\x1b" in text:
            text = COLOUR.sub("", text)
        try:
            return self._event(text, time, may_be_cut(line))
        except OverBudget:
            self.patience.skip()
            return None

    def _event(self, text: str, time: float, may_be_cut: bool) -> Event | None:
        budget = self.patience.budget()
        head = self._head.match(text, budget)
        if head is None:
            return None
        begin = head.span()[1]
        for form in (*self._forms, *self._cut) if may_be_cut else self._forms:
            found = form.regex.fullmatch(text, begin, budget)
            if found is not None:
                fields = {**head.groupdict(), **found.groupdict()}
                told = self._told(fields, time)
                return event_of(form.kind, told, fields, rest=self.rest, is_cut=form.is_cut)
        return None

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say what common lines tell, of each; see `TellsBriefly`."""
        united = self._united
        if united is None:
            return Briefs.unread(lines)
        return Briefs.of_rows((self._brief(united, line, time) for line, time in zip(lines, times, strict=True)), lines)

    def _brief(self, united: United, line: bytes, now: float) -> Row:
        if len(line) >= LINE_MOST or b"\x1b" in line:
            return UNREAD
        found = united.fit(line.decode("latin-1"))  # what is asked for below is ASCII
        if found is None:
            return NOTHING
        what, of_address, of_time = united.whats[found.lastgroup]
        if what is None:
            return UNREAD
        address, time = found.group(of_address, of_time)
        told = self._when(time, now) if time else now
        return UNREAD if told is None else (what, host_of(address), told, "", ())

    @property
    def complaint(self) -> str:
        """Say what is wrong with the filter, as its log shows; empty if nothing is."""
        return self.patience.complaint

    @property
    def regexes(self) -> tuple[Expression, ...]:
        """Give the regular expressions: that of the head, then those of the lines."""
        return (self._head, *(form.regex for form in (*self._forms, *self._cut)))

    def _told(self, fields: Mapping[str, str | None], now: float) -> float | None:
        text = fields.get("time")
        return now if text is None else self._when(text, now)

    def _seconds(self, text: str, now: float) -> float | None:
        return seconds_of(text, self._time_forms, now)


def compiled(regex: str, end: str = "", *, is_ours: bool = False) -> Expression:
    """Compile a regular expression that matches up to `end`; raise `ConfigError`."""
    any_char = "".join(r"[\s\S]" if piece == "." else piece for piece in pieces_of(regex))  # as `DOTALL` has it
    judged = LINEAR if is_ours else with_local_flags(rf"\A(?:{any_char}){end}")
    found = Expression(regex, FLAGS, judged)
    unknown = found.groups - set(FIELDS)
    if unknown:
        raise ConfigError(f"regex {regex!r}: group {min(unknown)!r}: expected one of {', '.join(FIELDS)}")
    return found


def read_table(file: Path) -> dict[str, object]:
    """Read a file of TOML; raise `ConfigError`."""
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error


def data_filter(
    name: str, table: Mapping[str, object], kinds: Collection[str] = (), *, is_ours: bool = False
) -> DataFilter:
    """Make the filter that a table says; raise `ConfigError`. What `is_ours` is known to be quick."""
    check_keys(table, KEYS)
    times = _texts(table, "time")
    check_forms(times)
    head = compiled(str(table.get("head", "")), is_ours=is_ours)
    forms = [_form(each, is_ours=is_ours) for each in cast("list[object]", table.get("line", []))]
    if not forms:
        raise ConfigError("[[line]] is missing: give at least one regex and the kind of event it tells of")
    for form in forms:
        _refuse_what_cannot_work(head, form, times)
    made = DataFilter(name, head, forms, times)
    made.rest = rest_of(kinds)
    made.description, made.warnings = str(table.get("description", "")), _texts(table, "warnings")
    return made


def check_keys(table: Mapping[str, object], keys: Mapping[str, type]) -> None:
    """Raise `ConfigError` for a key that there is not, and for a value of another type."""
    for key, value in table.items():
        if key not in keys:
            raise ConfigError(f"unknown key {key!r}: known keys are {', '.join(sorted(keys))}")
        if not isinstance(value, keys[key]):
            raise ConfigError(f"{key} = {value!r}: expected a {keys[key].__name__}")


def _texts(table: Mapping[str, object], key: str) -> tuple[str, ...]:
    found = cast("list[object]", table.get(key, []))
    if not all(isinstance(each, str) for each in found):
        raise ConfigError(f"{key} = {found!r}: expected a list of texts")
    return tuple(map(str, found))


def _form(table: object, *, is_ours: bool) -> Form:
    if not isinstance(table, Mapping):
        raise ConfigError(f"line = {table!r}: expected a table with kind and regex")
    found = cast("Mapping[str, object]", table)
    check_keys(found, LINE_KEYS)
    if "regex" not in found:
        raise ConfigError("[[line]]: regex is missing")
    regex = compiled(str(found["regex"]), r"\Z", is_ours=is_ours)
    return Form(check_kind(found.get("kind")), regex, bool(found.get("cut", False)))


def _refuse_what_cannot_work(head: Expression, form: Form, times: Sequence[str]) -> None:
    groups = head.groups | form.regex.groups
    if "address" not in groups:
        raise ConfigError(f"regex {form.regex.pattern!r}: no group (?P<address>...): an event is somebody's")
    if "time" in groups and not times:
        raise ConfigError("there is a group 'time', but time, its form, is missing")
    if form.kind == BY_STATUS and "status" not in groups and not form.is_cut:
        raise ConfigError(f"regex {form.regex.pattern!r}: kind 'by_status' needs a group (?P<status>...)")
