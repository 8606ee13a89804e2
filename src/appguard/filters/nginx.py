"""The filter for nginx's `combined` access log (and Apache's, which has the same form).

Where each field ends cannot be forged: nginx writes `\\x22` for a quote in any value, so the first quote of a line
opens the request, whatever stands in the user name before it.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from urllib.parse import unquote

from appguard.address import parse_address
from appguard.errors import AddressError
from appguard.event import LIMIT_EXCEEDED, PROBE, Event, kind_of_answer

LINE = re.compile(
    r'(?P<address>[0-9A-Fa-f:.]+) - (?P<user>[^"]*) \[(?P<time>[^"\[\]]{26})\] '
    r'"(?P<request>[^"]*)" (?P<status>\d{3}) (?:\d+|-) "[^"]*" "(?P<agent>[^"]*)"'
)
TIME = re.compile(r"(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
PROBED = (400, 404, 405, 444)


class NginxFilter:
    """Reads `combined` lines: failed logins, refusals, and requests for what is not there."""

    name = "nginx"

    def match(self, line: bytes) -> Event | None:
        """Give the event of a line; most lines are of none."""
        found = LINE.match(line.decode(errors="replace"))
        if found is None:
            return None
        status, user = int(found["status"]), found["user"]
        method, path = _request(found["request"])
        kind = _kind(status, method, path, has_user=user != "-")
        if not kind:
            return None
        time = _seconds(found["time"])
        try:
            address = parse_address(found["address"])
        except AddressError:
            return None
        if time is None:
            return None
        user = "" if user == "-" else user
        agent = found["agent"]
        return Event(kind, time, address, user=user, method=method, path=path, status=status, user_agent=agent)


def _kind(status: int, method: str, path: str, *, has_user: bool) -> str:
    if status < 400:
        return ""
    if status == 429:
        return LIMIT_EXCEEDED
    if status in PROBED:
        return PROBE
    return kind_of_answer(status, scheme="basic" if has_user else "", method=method, path=path)


def _request(request: str) -> tuple[str, str]:
    method, _, rest = request.partition(" ")
    target = rest.rpartition(" ")[0] or rest
    return method, unquote(target.partition("?")[0])


@lru_cache(maxsize=64)
def _seconds(text: str) -> float | None:
    found = TIME.fullmatch(text)
    if found is None or found[2] not in MONTHS:
        return None
    day, year, hour, minute, second = (int(found[i]) for i in (1, 3, 4, 5, 6))
    offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
    try:
        zone = timezone(-offset if found[7] == "-" else offset)
        return datetime(year, MONTHS[found[2]], day, hour, minute, second, tzinfo=zone).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
