"""What a filter offers. Filters are pure: a line in, an event or nothing out; no file, no clock, no exception."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from appguard.address import Address
from appguard.event import Event


@dataclass(frozen=True, slots=True)
class Named:
    """An event whose client is known by a host name only; somebody else finds its addresses, later."""

    host: str
    event_of: Callable[[Address], Event]


class Filter(Protocol):
    """Turns one line into an event."""

    name: str

    def match(self, line: bytes, time: float) -> Event | Named | None:
        """Give the event a line tells of, None if it tells of none. Takes any bytes and never raises.

        `time` (Unix seconds) is when the line was written as far as its source knows: the journal's own stamp, else
        now. A time the line itself tells is better; `time` helps where it tells none, or a part.
        """
        ...
