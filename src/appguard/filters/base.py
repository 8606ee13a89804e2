"""What a filter offers. Filters are pure: a line in, an event or nothing out; no file, no clock, no exception."""

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from socket import AF_INET, AF_INET6, inet_pton
from typing import Protocol, cast, runtime_checkable

from appguard.address import Address, Host
from appguard.briefs import Briefs
from appguard.event import Event
from appguard.filters.literals import Literals


@dataclass(frozen=True, slots=True)
class Named:
    """An event whose client is known by a host name only; somebody else finds its addresses, later."""

    host: str
    event_of: Callable[[Address], Event]


class Filter(Protocol):
    """Turns one line into an event.

    `needs` has, for each form of line it reads, sets of texts of which such a line holds at least one each; nothing if
    any line may be read. Lines of more than half of `LINE_MOST` bytes, and such with an escape sequence, need nothing.
    """

    name: str

    @property
    def needs(self) -> Sequence[Sequence[Literals]]:
        """Give the sets; see above. They never change."""
        ...

    def match(self, line: bytes, time: float) -> Event | Named | None:
        """Give the event a line tells of, None if it tells of none. Takes any bytes and never raises.

        `time` (Unix seconds) is when the line was written as far as its source knows: the journal's own stamp, else
        now. A time the line itself tells is better; `time` helps where it tells none, or a part.
        """
        ...


@runtime_checkable
class Complains(Protocol):
    """A filter that may have trouble with the lines of its log."""

    @property
    def complaint(self) -> str:
        """Say what the trouble is; empty if there is none."""
        ...

    @property
    def may_be_slow(self) -> bool:
        """Say whether some line may take it long, or have to be skipped."""
        ...


@runtime_checkable
class TellsHost(Protocol):
    """A filter whose lines have the client's address at a place that is quickly found."""

    def hosts_of(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Give of each line the text of the address that `match` would give its event; any bytes if there is none.

        A client must not be able to choose what stands there.
        """
        ...


_INET, _INET6 = int(AF_INET), int(AF_INET6)  # an enum is slow to be asked
MAPPED = 0xFFFF  # the first 96 bits of an IPv6 address that stands for an IPv4 one


@runtime_checkable
class TellsBriefly(Protocol):
    """A filter that tells the most of many lines in brief."""

    def briefs(self, lines: Sequence[bytes], times: Sequence[float]) -> Briefs:
        """Say of each line what `match` would, in brief: of ordinary events, which count once."""
        ...


def hosts_in_brief(texts: Sequence[str]) -> Sequence[Host | None]:
    """Give of each text what `host_of` gives, in half the time where all are plain IPv4 addresses, or empty."""
    are_all = all(texts)
    try:
        deque(map(inet_pton, repeat(_INET), texts if are_all else filter(None, texts)), maxlen=0)
    except (OSError, ValueError):
        return list(map(host_of, texts))
    return texts if are_all else [text or None for text in texts]


def columns_of(form: re.Pattern[str], lines: Sequence[bytes]) -> Sequence[Sequence[str]]:
    """Search many lines at once; give for each group what it is in each line, empty in one that has not this form.

    `form` is in several lines and takes every line whole; its first group is in each line that has this form. A byte
    beyond ASCII is one letter, by Latin-1: what `match` reads otherwise is not to be told of a group that may have one.
    """
    pieces: list[str | None] = form.split(b"\n".join(lines).decode("latin-1"))
    columns = [pieces[group :: form.groups + 1] for group in range(1, form.groups + 1)]
    if len(columns[0]) != len(lines):  # one holds the end of a line
        return [[""] * len(lines)] * form.groups
    if not all(columns[0]):
        return [[each or "" for each in column] for column in columns]
    return cast("Sequence[Sequence[str]]", columns)


def host_of(text: str) -> Host | None:
    """Give the address of a text in brief, as it is counted; None if it is none, or not written like most.

    In a third of the time that an expression takes.
    """
    rest = text.removeprefix("::ffff:")  # an IPv4 client of a socket that takes both
    try:
        if ":" in rest:
            number = int.from_bytes(inet_pton(_INET6, text))
            return number if number >> 32 != MAPPED else None
        inet_pton(_INET, rest)
    except (OSError, ValueError):
        return None
    return rest
