"""Reads a syslog message: the header of RFC 3164 in the forms programs really send, or of RFC 5424.

```
<190>Nov 20 08:31:47 host sshd[17]: the message       RFC 3164; the host may be missing, and the time too
<190>2026-11-20T08:31:47.123+00:00 host sshd: ...      the same as rsyslog forwards it
<190>1 2026-11-20T08:31:47.123Z host sshd 17 - - ...   RFC 5424
```

A time of RFC 3164 has neither year nor zone. It is read as this host's own local time, and believed only if it lies
in the minutes before the message came: else the sender's clock is set to another zone, and the arrival is the better
time.
"""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from appguard.event import is_time
from appguard.sources.lines import one_line

BELIEVED: Final = 600.0  # seconds a time without a zone may be old
AHEAD: Final = 2.0  # and ahead, since it has no fraction and clocks differ
_MONTHS: Final = {
    name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1)
}
_ISO = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_RFC3164 = re.compile(
    rb"<\d{1,3}>(?:(?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) (?P<clock>\d\d:\d\d:\d\d) |(?P<iso>" + _ISO + rb") )?"
    rb"(?:[!-~]{1,255} )??[^\s:\[\]{}\"<>]{1,128}(?:\[[^\s\[\]]{1,64}\])?:(?: |$)"
)
_VALUE = rb'"(?:[^"\\\]]|\\.)*"'
_ELEMENT = rb"\[[^\s=\]\"]{1,32}(?: [^\s=\]\"]{1,32}=" + _VALUE + rb")*\]"
_RFC5424 = re.compile(
    rb"<\d{1,3}>1 (?:-|(?P<iso>" + _ISO + rb")) [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} "
    rb"(?:-|(?:" + _ELEMENT + rb")+)(?: (?:\xef\xbb\xbf)?|$)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Message:
    """What a syslog message says, as one line, and when it was written."""

    line: bytes
    time: float


def parse_message(data: bytes, now: float) -> Message | None:
    """Read a datagram that arrived at `now` (Unix seconds); None if it is no syslog message. Never raises."""
    header = _RFC5424.match(data) or _RFC3164.match(data)
    if header is None:
        return None
    return Message(one_line(data[header.end() :]), _time(header.groupdict(), now))


def _time(found: dict[str, bytes | None], now: float) -> float:
    try:
        if iso := found["iso"]:
            told = datetime.fromisoformat(iso.decode()).timestamp()
            return told if is_time(told) else now
        if month := found.get("month"):
            return _local_time(month, found["day"] or b"", found["clock"] or b"", now)
    except (KeyError, ValueError, OverflowError):
        pass  # no such day, or one this system cannot tell
    return now


def _local_time(month: bytes, day: bytes, clock: bytes, now: float) -> float:
    """Give the time of this year, or of the last just after it ended; `now` if it is not to be believed."""
    hour, minute, second = map(int, clock.split(b":"))
    year = time.localtime(now).tm_year
    for each in (year, year - 1):
        stamp = time.mktime((each, _MONTHS[month], int(day), hour, minute, second, 0, 0, -1))
        if now - BELIEVED <= stamp <= now + AHEAD:
            return min(stamp, now)
    return now
