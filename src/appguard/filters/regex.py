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
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

from appguard.address import Address, parse_address
from appguard.briefs import NOTHING, UNREAD, Briefs, Row
from appguard.errors import AddressError, ConfigError
from appguard.event import LOGIN_FAIL, Event
from appguard.filters.base import Named, host_of
from appguard.filters.cascade import Cascade, without
from appguard.filters.connections import IDS, Connections, Joined, id_of
from appguard.filters.dates import DatePattern, FoundDate
from appguard.filters.expression import Budget, Expression, Groups, OverBudget
from appguard.filters.last_lines import LastLines, Line
from appguard.filters.literals import Literals, cut_anywhere, cut_between_words, literals_of, with_text
from appguard.filters.options import FilterOptions
from appguard.filters.patience import Patience
from appguard.filters.shapes import Read, Shapes
from appguard.filters.tags import expand, has_flag_within, plain_name

COLOUR_AS_TEXT = "#033["  # as syslog writes it; the raw byte is for who searches the log to heed
COLOUR = re.compile(r"(?:\x1b|#033)\[[0-9;]*[A-Za-z]")
LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
LETTER = re.compile("[A-Za-z]")
ID_LENGTH = 64  # characters that an address may take
WITHOUT_NAMES = ("no", "raw")

log = logging.getLogger("appguard")


