"""What a filter says of a line, for filters that know their clients by address."""

from appguard.event import Event
from appguard.filters.base import Filter, Named


def told(made: Filter, line: bytes, time: float = 0.0) -> Event | None:
    """Give the event of a line; fail if the client is known by its name only."""
    event = made.match(line, time)
    assert not isinstance(event, Named)
    return event
