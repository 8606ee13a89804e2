r"""Finds the date in a log line: what to cut out before the regexes look at it, and which time it tells.

Theory of operation. Without a `datepattern` the known formats are looked for at the beginning of the line, up to two
characters that belong to no word before it; then where access logs have it, since what stands before it there is the
client's choice; then anywhere between words. All formats are one regex. A `datepattern` is a regex with `strptime`
directives, fail2ban's special words (`{^LN-BEG}`, `{UNB}`, `{DATE}`, `{DEFAULT}`, `{NONE}`, `{EPOCH}`, `{LEPOCH}`,
`TAI64N`) and word boundaries at both ends, unless it begins or ends otherwise (`^`, `$`, `**`). If it has a group, only
the group is the date. What is found stays a match until somebody asks for its time: most lines tell of no event.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appguard.filters.date_fields import seconds_of, with_groups
from appguard.filters.date_memo import DateMemo, piece_of, reach_of
from appguard.filters.expression import Budget, Expression, Found, OverBudget, compiled, quickest

LONG_EPOCH = r"(?P<epoch>[0-9]{10,11}(?:\.[0-9]{1,9}|[0-9]{3}(?:[0-9]{3})?)?)"
EPOCH = r"(?P<epoch>[0-9]{10,11}(?:\.[0-9]{1,9})?)"
TAI64N = "@(?P<tai>4[0-9a-f]{15})[0-9a-f]{8}"
CLOCK = "%ExH:%ExM:%ExS"
BY_DIGIT = (
    r"%ExY(?P<between>[-/.])%m(?P=between)%d[T ]%k:%ExM:%ExS(?:[.,]%f)?(?:\s*%z)?",
    rf"%d[ -]%b[ -]%ExY {CLOCK}(?:[.,]%f)?(?: %z)?",
    rf"%d(?P<between>[-/])%m(?P=between)(?:%ExY|%Exy) {CLOCK}",
    rf"%d/%b[^/:\s]{{0,9}}/%ExY:{CLOCK}(?: %z)?",
    rf"%d/%b/%ExY {CLOCK}",
    rf"%m/%d/%ExY:{CLOCK}",
    rf"%m-%d-%ExY {CLOCK}(?:\.%f)?",
    r"%Exy%Exm%Exd  ?%k:%ExM:%ExS",
    r"%ExY%Exm%Exd(?:[T-]|  ?)%ExH:?%ExM:?%ExS(?:[.,]%f)?(?:\s*%z)?",
)
BY_LETTER = (
    rf"(?:%a,? )?%b %d (?:%ExY )?{CLOCK}(?:\.%f)?(?: %ExY)?",
    rf"%a,? %d[ -]%b[ -]%ExY {CLOCK}(?:[.,]%f)?(?: %z)?",
    r"%b %d, %ExY %I:%ExM:%ExS %p",
    rf"%b-%d-%Exy {CLOCK}",
    rf"%Z (?:%a )?%b %d {CLOCK}(?:\.%f)?(?: %ExY)?",
)
BY_SIGN = (rf"<%m/%d/%Exy@{CLOCK}>", TAI64N)
EPOCH_IN_BRACKETS = rf"(?:(?<=^\[)|(?<=\baudit\()){EPOCH}(?=[\]:])"
KNOWN_AT_START = ((r"(?=\d| \d)", (*BY_DIGIT, EPOCH, CLOCK)), ("(?=[A-Z]{3})", BY_LETTER), ("", BY_SIGN))
KNOWN_ANYWHERE = (
    (r"(?=\d{1,4}[-/:. ]?[\dA-Z])", (*BY_DIGIT, EPOCH_IN_BRACKETS, CLOCK)),
    ("(?=[A-Z]{3})", BY_LETTER),
    ("(?=[<@])", BY_SIGN),
)
WORD_BEGINS, WORD_ENDS = r"(?<!\w)", r"(?!\w)"
LINE_BEGINS = r"^\W{0,2}"
ACCESS_LOG = rf'\[(%d/%b/%ExY:{CLOCK} %z)\] "**'  # before the first quote, which no user name can contain
ANY_DATE, DEFAULTS, AT_START = "{DATE}", "{DEFAULT}", "{^LN-BEG}"
OPENS_GROUP = re.compile(r"(?<!\\)\((?!\?)")
BEGINS_OTHERWISE = re.compile(r"\(*(?:\(\?\w+\))?(?:\^|\*\*|\(\?:\^)")
ENDS_OTHERWISE = re.compile(r"(?<!\\)(?:\$|\\b|\\s[+*]?|\*\*)\)*\Z")
MEMO = 1024
LOOKED_AT = 4096  # characters of a line: a date that begins later is none

NEVER = (-1.0, None)
Search = Callable[[str, Budget], Found | None]


@dataclass(slots=True)
class FoundDate:
    """A date in a line: where it stands, and what it is made of. Many lines may share one."""

    place: tuple[int, int]
    match: Found
    search: int  # by which of the patterns
    told: tuple[float, float | None] = NEVER  # what it told when it was asked for last, in which minute


class DatePattern:
    """Some formats, tried in their order. Raise `ConfigError` for a pattern that is no regex."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        wanted = (
            [] if list(patterns) == ["{NONE}"] else [each for one in patterns or (DEFAULTS,) for each in _all_of(one)]
        )
        self.expressions = tuple(map(_regex, wanted))
        self.is_cut_between_words = all(map(_is_between_words, wanted))
        reach = reach_of(self.expressions[0]) if wanted else None
        self._memo = None if reach is None else DateMemo[FoundDate](self.expressions[0])
        self._searches = tuple(map(_search_of, wanted, self.expressions))
        self._names = tuple(map(_names_of, self.expressions))
        self._told: dict[tuple[int, tuple[str | None, ...], float], float | None] = {}

    def find(self, text: str, budget: Budget) -> FoundDate | None:
        """Find the date that is to be cut out of a line; raise `OverBudget`."""
        known = self._memo.find(text) if self._memo else None
        return known or self._find(text[:LOOKED_AT], budget)

    def _find(self, text: str, budget: Budget) -> FoundDate | None:
        for number, search in enumerate(self._searches):
            match = search(text, budget)
            if match is None:
                continue
            found = FoundDate(match.span("date"), match, number)
            if self._memo and not number:
                self._memo.learn(text, match.span()[1], found)
            return found
        return None

    def decided_by(self, text: str, found: FoundDate | None, last: int = 0) -> tuple[int, int] | None:
        """Give the piece of a line that decides its date in all lines that differ from it in digits only.

        Those are lines for which `is_only_from` holds. None if there is no such piece. `last` is a guess of its end.
        """
        if found is None:
            return 0, 0
        return piece_of(self.expressions[found.search], text, found.match.span()[1], last)

    def searches_before(self, found: FoundDate | None) -> int:
        """Give how many formats were looked for in vain before a date was found."""
        return len(self._searches) if found is None else found.search

    def is_only_from(self, number: int, text: str) -> bool:
        """Say whether a line has no date of the first so many formats; also no if that takes too long to say."""
        budget = Budget()
        try:
            for search in self._searches[:number]:
                if search(text, budget) is not None:
                    return False
        except OverBudget:
            return False
        return True

    def seconds(self, found: FoundDate, time: float) -> float | None:
        """Give the Unix time of a date, None if there is no such time; `time` is about when the line was written."""
        minute = time // 60
        if found.told[0] != minute:
            found.told = minute, self._seconds(found, minute)
        return found.told[1]

    def _seconds(self, found: FoundDate, minute: float) -> float | None:
        values = found.match.groups()
        key = found.search, values, minute  # what stands around a date may be different each time
        if key not in self._told:
            if len(self._told) >= MEMO:
                self._told.clear()
            taken = {name: value for name, value in zip(self._names[found.search], values, strict=True) if value}
            self._told[key] = seconds_of(taken, minute * 60)
        return self._told[key]


