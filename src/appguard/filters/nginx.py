"""The filter for nginx's `combined` access log (and Apache's, which has the same form).

Where each field ends cannot be forged: for a quote in any value nginx writes `\\x22` and Apache `\\"`, so the first
quote without a backslash opens the request, and the time is what stands right before it, whatever the user name is.
Nor can length hide a failure: what follows the status may be cut off, and a request so long that its status is cut off
counts as refused (nginx itself takes no longer ones by default).
"""

import posixpath
import re
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from urllib.parse import unquote

from appguard.address import parse_address
from appguard.errors import AddressError
from appguard.event import LIMIT_EXCEEDED, LINE_MOST, PROBE, REQUEST, Event, kind_of_answer

TEXT = r'[^"\\]*+(?:\\.[^"\\]*+)*+'  # up to a quote without a backslash; possessive, so the time is linear
LINE = re.compile(
    rf'(?P<address>[0-9A-Fa-f:.]+) - (?P<user_and_time>{TEXT})"(?P<request>{TEXT})'
    rf'(?:" (?P<status>[0-9]{{3}}) (?:(?:[0-9]+|-) "{TEXT}" "(?P<agent>{TEXT}))?|\\?\Z)',
    re.DOTALL,
)
TIME = re.compile(r" \[(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] ", re.ASCII)
TIME_LENGTH = 30
END_OF_PATH = re.compile("[?#]")
MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
PROBED = (400, 404, 405, 444)


class NginxFilter:
    """Reads `combined` lines: failed logins, refusals, and requests for what is not there, any if a jail asks."""

    name = "nginx"

    def __init__(self, kinds: Collection[str] = ()) -> None:
        self._rest = REQUEST if REQUEST in kinds else ""

    def match(self, line: bytes, time: float) -> Event | None:
        """Give the event of a line; most lines are of none."""
        found = LINE.match(line.decode(errors="replace"))
        if found is None:
            return None
        status, user = int(found["status"] or 0), found["user_and_time"][:-TIME_LENGTH]
        if status < 400 and (status or len(line) < LINE_MOST) and not (status and self._rest):
            return None
        method, path = _request(found["request"])
        scheme = "" if user == "-" else "basic"
        kind = kind_of_request(status, method, path, scheme) if status else _kind_of_cut(method, path, scheme)
        kind = kind or self._rest
        told = _seconds(found["user_and_time"][-TIME_LENGTH:])
        if not kind or told is None:
            return None
        try:
            address = parse_address(found["address"])
        except AddressError:
            return None
        user = "" if user == "-" else user
        agent = found["agent"] or ""
        return Event(kind, told, address, user=user, method=method, path=path, status=status, user_agent=agent)


def kind_of_request(status: int, method: str, path: str, scheme: str) -> str:
    """Say which kind of event a request of an access log is; empty for none."""
    if status == 429:
        return LIMIT_EXCEEDED
    if status in PROBED:
        return PROBE
    return kind_of_answer(status, scheme=scheme, method=method, path=path)


def path_of(target: str) -> str:
    """Give the path a request's target means to nginx: `/login/.` and `/login#x` are the login."""
    path = unquote(END_OF_PATH.split(target, maxsplit=1)[0])
    return posixpath.normpath(path) if "/." in path else path


def _kind_of_cut(method: str, path: str, scheme: str) -> str:
    return kind_of_request(401, method, path, scheme) or PROBE


def _request(request: str) -> tuple[str, str]:
    method, _, rest = request.partition(" ")
    return method, path_of(rest.rpartition(" ")[0] or rest)


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
