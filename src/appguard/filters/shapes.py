"""What lines of one shape tell, remembered: lines of one program are alike but for their numbers.

Theory of operation. A line's shape is the line with each digit made a `0`, but for the few texts whose digits a
filter's regexes can tell (`digits.py`), each of which becomes one odd byte. So in lines of one shape the regexes find
the same groups at the same places, if the date is at the same place. The date is what tells digits apart; a piece of
the line decides it (`dates.py`), and the dates of such pieces are remembered too. The regexes never see the date: where
lines begin with it, their shape is that of what is behind it. A filter whose regexes tell digits apart in other ways
has no shapes. A log whose shapes are new most of the time is read without, for some lines.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from appguard.filters.cascade import Cut
from appguard.filters.connections import IDS
from appguard.filters.dates import DatePattern, FoundDate
from appguard.filters.digits import texts_with_digits
from appguard.filters.expression import Budget, OverBudget, Spans

SHAPES_MOST = 8192
SEEN_MOST = 32_768  # hashes of shapes
DATES_MOST = 1024
ENDS_MOST = 4  # places where dates at the beginning of lines end
LENGTH_MOST = 400  # bytes of a line whose shape is remembered
DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
CHANGED = (b"\x1b", b"#000", b"\n")  # in a line that is changed before it is searched; the second is any like #033
MAY_CHANGE = re.compile(r"[\x1b\n#]")  # what is changed may begin within a date
TRIAL, REST = 4096, 32_768  # lines: how many are counted, and how many not asked for where four in five were new

Place = tuple[int, int]
Groups = tuple[tuple[str, slice], ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What lines of one shape tell: where their date and what decides it is, and their groups; None if nothing.

    So many date formats as `refused` come before that of the date, and must not match.
    """

    dated: slice
    place: Place | None
    refused: int
    groups: Groups | None
    connection: slice | None  # its name, if there is one
    is_settled: bool  # what it tells depends on no other line, or only on earlier ones of its connection
    forgets: bool  # it ends its connection
    who: slice | None  # who failed then; None if it tells of no failure
    user: slice


class Read(NamedTuple):
    """A line whose shape is known: the line as text, and its date."""

    shape: Shape
    text: str
    date: FoundDate | None

    def groups(self) -> dict[str, str]:
        """Give its groups; none if it tells of nothing."""
        text = self.text
        return {name: text[place] for name, place in self.shape.groups or ()}


