"""How Django's own warnings are logged so that AppGuard's filter `django` can believe them.

Django's formats tell no client's address, and what it logs of a bad request holds what the client sent, line ends too:
in the message, or in the traceback below it. Here a record is one line that begins with what only the server knows.
"""

import logging
from collections.abc import Mapping
from typing import cast

from appguard.environ import text_of
from appguard.event import TEXT_MOST, time_text
from appguard.proxies import parse_hop


class RequestFormatter(logging.Formatter):
    """Writes time, client's address, status, logger and message on one line, without a traceback.

    The address is `REMOTE_ADDR`, so behind a proxy it is the proxy's unless the server in front of Django sets it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        meta = cast("Mapping[str, object]", getattr(getattr(record, "request", None), "META", {}))
        address = parse_hop(text_of(meta, "REMOTE_ADDR"))
        status: object = getattr(record, "status_code", None)
        message = record.getMessage()
        if not message.isprintable():
            message = message.encode("unicode_escape").decode()
        known = f"{time_text(record.created)} {address or '-'} {status if isinstance(status, int) else '-'}"
        return f"{known} {record.name} {message[: 4 * TEXT_MOST]}"