def _names_of(expression: str) -> Sequence[str]:
    """Give the names of all groups in their order, empty where one has none."""
    plain = compiled(expression, re.IGNORECASE)
    names = {number: name for name, number in plain.groupindex.items()}
    return [names.get(number, "") for number in range(1, plain.groups + 1)]


def _search_of(pattern: str, expression: str) -> Search:
    """Give the search for a pattern; those of our own need no limit of time."""
    if pattern not in (AT_START, ACCESS_LOG, ANY_DATE):
        plain = _with_plain_dates(expression)
        compiled(plain, re.IGNORECASE)  # it is none if the pattern refers to a group of a known format
        return Expression(expression, re.IGNORECASE, plain).search
    own = quickest(compiled(expression, re.IGNORECASE))
    return lambda text, budget: own(text)


def _with_plain_dates(expression: str) -> str:
    """Put for the known formats, which cost little and are hard to judge, any text of their length."""
    for known in (KNOWN_ANYWHERE, KNOWN_AT_START):
        expression = expression.replace(_numbered(_one_of(known)), ".{1,64}")
    return expression


def _all_of(pattern: str) -> list[str]:
    """Give the patterns that a line of `datepattern` means."""
    if pattern == DEFAULTS:
        return [AT_START, ACCESS_LOG, ANY_DATE]
    return [pattern]


