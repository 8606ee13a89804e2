"""`log.sock`: a unix datagram socket that nginx and others write their log to as they would to syslog.

A datagram is one message in the form of RFC 3164, `<190>Nov 20 08:31:47 appguard: the line`, and the line is delivered.
Its time is the line's own business: the header has no year and no zone. All else is as with `events.sock`, above all
that the kernel says who sent it; so a jail names the users it listens to, and other messages do not count.
"""

import re

from appguard.sources.socket import EventSocket

HEADER = re.compile(rb"<\d{1,3}>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?:[!-~]+ )??[\w./-]+(?:\[\d+\])?: ", re.ASCII)


class SyslogSocket(EventSocket):
    """Receives syslog messages on a unix datagram socket and delivers what they say."""

    def _lines(self, data: bytes, flags: int) -> list[bytes]:
        header = HEADER.match(data)
        return super()._lines(data[header.end() :] if header else b"", flags)
