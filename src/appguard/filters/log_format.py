r"""The filter for any `log_format` of nginx: the format is compiled into regular expressions.

Theory of operation. A variable is either nginx's own (an address, a status, a time), with a fixed length or an
alphabet, or text that a client may choose. Where such a text ends the format must say: nginx escapes quotes and control
characters in values, so a quote or a tab of the format, or the end of the line, is a mark that nobody can forge. Marks
cut the format into segments. In a segment, what stands before the first text is read from the left and what stands
behind the last text is read from the right; both are certain, because an own variable has a fixed length, or what
stands on either side of it is not in its alphabet (else it is taken for a text). What stands between two texts is
certain to nobody: if it is the address, the status or the time, the format is refused; other fields there are not read,
and a warning says so.

A line that was cut off is read as far as its last whole text. A request so long that its status is lost counts as
refused.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from appguard.errors import ConfigError
from appguard.event import LIMIT_EXCEEDED, Event
from appguard.filters.fields import BY_STATUS, NO_TIME, event_of, may_be_cut, rest_of
from appguard.filters.literals import literals_of
from appguard.filters.log_format_text import Piece, read_format
from appguard.filters.nginx import TELLING
from appguard.filters.nginx_json import REFUSED, unescaped
from appguard.filters.times import seconds_of

MARK = re.compile(r'["\x00-\x1f]')
PLAIN = r'[^"\\\x00-\x1f]'
TEXT = rf"{PLAIN}*+(?:\\.{PLAIN}*+)*+"  # up to a mark
GREEDY_TEXT = rf"{PLAIN}*(?:\\.{PLAIN}*)*"  # up to what is certain to stand before a mark
END = r"\Z"
DIGITS, DECIMAL, ADDRESS = "[0-9-]", "[0-9.-]", "[0-9A-Fa-f:.-]"
ALPHABETS = {  # nginx writes '-' for a variable without a value
    "body_bytes_sent": DIGITS,
    "bytes_sent": DIGITS,
    "connection": DIGITS,
    "connection_requests": DIGITS,
    "limit_conn_status": "[A-Z_-]",
    "limit_req_status": "[A-Z_-]",
    "msec": DECIMAL,
    "pid": DIGITS,
    "realip_remote_addr": ADDRESS,
    "realip_remote_port": DIGITS,
    "remote_addr": ADDRESS,
    "remote_port": DIGITS,
    "request_length": DIGITS,
    "request_method": "[A-Z_-]",
    "request_time": DECIMAL,
    "scheme": "[a-z-]",
    "server_addr": ADDRESS,
    "server_port": DIGITS,
    "server_protocol": "[A-Z0-9./-]",
    "ssl_protocol": "[A-Za-z0-9.-]",
}
FIXED = {
    "pipe": "[p.]",
    "request_id": "[0-9a-f]{32}",
    "status": "[0-9]{3}",
    "time_iso8601": "[0-9T:-]{19}[+-][0-9:]{5}",
    "time_local": "[0-9]{2}/[A-Z][a-z]{2}/[0-9:]{13} [+-][0-9]{4}",
}
MEANING = {
    "document_uri": "path",
    "http_user_agent": "user_agent",
    "limit_req_status": "limited",
    "msec": "time",
    "remote_addr": "address",
    "remote_user": "user",
    "request": "request",
    "request_id": "request_id",
    "request_method": "method",
    "request_uri": "path",
    "status": "status",
    "time_iso8601": "time",
    "time_local": "time",
    "uri": "path",
}
MUST_BE_CERTAIN = ("address", "status", "time")
TIME_FORMS = ("clf", "iso", "epoch")


@dataclass(frozen=True, slots=True)
class Segment:
    """What stands between two marks: own variables and literals, the text if there is one, and more of them."""

    left: tuple[Piece, ...]
    texts: tuple[Piece, ...]
    right: tuple[Piece, ...]
    mark: str  # the literal behind it, from its first mark to its last; empty at the end of the line


class LogFormatFilter:
    """Reads the lines of one `log_format`: failed logins, refusals, and requests for what is not there."""

    def __init__(self, name: str, text: str, kinds: Collection[str] = ()) -> None:
        """Compile the format; raise `ConfigError` for one that a client could forge a line of."""
        self.name = name
        self._rest = rest_of(kinds)
        pieces, escape = read_format(text)
        _refuse_what_cannot_work(pieces, escape)
        self._is_json = escape == "json"
        regexes = _Regexes(list(_segments(pieces)))
        self.warnings = (*regexes.warnings, *(() if "(?P<time>" in regexes.whole else (NO_TIME,)))
        self._line = re.compile(regexes.whole, re.DOTALL)
        self.needs = tuple(literals_of(each, re.DOTALL) for each in regexes.telling(is_any=bool(self._rest)))
        self._cut = tuple(re.compile(each, re.DOTALL) for each in reversed(regexes.cut))

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line; most lines are of none."""
        text = line.decode(errors="replace")
        found = self._line.match(text)
        if found is None and may_be_cut(line):
            found = next(filter(None, (each.match(text) for each in self._cut)), None)
        if found is None:
            return None
        fields = found.groupdict()
        if self._is_json:
            fields = {key: value and unescaped(value) for key, value in fields.items()}
        told = seconds_of(fields["time"] or "", TIME_FORMS, time) if "time" in fields else time
        kind = LIMIT_EXCEEDED if fields.get("limited") == REFUSED else BY_STATUS
        if self._is_json and fields.get("user") == "":
            fields["user"] = "-"  # nginx writes no name and an empty name alike here
        return event_of(kind, told, fields, rest=self._rest, is_cut=may_be_cut(line))


