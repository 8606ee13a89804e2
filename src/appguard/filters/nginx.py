"""The filter for nginx's `combined` access log (and Apache's, which has the same form).

Where each field ends cannot be forged: for a quote in any value nginx writes `\\x22` and Apache `\\"`, so the first
quote without a backslash opens the request, and the time is what stands right before it, whatever the user name is.
Nor can length hide a failure: what follows the status may be cut off, and a request so long that its status is cut off
counts as refused (nginx itself takes no longer ones by default).
"""

import posixpath
import re
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from urllib.parse import unquote

from appguard.address import parse_address
from appguard.errors import AddressError
from appguard.event import LIMIT_EXCEEDED, LINE_MOST, PROBE, Event, kind_of_answer

_TEXT = r'[^"\\]*+(?:\\.[^"\\]*+)*+'  # up to a quote without a backslash; possessive, so the time is linear
LINE = re.compile(
    rf'(?P<address>[0-9A-Fa-f:.]+) - (?P<user_and_time>{_TEXT})"(?P<request>{_TEXT})'
    rf'(?:" (?P<status>[0-9]{{3}}) (?:(?:[0-9]+|-) "{_TEXT}" "(?P<agent>{_TEXT}))?|\\?\Z)',
    re.DOTALL,
)
TIME = re.compile(r" \[(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] ", re.ASCII)
TIME_LENGTH = 30
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
        status, user = int(found["status"] or 0), found["user_and_time"][:-TIME_LENGTH]
        if status < 400 and (status or len(line) < LINE_MOST):
            return None
        method, path = _request(found["request"])
        kind = _kind(status, method, path, has_user=user != "-")
        time = _seconds(found["user_and_time"][-TIME_LENGTH:])
        if not kind or time is None:
            return None
        try:
            address = parse_address(found["address"])
        except AddressError:
            return None
        user = "" if user == "-" else user
        agent = found["agent"] or ""
        return Event(kind, time, address, user=user, method=method, path=path, status=status, user_agent=agent)


def _kind(status: int, method: str, path: str, *, has_user: bool) -> str:
    if status == 429:
        return LIMIT_EXCEEDED
    if status in PROBED:
        return PROBE
    scheme = "basic" if has_user else ""
    if not status:  # it is cut off
        return kind_of_answer(401, scheme=scheme, method=method, path=path) or PROBE
    return kind_of_answer(status, scheme=scheme, method=method, path=path)


def _request(request: str) -> tuple[str, str]:
    method, _, rest = request.partition(" ")
    target = rest.rpartition(" ")[0] or rest
    path = unquote(target.partition("?")[0])
    return method, posixpath.normpath(path) if "/." in path else path  # `/login/.` is the login to nginx


@lru_cache(maxsize=64)
def _seconds(text: str) -> float | None:
    found = TIME.fullmatch(text)
    if found is None or found[2] not in MONTHS:
        return None
    day, year, hour, minute, second = (int(found[i]) for i in (1, 3, 4, 5, 6))
    offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
    try:
        zone = timezone(-offset if found[7] == "-" else offset)
        return datetime(year, MONTHS[found[2]], day, hour, minute, second, tzinfo=zone).timestamp()
    except ValueError:
        return None
