"""Tries a filter on lines and counts what becomes of them, as people who write regexes want to see it.

Theory of operation. Whether a line tells of a failure, the filter itself says: what is shown here is what the daemon
does. Beside it every expression of a filter in fail2ban's dialect is searched on its own, because the filter stops at
the first that matches. A line is matched if it is part of a failure, or of one whose address another line will tell;
ignored if a failregex matched, but an ignoreregex did too or the line is no failure by itself; missed otherwise. Of our
own filters the events are counted by kind.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from appguard.event import Event
from appguard.filters.base import Filter, Named
from appguard.filters.cascade import without
from appguard.filters.choice import Choice
from appguard.filters.dates import FoundDate
from appguard.filters.expression import Budget, Expression, Found, OverBudget
from appguard.filters.last_lines import LastLines, Line
from appguard.filters.regex import COLOUR, Hit, RegexFilter
from appguard.filters.shapes import SHAPES_MOST, Read, Shape
from appguard.filters.tags import plain_name

LINES = 20  # whose cost all expressions of a line may have: more than the filter, which stops at the first
SEARCHED_AT_START = 0
DIGITS = str.maketrans("0123456789", "0" * 10)
FORMS_MOST = 1_000
NO_LINE = Line("", None)
STRPTIME = {"epoch": "{EPOCH}", "tai": "TAI64N"}


@dataclass(frozen=True, slots=True)
class Told:
    """A failure or an event: of whom (an address or a name), when, of which kind or regex, and what else is known.

    `address` is empty where only a name is known, or what cannot be banned.
    """

    id: str
    time: float
    address: str
    user: str
    details: Mapping[str, object]


@dataclass(slots=True)
class Tally:
    """One expression, or one kind of event: how often it was found, and for the first `most` times in what."""

    text: str
    hits: int = 0
    told: list[Told] = field(default_factory=list[Told])


@dataclass(slots=True)
class Lines:
    """How many lines of one sort there were, and the first `most` of them."""

    most: int | None
    count: int = 0
    kept: list[bytes] = field(default_factory=list[bytes])

    def add(self, line: bytes) -> None:
        """Count a line."""
        self.count += 1
        if self.most is None or len(self.kept) < self.most:
            self.kept.append(line)


class Trial:
    """What one filter made of the lines it was given. `most` lines of each sort are kept, all if None."""

    def __init__(self, made: Filter, *, most: int | None = 20, told_most: int = 0) -> None:
        self.filter = made
        self.prefixes: list[Tally] = []
        self.failures: list[Tally] = []
        self.ignores: list[Tally] = []
        self.dates: Counter[str] = Counter()
        self.matched, self.ignored, self.missed = Lines(most), Lines(most), Lines(most)
        self._told_most = told_most
        self._add: Callable[[bytes, float], Told | None] = self._add_event
        if isinstance(made, RegexFilter):
            self._searches = _Searches(made)
            self.prefixes = [Tally(text) for text in [made.options.prefregex] if text]
            self.failures = list(map(Tally, made.options.failregex))
            self.ignores = list(map(Tally, made.options.ignoreregex))
            self._add = self._add_searched

    @property
    def lines(self) -> int:
        """Give the number of lines."""
        return self.matched.count + self.ignored.count + self.missed.count

    def add(self, line: bytes, time: float) -> Told | None:
        """Try a line that was written about `time`; give what it tells of."""
        return self._add(line, time)

    def end(self) -> None:
        """Count the lines that were kept for what might have followed them."""
        for line in self._searches.close() if isinstance(self.filter, RegexFilter) else ():
            self.missed.add(line)

    def _add_event(self, line: bytes, time: float) -> Told | None:
        event = self.filter.match(line, time)
        if event is None:
            self.missed.add(line)
            return None
        self.matched.add(line)
        told = _told_of(event)
        kind = str(told.details.get("kind", ""))
        tally = next((each for each in self.failures if each.text == kind), None)
        if tally is None:
            self.failures.append(tally := Tally(kind))
        self._count(tally, told)
        return told

    def _add_searched(self, line: bytes, time: float) -> Told | None:
        assert isinstance(self.filter, RegexFilter)
        read = self.filter.read(line)
        if read is None:
            date, found = self._searches.search(line)
            hit = self.filter.find(line, time)
        else:
            date, found = self._searches.search_in(read, line)
            hit = self.filter.find_in(read, time)
        told = None if hit is None else _told_of_hit(self.filter, hit)
        self._note(date, found, told)
        lines, sort = (self._searches.take(found) if hit else [line]), self.matched
        if hit is None and not found.is_waiting:
            lines, sort = ([line], self.ignored) if found.failures else ([], self.missed)
        for each in lines:
            sort.add(each)
        for each in self._searches.forget(is_done=bool(lines) and hit is None):
            self.missed.add(each)
        return told

    def _note(self, date: str, found: "_Seen", told: Told | None) -> None:
        """Count what the expressions found in a line that tells of this."""
        if date:
            self.dates[date] += 1
        for tally in self.prefixes if found.has_prefix else ():
            tally.hits += 1
        for number in found.ignores:
            self.ignores[number].hits += 1
        for number in () if found.ignores else found.failures:
            self._count(self.failures[number], told)

    def _count(self, tally: Tally, told: Told | None) -> None:
        tally.hits += 1
        if told is not None and len(tally.told) < self._told_most:
            tally.told.append(told)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the expressions of a filter found in a line: the numbers of those that matched, and what the first found."""

    has_prefix: bool = False
    failures: Sequence[int] = ()
    ignores: Sequence[int] = ()
    match: Found | None = None
    is_waiting: bool = False  # it is a failure of somebody whom another line of its connection names
    is_unknown: bool = False  # it took too long to find out


