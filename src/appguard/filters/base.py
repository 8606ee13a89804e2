"""What a filter offers. Filters are pure: a line in, an event or nothing out; no file, no clock, no exception."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from appguard.address import Address
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


@runtime_checkable
class TellsHost(Protocol):
    """A filter whose lines have the client's address at a place that is quickly found."""

    def host_of(self, line: bytes) -> bytes:
        """Give the text of the address that `match` would give the event of this line; any bytes if there is none.

        A client must not be able to choose what stands there.
        """
        ...