class Hit(NamedTuple):
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
        self.options = options
        self.dates = _dates(options)
        self._kind = kind
        self._what = (kind, 0)
        self._prefix = _expressions("prefregex", [options.prefregex] if options.prefregex else [], options)
        self._failures = _expressions("failregex", options.failregex, options)
        self._ignored = _expressions("ignoreregex", options.ignoreregex, options)
        self.prefregex = self._prefix[0].pattern if self._prefix else ""
        self.failregexes = tuple(each.pattern for each in self._failures)
        self.ignoreregexes = tuple(each.pattern for each in self._ignored)
        _check_ids(self._prefix, self._failures)
        self.warnings = tuple(_warnings(options))
        self.patience = Patience(name)
        self.undated = 0  # lines that tell of a failure and no time, in a log that should tell it
        self.coloured = 0  # lines with colours in them
        self._connections = Connections()
        self._joins = any("mlfid" in map(plain_name, each.groups) for each in (*self._prefix, *self._failures))
        self._last_lines = LastLines(options.maxlines)

    @property
    def needs(self) -> Sequence[Sequence[Literals]]:
        """Give for each failure regex the sets of which a line, as it stands in the log, needs a text each.

        Empty if every line must be seen.
        """
        return self._sets

    @cached_property
    def _sets(self) -> tuple[tuple[Literals, ...], ...]:
        if self.options.maxlines > 1:
            return ()
        prefix = tuple(each.pattern for each in self._prefix)
        return tuple(_needs((*prefix, failure), self.dates) for failure in self.failregexes)

    @property
    def may_be_slow(self) -> bool:
        """Say that some line may take it long."""
        return True

    @property
    def complaint(self) -> str:
        """Say what is wrong with the filter, as its log shows; empty if nothing is."""
        undated = f"{self.undated} lines tell no time that it can read: they count as of now" if self.undated else ""
        return "; ".join(filter(None, (self.patience.complaint, undated)))

    @cached_property
    def _cascade(self) -> Cascade:
        return Cascade(self._prefix, self._failures, self._ignored, _flags(self.options))

    @cached_property
    def _shapes(self) -> Shapes:
        patterns = [each.pattern for each in (*self._prefix, *self._failures, *self._ignored)]
        return Shapes(patterns if self.options.maxlines == 1 else None, self.dates)

    def match(self, line: bytes, time: float) -> Event | Named | None:
        """Give the event of a line; most lines are of none."""
        told = self._shapes.told(line)
        if told is not None and told[0].is_settled:
            shape, text, date = told
            connection = shape.connection and text[shape.connection]
            if not connection or connection not in self._connections:
                if shape.who is None:
                    return None
                address = _address_of(text[shape.who])
                if address is not None:
                    seconds = self._seconds(date, time)
                    if connection and not shape.forgets:
                        self._connections.begin(connection, seconds, Read(*told))
                    return Event(self._kind, seconds, address, 1, "", text[shape.user])
        captured = self._searched(line, time) if told is None else self._remembered(Read(*told), time)
        joined = None if captured is None else self._joined(*captured)
        if captured is None or joined is None:
            return None
        address = _address_of(joined.id)
        if address is not None:
            return self._event(captured[1], joined.groups.get("user", ""), address)
        return self.event_of(_hit(joined, captured[1]))

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say what lines tell whose like has been searched before; see `TellsBriefly`."""
        return Briefs.unread(lines) if self._joins else Briefs.of_rows(map(self._brief, lines, times), lines)

    def _brief(self, line: bytes, time: float) -> Row:
        told = self._shapes.told(line)
        if told is None:
            return UNREAD
        shape, text, date = told
        if shape.who is None:
            return NOTHING
        seconds = (None if self.dates.expressions else time) if date is None else self.dates.seconds(date, time)
        return UNREAD if seconds is None else (self._what, host_of(text[shape.who]), seconds, "", ())

    def find(self, line: bytes, time: float) -> Hit | None:
        """Give the failure a line tells of."""
        return self._found(self.captured(line, time))

    def read(self, line: bytes) -> Read | None:
        """Read a line whose like has been searched before, without searching it."""
        return self._shapes.read(line)

    def find_in(self, read: Read, time: float) -> Hit | None:
        """Give the failure that such a line tells of."""
        return self._found(self._remembered(read, time))

    def _found(self, captured: tuple[Groups, float] | None) -> Hit | None:
        joined = None if captured is None else self._joined(*captured)
        return None if captured is None or joined is None else _hit(joined, captured[1])

    def _joined(self, groups: Groups, seconds: float) -> Joined | None:
        """Give the failure that groups lead to, together with other lines of their connection."""
        return self._connections.join(groups, seconds) if groups.get("mlfid") else _alone(groups)

    def captured(self, line: bytes, time: float) -> tuple[Groups, float] | None:
        """Give what the regexes captured in a line, before lines are joined, and when that was."""
        read = self._shapes.read(line)
        return self._searched(line, time) if read is None else self._remembered(read, time)

    def _remembered(self, read: Read, time: float) -> tuple[Groups, float] | None:
        return None if read.shape.groups is None else (read.groups(), self._seconds(read.date, time))

    def _seconds(self, date: FoundDate | None, time: float) -> float:
        """Give the time of a line by its date, if that tells one."""
        seconds = None if date is None else self.dates.seconds(date, time)
        self.undated += seconds is None and bool(self.dates.expressions)
        return time if seconds is None else seconds

    def _searched(self, line: bytes, time: float) -> tuple[Groups, float] | None:
        text = line.decode(errors="replace").replace("\n", " ").rstrip("\r")
        if "\x1b" in text or "#033" in text:
            text = self._without_colours(text)
        budget = self.patience.budget()
        try:
            date = self.dates.find(text, budget)
            if self.options.maxlines > 1:
                return self._captured_in_lines(Line(_without(text, date), date), time, budget)
            rest = _without(text, date)
            told = self._cascade.search(rest + "\n", budget)
        except OverBudget:
            self.patience.skip()
            return None
        self._shapes.learn(line, date, None if told is None else told.spans)
        if told is None:
            return None
        return {name: rest[start:end] for name, (start, end) in told.spans.items()}, self._seconds(date, time)

    def _captured_in_lines(self, line: Line, time: float, budget: Budget) -> tuple[Groups, float] | None:
        text = self._last_lines.add(line)
        told = self._cascade.search(text, budget)
        if told is None:
            return None
        groups = {name: text[start:end] for name, (start, end) in told.spans.items()}
        used = self._last_lines.take(None if self._prefix else told.match)
        dated = (self.dates.seconds(each.date, time) for each in reversed(used) if each.date)
        return groups, next((each for each in dated if each is not None), time)

    def event_of(self, hit: Hit) -> Event | Named | None:
        """Give the event of a failure, or what makes it once the addresses of its host name are known."""
        address, user = _address_of(hit.id), hit.groups.get("user", "")
        if address is not None:
            return self._event(hit.time, user, address)
        if LETTER.search(hit.id) and self.options.usedns not in WITHOUT_NAMES:
            return Named(hit.id, partial(self._event, hit.time, user))
        return None

    def _event(self, seconds: float, user: str, address: Address) -> Event:
        return Event(self._kind, seconds, address, 1, "", user)

    def _without_colours(self, text: str) -> str:
        plain = COLOUR.sub("", text)
        if plain != text:
            self.coloured += 1
            if self.coloured == 1:
                log.info("filter %s: the log has colours in it; they are left out", self.name)
        return plain


def _without(text: str, date: FoundDate | None) -> str:
    return text if date is None else without(text, date.place)


def _dates(options: FilterOptions) -> DatePattern:
    try:
        return DatePattern(("{NONE}",) if options.logtype == "journal" else options.datepattern)
    except ConfigError as error:
        raise ConfigError(f"datepattern: {error}") from error


def _expressions(name: str, patterns: Iterable[str], options: FilterOptions) -> tuple[Expression, ...]:
    try:
        expanded = [expand(pattern, options.usedns) for pattern in patterns]
        return tuple(Expression(each, _flags(options)) for each in expanded)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _needs(patterns: Iterable[str], dates: DatePattern) -> tuple[Literals, ...]:
    """Give what a line needs before its date and its colours are taken out of it."""
    kept = cut_between_words if dates.is_cut_between_words else cut_anywhere
    found = [kept(literals) for pattern in patterns for literals in literals_of(pattern)]
    return tuple(with_text(literals, COLOUR_AS_TEXT) for literals in found if literals)


def _flags(options: FilterOptions) -> int:
    return re.MULTILINE if options.maxlines > 1 else 0


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


def _alone(groups: Groups) -> Joined | None:
    id_ = id_of(groups) if groups.get("nofail") is None else ""
    return Joined(id_, groups, 1, (groups["user"],) if groups.get("user") else ()) if id_ else None


def _hit(joined: Joined, seconds: float) -> Hit:
    return Hit(joined.id, seconds, joined.attempts, joined.groups, joined.users)


def _address_of(id_: str) -> Address | None:
    """Give an address without what logs put around it: brackets, and zeros before its numbers."""
    return _short_address_of(id_) if len(id_) <= ID_LENGTH else None  # clients choose names, which would fill the memo


@lru_cache(maxsize=8192)
def _short_address_of(id_: str) -> Address | None:
    text = id_.strip("[]")
    plain = LEADING_ZEROS.sub("", text) if "." in text and ":" not in text else text
    try:
        return parse_address(plain)
    except AddressError:
        return None
