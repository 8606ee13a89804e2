"""One filter in fail2ban's dialect: `prefregex`, `failregex` and `ignoreregex` over the line without its date.

Theory of operation. The date is cut out of the line; what is left, with a line end, is searched. `prefregex` says what
the failure regexes get to see (`<F-CONTENT>`) and adds its groups to theirs. The first of the failure regexes that
matches tells of the failure, if no ignoreregex does: its id is `<F-ID>`, else the address, else a host name. Connection
ids are joined in `connections.py`; with `maxlines` the last lines are searched as one text, see `last_lines.py`.

A hit is an event of the kind that its jail names first in `events`: a regex cannot say what it means, its author can.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appguard.address import Address, parse_address
from appguard.errors import AddressError, ConfigError
from appguard.event import LOGIN_FAIL, Event
from appguard.filters.base import Named
from appguard.filters.connections import IDS, Connections, Groups, Joined
from appguard.filters.dates import DatePattern
from appguard.filters.expression import Budget, Expression, Found, OverBudget
from appguard.filters.last_lines import LastLines, Line
from appguard.filters.literals import Literals
from appguard.filters.options import FilterOptions
from appguard.filters.tags import expand, has_flag_within, plain_name

COLOUR = re.compile(r"(?:\x1b|#033)\[[0-9;]*[A-Za-z]")
ALTERNATIVE = re.compile(r"alt_([a-z]+)[0-9_]*")
LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
LETTER = re.compile("[A-Za-z]")
WITHOUT_NAMES = ("no", "raw")

log = logging.getLogger("appguard")


@dataclass(frozen=True, slots=True)
class Hit:
    """A failure that a line told of: who (an address or a name), when, all groups, and the user names tried.

    `attempts` is the number of lines of its connection that led to it. It counts once all the same, as fail2ban counts:
    several lines of a log often tell of one attempt.
    """

    id: str
    time: float
    attempts: int
    groups: Mapping[str, str]
    users: tuple[str, ...]


class RegexFilter:
    """Reads lines as fail2ban would. Raise `ConfigError` for a regex that is none or finds nobody.

    `prefregex`, `failregexes` and `ignoreregexes` are the Python regexes that the options mean; they search the line
    without its date (`dates`). `warnings` are what the filter's author should hear.
    """

    def __init__(self, name: str, options: FilterOptions, kind: str = LOGIN_FAIL) -> None:
        self.name = name
        self.needs: Sequence[Sequence[Literals]] = ()
        self.options = options
        self.dates = _dates(options)
        self._kind = kind
        self._prefix = _expressions("prefregex", [options.prefregex] if options.prefregex else [], options)
        self._failures = _expressions("failregex", options.failregex, options)
        self._ignored = _expressions("ignoreregex", options.ignoreregex, options)
        self.prefregex = self._prefix[0].pattern if self._prefix else ""
        self.failregexes = tuple(each.pattern for each in self._failures)
        self.ignoreregexes = tuple(each.pattern for each in self._ignored)
        _check_ids(self._prefix, self._failures)
        self.warnings = tuple(_warnings(options))
        self.skipped = 0  # lines that took too long
        self.coloured = 0  # lines with colours in them
        self._connections = Connections()
        self._last_lines = LastLines(options.maxlines)

    def match(self, line: bytes, time: float) -> Event | Named | None:
        """Give the event of a line; most lines are of none."""
        hit = self.find(line, time)
        return None if hit is None else self.event_of(hit)

    def find(self, line: bytes, time: float) -> Hit | None:
        """Give the failure a line tells of."""
        text = line.decode(errors="replace").replace("\n", " ").rstrip("\r")
        if "\x1b" in text or "#033" in text:
            text = self._without_colours(text)
        try:
            return self._hit(text, time, Budget())
        except OverBudget:
            self._skip()
            return None

    def _hit(self, text: str, time: float, budget: Budget) -> Hit | None:
        date = self.dates.find(text, budget)
        if date is not None:
            text = text[: date.start] + text[date.end :]
        found = self._search(self._last_lines.add(Line(text, date)), budget)
        if found is None:
            return None
        match, groups = found
        told = self._last_lines.take(match) if not self._prefix else self._last_lines.take_all()
        dated = (self.dates.seconds(each.date, time) for each in reversed(told) if each.date)
        seconds = next((each for each in dated if each is not None), time)
        joined = self._connections.join(groups, seconds) if groups.get("mlfid") else _alone(groups)
        return None if joined is None else _hit_of(joined, seconds)

    def _search(self, text: str, budget: Budget) -> tuple[Found, Groups] | None:
        groups: Groups = {}
        for prefix in self._prefix:
            found = prefix.search(text, budget)
            if found is None:
                return None
            groups = _groups_of(found)
            text = groups.pop("content", text.removesuffix("\n")) + "\n"
        for failure in self._failures:
            found = failure.search(text, budget)
            if found is not None:
                is_ignored = any(each.search(text, budget) for each in self._ignored)
                return None if is_ignored else (found, groups | _groups_of(found))
        return None

    def event_of(self, hit: Hit) -> Event | Named | None:
        """Give the event of a failure, or what makes it once the addresses of its host name are known."""

        def event(address: Address) -> Event:
            return Event(self._kind, hit.time, address, user=hit.groups.get("user", ""))

        try:
            return event(parse_address(_plain_address(hit.id)))
        except AddressError:
            is_name = LETTER.search(hit.id) and self.options.usedns not in WITHOUT_NAMES
            return Named(hit.id, event) if is_name else None

    def _without_colours(self, text: str) -> str:
        plain = COLOUR.sub("", text)
        if plain != text:
            self.coloured += 1
            if self.coloured == 1:
                log.info("filter %s: the log has colours in it; they are left out", self.name)
        return plain

    def _skip(self) -> None:
        self.skipped += 1
        if self.skipped == 1:
            log.warning("filter %s: a line takes too long for its regexes and is skipped, as all such lines", self.name)


def _dates(options: FilterOptions) -> DatePattern:
    try:
        return DatePattern(("{NONE}",) if options.logtype == "journal" else options.datepattern)
    except ConfigError as error:
        raise ConfigError(f"datepattern: {error}") from error


def _expressions(name: str, patterns: Iterable[str], options: FilterOptions) -> tuple[Expression, ...]:
    try:
        expanded = [expand(pattern, options.usedns) for pattern in patterns]
        return tuple(Expression(each, re.MULTILINE if options.maxlines > 1 else 0) for each in expanded)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _check_ids(prefix: Sequence[Expression], failures: Sequence[Expression]) -> None:
    if not failures:
        raise ConfigError("failregex is missing: nothing would ever match")
    known = {group for each in prefix for group in each.groups}
    for each in failures:
        if not {plain_name(group) for group in each.groups | known} & {*IDS, "mlfid"}:
            raise ConfigError(f"failregex {each.pattern!r} finds nobody: it needs <HOST>, <ADDR> or <F-ID>")


def _warnings(options: FilterOptions) -> Iterable[str]:
    for name in ("prefregex", "failregex", "ignoreregex"):
        value = getattr(options, name)
        for pattern in (value,) if isinstance(value, str) else value:
            if has_flag_within(pattern):
                where = "in the middle: it holds to the end of its group"
                yield f"{name} {pattern[:200]!r} has a flag such as (?i) {where}"


def _groups_of(found: Found) -> Groups:
    """Give the groups that took part, an alternative (`<F-ALT_USER>`) under the name it stands for."""
    groups: Groups = {}
    for group, value in found.groupdict().items():
        if value is not None:
            name = plain_name(group)
            groups[name] = groups.get(name) or value
    for name in [name for name in groups if name.startswith("alt_")]:
        meant = ALTERNATIVE.fullmatch(name)
        value = groups.pop(name)
        if meant:
            groups[meant[1]] = groups.get(meant[1]) or value
    return groups


def _alone(groups: Groups) -> Joined | None:
    if groups.get("nofail") is not None:
        return None
    return Joined(groups, 1, (groups["user"],) if groups.get("user") else ())


def _hit_of(joined: Joined, seconds: float) -> Hit | None:
    id_ = next((joined.groups[key] for key in IDS if joined.groups.get(key)), "")
    return Hit(id_, seconds, joined.attempts, joined.groups, joined.users) if id_ else None


def _plain_address(text: str) -> str:
    """Give an address without what logs put around it: brackets, and zeros before its numbers."""
    text = text.strip("[]")
    return LEADING_ZEROS.sub("", text) if "." in text and ":" not in text else text