class Shapes:
    """The shapes of one filter, by its dates and regexes; there are none without regexes."""

    def __init__(self, patterns: Sequence[str] | None, dates: DatePattern) -> None:
        texts = None if patterns is None else texts_with_digits(patterns)
        self._is_of_use = texts is not None
        known = [text.encode("ascii") for text in texts or () if text.isascii()]  # as all lines here are
        self._texts = tuple((text, bytes([0x80 + at])) for at, text in enumerate(known))
        self._dates = dates
        self._known: dict[int, dict[bytes, Shape]] = {}  # by where the date ends that they are without
        self._known_dates: dict[str, tuple[FoundDate | None, Place | None]] = {"": (None, None)}
        self._seen: set[int] = set()
        self._new = self._found = 0  # lines, of late
        self._rest = 0 if self._is_of_use else REST

    def read(self, line: bytes) -> Read | None:
        """Read a line if its shape and its date are known."""
        told = self.told(line)
        return None if told is None else Read(*told)

    def told(self, line: bytes) -> tuple[Shape, str, FoundDate | None] | None:
        """Give the same as a plain tuple, which takes much less time to make."""
        if self._rest:
            self._rest -= self._is_of_use
            return None
        shape = self._known_shape(line)
        if shape is None or not line.isascii():
            return None
        text = line.decode("ascii")
        date, place = self._known_dates.get(text[shape.dated], (None, None))
        if place != shape.place:
            date = self._find_date(text, shape)
            if date is None:
                return None
        elif shape.refused and not self._dates.is_only_from(shape.refused, text):
            return None
        self._found += 1
        return shape, text, date

    def _find_date(self, text: str, shape: Shape) -> FoundDate | None:
        """Find the date of a line and remember it; None if it is not where the shape has it."""
        begin, end = shape.dated.start, shape.dated.stop
        try:
            date = None if MAY_CHANGE.search(text, begin, end) else self._dates.find(text, Budget())
        except OverBudget:
            return None
        if date is None or (date.place[0] - begin, date.place[1] - begin) != shape.place:
            return None
        place = date.place[0] - begin, date.place[1] - begin
        if date.search == shape.refused and self._dates.decided_by(text, date, end) == (begin, end):
            self._keep_date(text[shape.dated], date, place)
        return date

    def _known_shape(self, line: bytes) -> Shape | None:
        for end, known in self._known.items():  # one, as a rule
            rest = line[end:]
            shape = known.get(self._shape_of(rest) if self._texts else rest.translate(DIGITS))
            if shape is not None:
                return shape
        return None

    def _shape_of(self, line: bytes) -> bytes:
        for text, mark in self._texts:
            line = line.replace(text, mark)
        return line.translate(DIGITS)

    def learn(self, line: bytes, date: FoundDate | None, spans: Spans | None) -> None:
        """Remember what a line told that was searched: its date and the places of its groups without it."""
        if self._rest or len(line) > LENGTH_MOST or not line.isascii():
            return
        self._new += 1
        if self._new + self._found >= TRIAL:
            self._rest = 0 if 4 * self._found > self._new else REST
            self._new = self._found = 0
        end = self._end_of(date)
        shape = self._shape_of(line[end:])
        digits_alike = line.translate(DIGITS)
        if not self._was_seen(shape) or line.endswith(b"\r") or any(each in digits_alike for each in CHANGED):
            return
        made = self._made(line.decode("ascii"), date, spans)
        if made is not None:
            if self._count() >= SHAPES_MOST:
                self._known.clear()
            self._known.setdefault(end, {})[shape] = made

    def _end_of(self, date: FoundDate | None) -> int:
        """Give where the date ends that a line begins with; 0 if that is elsewhere, or differs too often."""
        end = date.place[1] if date is not None and not date.place[0] else 0
        return end if end in self._known or len(self._known) < ENDS_MOST else 0

    def _count(self) -> int:
        return sum(map(len, self._known.values()))

    def _was_seen(self, shape: bytes) -> bool:
        """Say whether a shape is worth its room where there is little: most seen once are never seen again."""
        if self._count() < SHAPES_MOST // 2:
            return True
        mark = hash(shape)
        if mark in self._seen:
            return True
        if len(self._seen) >= SEEN_MOST:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def _may_join(self, text: str, cut: Place) -> bool:
        """Say whether one of the texts may come about where the date is cut out, which the shape does not tell."""
        for each, _ in self._texts:
            beside = len(each) - 1
            joined = text[max(0, cut[0] - beside) : cut[0]] + text[cut[1] : cut[1] + beside]
            if each.translate(DIGITS) in joined.encode().translate(DIGITS):
                return True
        return False

    def _keep_date(self, piece: str, date: FoundDate, place: Place) -> None:
        if len(self._known_dates) >= DATES_MOST:
            self._known_dates = {"": (None, None)}
        self._known_dates[piece] = date, place

    def _made(self, text: str, date: FoundDate | None, spans: Spans | None) -> Shape | None:
        decided = self._dates.decided_by(text, date)
        cut = None if date is None else date.place
        groups = None if spans is None else _in_line(spans, cut)
        if decided is None or (spans is not None and groups is None) or (cut and cut[0] and self._may_join(text, cut)):
            return None
        begin, end = decided
        if MAY_CHANGE.search(text, begin, end):
            return None
        place = None if cut is None else (cut[0] - begin, cut[1] - begin)
        if date is not None and place is not None:
            self._keep_date(text[begin:end], date, place)
        return _shape(slice(begin, end), place, self._dates.searches_before(date), groups)


def _shape(dated: slice, place: Place | None, refused: int, groups: Groups | None) -> Shape:
    places = dict(groups or ())
    connection = places.get("mlfid") if _is_some(places.get("mlfid")) else None
    who = next((places[name] for name in IDS if _is_some(places.get(name))), None)
    forgets, is_gain, is_failure = "mlfforget" in places, "mlfgained" in places, "nofail" not in places
    who = who if is_failure and not (connection and is_gain) else None
    is_settled = connection is None or (forgets if is_gain else who is not None)
    return Shape(dated, place, refused, groups, connection, is_settled, forgets, who, places.get("user", slice(0, 0)))


def _is_some(place: slice | None) -> bool:
    return place is not None and place.start < place.stop


def _in_line(spans: Spans, cut: Cut) -> Groups | None:
    """Give where groups stand in the line with its date, None if the date is within one of them."""
    begin, end = cut or (0, 0)
    found: list[tuple[str, slice]] = []
    for name, (first, last) in spans.items():
        if first < begin < last:
            return None
        added = end - begin if first >= begin else 0
        found.append((name, slice(first + added, last + added)))
    return tuple(found)