def _regex(pattern: str) -> str:
    if pattern == AT_START:
        return f"{LINE_BEGINS}(?P<date>{_numbered(_one_of(KNOWN_AT_START))}){WORD_ENDS}"
    begin, end, pattern = _bounds(pattern)
    pattern = _special(pattern)
    written = with_groups(pattern)
    if OPENS_GROUP.search(pattern) and pattern != ANY_DATE:
        written = OPENS_GROUP.sub("(?P<date>", written, count=1)
    else:
        written = f"(?P<date>{written})"
    known = KNOWN_ANYWHERE if begin == WORD_BEGINS else KNOWN_AT_START
    return begin + _numbered(written.replace(ANY_DATE, _one_of(known))) + end


def _bounds(pattern: str) -> tuple[str, str, str]:
    """Give what stands before and behind a pattern, and the pattern without the words that said so."""
    if pattern.startswith("{UNB}"):
        return "", "", pattern.removeprefix("{UNB}")
    begin = "" if BEGINS_OTHERWISE.match(pattern) else WORD_BEGINS
    if pattern.startswith(AT_START):
        begin, pattern = LINE_BEGINS, pattern.removeprefix(AT_START)
    end = "" if ENDS_OTHERWISE.search(pattern) else WORD_ENDS
    return begin, end, pattern.removeprefix("**").removesuffix("**")


def _is_between_words(pattern: str) -> bool:
    """Say whether neither a letter before nor one behind is next to a date, or nothing at all is before it."""
    if pattern in (AT_START, ACCESS_LOG, ANY_DATE):
        return True
    if OPENS_GROUP.search(pattern) or "|" in pattern:
        return False
    begin, end, _ = _bounds(pattern)
    return pattern.startswith("^") or (begin in (WORD_BEGINS, LINE_BEGINS) and end == WORD_ENDS)


def _special(pattern: str) -> str:
    """Write the formats that have a name."""
    named = {"EPOCH": EPOCH, "LEPOCH": LONG_EPOCH, "TAI64N": TAI64N, "ISO8601": BY_DIGIT[0]}
    if pattern.upper() in named:
        return named[pattern.upper()]
    for name in ("EPOCH", "LEPOCH"):
        pattern = pattern.replace(f"{{{name}}}", named[name])
    return pattern


def _one_of(known: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Give the known formats, parted by what they begin with: most characters begin none."""
    parts = (f"{begin}(?:{'|'.join(map(with_groups, patterns))})" for begin, patterns in known)
    return f"(?:{'|'.join(parts)})"


def _numbered(pattern: str) -> str:
    """Give the groups of each format names of their own, and let what refers to them follow."""
    count = 0
    renamed: dict[str, str] = {}

    def rename(found: re.Match[str]) -> str:
        nonlocal count
        if found["refers"]:
            return f"(?P={renamed.get(found['refers'], found['refers'])})"
        name = found["name"]
        if name == "date":
            return found[0]
        count += 1
        renamed[name] = f"{name.partition('_')[0] or 'other'}_{count}"
        return f"(?P<{renamed[name]}>"

    return re.sub(r"\(\?P(?:<(?P<name>\w+)>|=(?P<refers>\w+)\))", rename, pattern)