class _Searches:
    """Every expression of a filter, searched in the last lines."""

    def __init__(self, made: RegexFilter) -> None:
        flags = re.MULTILINE if made.options.maxlines > 1 else 0
        self._dates = made.dates
        self._prefix = Expression(made.prefregex, flags) if made.prefregex else None
        failures = [Expression(each, flags) for each in made.failregexes]
        self._numbers = {each: number for number, each in enumerate(failures)}
        self._choice = Choice(failures, flags)
        self._ignores = [Expression(each, flags) for each in made.ignoreregexes]
        self._most = made.options.maxlines
        self._known: dict[int, tuple[Shape, _Seen]] = {}
        self._default_dates = not made.options.datepattern
        self._last_lines = LastLines(self._most)
        self._forms: dict[tuple[object, ...], str] = {}
        self._last_form: tuple[FoundDate | None, str] = (None, "")
        self._open: list[tuple[Line, bytes]] = []  # lines that may yet become part of a failure

    def search_in(self, read: Read, line: bytes) -> tuple[str, _Seen]:
        """Do as `search`, of a line whose like may be known."""
        known = self._known.get(id(read.shape))
        if known is not None:
            self._open.append((NO_LINE, line))
            return self._form_of(read.date), known[1]
        form, seen = self.search(line)
        if len(self._known) >= SHAPES_MOST:
            self._known.clear()
        if not seen.is_unknown:
            self._known[id(read.shape)] = read.shape, seen
        return form, seen

    def search(self, line: bytes) -> tuple[str, _Seen]:
        """Search a line and what is kept of those before it; give the form of its date too."""
        text = line.decode(errors="replace").replace("\n", " ").rstrip("\r")
        if "\x1b" in text or "#033" in text:
            text = COLOUR.sub("", text)
        budget = Budget(LINES)
        try:
            date = self._dates.find(text, budget)
            rest = without(text, None if date is None else date.place)
            self._open.append((Line(rest, date), line))
            seen = self._expressions(self._last_lines.add(self._open[-1][0]), budget)
        except OverBudget:
            self._open.append((NO_LINE, line))
            return "", _Seen(is_unknown=True)
        return self._form_of(date), seen

    def _expressions(self, text: str, budget: Budget) -> _Seen:
        if self._prefix is not None:
            prefix = self._prefix.search(text, budget)
            if prefix is None:
                return _Seen()
            content = next((each for name, each in prefix.groupdict().items() if plain_name(name) == "content"), None)
            text = (text.removesuffix("\n") if content is None else content) + "\n"
        found = {each: match for each in self._choice.of(text) if (match := each.search(text, budget))}
        failures = [self._numbers[each] for each in found]
        ignores = [number for number, each in enumerate(self._ignores) if failures and each.search(text, budget)]
        first = next(iter(found.values()), None)
        is_waiting = first is not None and not ignores and _may_wait(first)
        return _Seen(self._prefix is not None, failures, ignores, first, is_waiting)

    def take(self, seen: _Seen) -> list[bytes]:
        """Give the lines that a failure is made of, and forget them."""
        if seen.match is None or self._most == 1:  # None: a line that took too long here and not in the filter
            return [self._open.pop()[1]]
        taken = self._last_lines.take(None if self._prefix else seen.match)
        lines = [line for each, line in self._open if any(each is one for one in taken)]
        self._open = [pair for pair in self._open if not any(pair[0] is one for one in taken)]
        return lines

    def forget(self, *, is_done: bool) -> list[bytes]:
        """Give the lines that cannot become part of a failure any more; with `is_done` the last has been counted."""
        if is_done:
            self._open.pop()
        gone = len(self._open) - self._most + 1
        lines, self._open = [line for _, line in self._open[: max(0, gone)]], self._open[max(0, gone) :]
        return lines

    def close(self) -> list[bytes]:
        """Give all lines that are left."""
        lines, self._open = [line for _, line in self._open], []
        return lines

    def _form_of(self, date: FoundDate | None) -> str:
        """Give a date's form; dates that look alike have one, but for which of two numbers is the day."""
        if date is None or date is self._last_form[0]:
            return self._last_form[1] if date else ""
        found = date.match.string[slice(*date.place)]
        key = (date.search, found.translate(DIGITS), found[:2] > "12", found[3:5] > "12")
        if key not in self._forms:
            if len(self._forms) >= FORMS_MOST:
                self._forms.clear()
            self._forms[key] = self._written(date)
        self._last_form = date, self._forms[key]
        return self._forms[key]

    def _written(self, date: FoundDate) -> str:
        """Write a date's form as a `datepattern` would: each part that means something as its directive."""
        text = date.match.string
        parts = [
            (*date.match.span(name), STRPTIME.get(letter, f"%{letter}"))
            for name, value in date.match.groupdict().items()
            if value and (letter := name.partition("_")[0]) != "date" and (len(letter) == 1 or letter in STRPTIME)
        ]
        written, (position, end_of_date) = "", date.place
        for start, end, directive in sorted(parts):
            written += text[position:start].replace("%", "%%") + directive
            position = end
        is_at_start = self._default_dates and date.search == SEARCHED_AT_START
        return ("{^LN-BEG}" if is_at_start else "") + written + text[position:end_of_date].replace("%", "%%")


def _may_wait(found: Found) -> bool:
    """Say whether what a failregex found is a failure, if of nobody that is known yet."""
    groups = {plain_name(name) for name, value in found.groupdict().items() if value is not None}
    return not groups & {"nofail", "mlfgained"}


def _told_of(event: Event | Named) -> Told:
    if isinstance(event, Named):
        return Told(event.host, 0.0, "", "", {})
    details = {name: value for name, value in event._asdict().items() if name not in ("address", "time")}
    told = {name: value for name, value in details.items() if value not in ("", (), 0)}
    return Told(event.address.text, event.time, event.address.text, event.user, told)


def _told_of_hit(made: RegexFilter, hit: Hit) -> Told:
    event = made.event_of(hit)
    address = event.address.text if isinstance(event, Event) else ""
    return Told(hit.id, hit.time, address, hit.groups.get("user", ""), dict(hit.groups))
