"""What a filter offers. Filters are pure: a line in, an event or nothing out; no file, no clock, no exception."""

from typing import Protocol

from appguard.event import Event


class Filter(Protocol):
    """Turns one line into an event."""

    name: str

    def match(self, line: bytes) -> Event | None:
        """Give the event a line tells of, None if it tells of none. Takes any bytes and never raises."""
        ...
