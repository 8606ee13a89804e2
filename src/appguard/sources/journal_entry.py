"""Reads one entry of the systemd journal, as `journalctl -o json` gives it: an object of fields on a line.

A field is a text, a list of byte values where it is no clean text, a list of such where an entry has it more than once,
and null where it is too large.
"""

from dataclasses import dataclass
from typing import cast

import msgspec

from appguard.event import is_time
from appguard.sources.lines import one_line, trim

FIELDS = ("MESSAGE", "SYSLOG_IDENTIFIER", "SYSLOG_PID", "_HOSTNAME", "_COMM", "_PID")  # that journalctl is asked for
IDENTIFIER_MOST = 128  # bytes of a host's or program's name


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: where it stands in the journal, when it was received, who wrote it, and its message as one line.

    `writer` is what syslog would have written in front of the message, without the date: `host sshd[17]: `.
    """

    cursor: str
    time: float
    writer: bytes
    message: bytes

    @property
    def line(self) -> bytes:
        """Give writer and message, within the bounds of a line."""
        return trim(self.writer + self.message)


def parse_entry(record: bytes) -> Entry:
    """Read one line of `journalctl -o json`; raise `ValueError` if it is something else."""
    try:
        found: object = msgspec.json.decode(record)
        if not isinstance(found, dict):
            raise ValueError("a journal entry is an object")
        fields = cast("dict[str, object]", found)
        cursor, stamp = fields["__CURSOR"], fields["__REALTIME_TIMESTAMP"]
        if not isinstance(cursor, str) or not isinstance(stamp, str):
            raise ValueError("cursor and time of a journal entry are texts")
        time = int(stamp) / 1e6
        if not is_time(time):
            raise ValueError("the time of a journal entry is none")
        return Entry(cursor, time, _writer(fields), one_line(_bytes(fields.get("MESSAGE"))))
    except (KeyError, TypeError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise ValueError(f"no journal entry: {error!r}") from error


def _writer(fields: dict[str, object]) -> bytes:
    host = _name(fields.get("_HOSTNAME"))
    program = _name(fields.get("SYSLOG_IDENTIFIER")) or _name(fields.get("_COMM")) or b"unknown"
    pid = _name(fields.get("SYSLOG_PID")) or _name(fields.get("_PID"))
    return (host + b" " if host else b"") + program + (b"[" + pid + b"]" if pid else b"") + b": "


def _name(value: object) -> bytes:
    """Give a name that cannot be taken for more than one: blanks in it become underscores."""
    return b"_".join(_bytes(value)[:IDENTIFIER_MOST].split())


def _bytes(value: object) -> bytes:
    """Give the bytes of a field; a field an entry has more than once is joined by blanks."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode(errors="replace")
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no field of a journal entry")
    items = cast("list[object]", value)
    if items and isinstance(items[0], int):
        return bytes(cast("list[int]", items))
    return b" ".join(map(_bytes, items))