def _refuse_what_cannot_work(pieces: Sequence[Piece], escape: str) -> None:
    if escape not in ("default", "json"):
        raise ConfigError(f"log_format: escape={escape} lets clients write any line; use escape=json, or no escape=")
    variables = {piece.text for piece in pieces if piece.is_variable}
    for name in ("remote_addr", "status"):
        if name not in variables:
            raise ConfigError(f"log_format: ${name} is missing: without it no line tells of anybody's failure")


def _segments(pieces: Sequence[Piece]) -> Iterator[Segment]:
    inside: list[Piece] = []
    for piece in pieces:
        marks = [] if piece.is_variable else [found.start() for found in MARK.finditer(piece.text)]
        if not marks:
            inside.append(piece)
            continue
        first, last = marks[0], marks[-1] + 1
        yield _segment([*inside, Piece(piece.text[:first])], piece.text[first:last])
        inside = [Piece(piece.text[last:])]
    yield _segment(inside, "")


def _segment(pieces: Sequence[Piece], mark: str) -> Segment:
    pieces = [piece for piece in pieces if piece.text]
    texts = [at for at in range(len(pieces)) if pieces[at].is_variable and not _is_certain(pieces, at)]
    if not texts:
        return Segment(tuple(pieces), (), (), mark)
    first, last = texts[0], texts[-1] + 1
    return Segment(tuple(pieces[:first]), tuple(pieces[first:last]), tuple(pieces[last:]), mark)


def _is_certain(pieces: Sequence[Piece], at: int) -> bool:
    """Say whether a variable is nginx's own and nothing on either side of it can be taken for a part of it."""
    name = pieces[at].text
    if name in FIXED:
        return True
    if name not in ALPHABETS:
        return False
    before, after = tuple(pieces[max(at - 1, 0) : at]), tuple(pieces[at + 1 : at + 2])
    if any(piece.is_variable for piece in before + after):
        return False
    beside = "".join([*(piece.text[-1] for piece in before), *(piece.text[0] for piece in after)])
    return not re.search(ALPHABETS[name], beside)


class _Regexes:
    """The regular expression of whole lines, and one for each place where a text may have been cut off."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.whole = ""
        self.cut: list[str] = []
        self.warnings: list[str] = []
        self._named: set[str] = set()
        needed = 0
        for segment in segments:
            before = len(self._named)
            self._add(segment)
            needed = len(self.whole) if len(self._named) > before else needed
        self.whole = self.whole[:needed]  # what stands behind the last field is not looked at

    def telling(self, *, is_any: bool) -> Iterator[str]:
        """Give regular expressions of which a line that tells of something, and was not cut off, matches one."""
        if is_any:
            yield self.whole
            return
        yield _only(self.whole, "status", *map(str, TELLING))
        if "limited" in self._named:
            yield _only(self.whole, "limited", REFUSED)

    def _add(self, segment: Segment) -> None:
        self.whole += "".join(map(self._own, segment.left))
        if segment.texts:
            text = self._text(segment.texts, GREEDY_TEXT if segment.right else TEXT)
            self.cut.append(self.whole + (TEXT if segment.right else text))
            right = "".join(map(self._own, segment.right))
            self.whole += f"(?>{text}{right}{re.escape(segment.mark) or END})"
        else:
            self.whole += re.escape(segment.mark)

    def _own(self, piece: Piece) -> str:
        if not piece.is_variable:
            return re.escape(piece.text)
        return self._field(piece.text, FIXED.get(piece.text) or f"{ALPHABETS[piece.text]}*+")

    def _text(self, pieces: Sequence[Piece], regex: str) -> str:
        if len(pieces) == 1 and MEANING.get(pieces[0].text) not in MUST_BE_CERTAIN:
            return self._field(pieces[0].text, regex)
        lost = [f"${piece.text}" for piece in pieces if piece.is_variable and piece.text in MEANING]
        for name in lost:
            if MEANING[name[1:]] in MUST_BE_CERTAIN:
                raise ConfigError(f"log_format: a client could forge {name}: put quotes around the texts beside it")
        if lost:
            beside = " and ".join(f"${piece.text}" for piece in (pieces[0], pieces[-1]))
            self.warnings.append(f"{', '.join(lost)} cannot be read: put quotes around {beside} in the log_format")
        return regex

    def _field(self, variable: str, regex: str) -> str:
        field = MEANING.get(variable)
        if field is None or field in self._named:
            return f"(?:{regex})"
        self._named.add(field)
        return f"(?P<{field}>{regex})"


def _only(regex: str, field: str, *values: str) -> str:
    """Give a regular expression for the lines in which a field of nginx's own has one of some values."""
    return re.sub(rf"\(\?P<{field}>[^()]*\)", f"(?P<{field}>{'|'.join(values)})", regex)
