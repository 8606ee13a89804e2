"""The filter for AppGuard's own event line."""

from appguard.errors import EventError
from appguard.event import Event, parse_line


class EventLogFilter:
    """Reads what `appguard.event.Event.to_line` wrote."""

    name = "appguard"

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line."""
        if not line.startswith(b'{"time":"'):
            return None
        try:
            return parse_line(line.decode(errors="replace"))
        except EventError:
            return None
