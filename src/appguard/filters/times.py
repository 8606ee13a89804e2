"""The times that log lines tell, read for all own filters: a form by its name, a text to Unix seconds.

Lines of one second tell the same text, so what was read is kept by its text. A time without a zone is this host's local
time. A time without a year is of the latest year that does not put it more than a day after `now`, the time at which
the line was written as far as its source knows.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from appguard.errors import ConfigError
from appguard.event import is_time

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
AHEAD_MOST = 86_400
DAY = r"(?P<month>[A-Z][a-z]{2}) (?P<day>[ 0-9]?[0-9])"
CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?"
ZONE = r"(?: ?(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2}))?"
FORMS = {
    name: re.compile(form)
    for name, form in {
        "clf": rf"(?P<day>[0-9]{{2}})/(?P<month>[A-Z][a-z]{{2}})/(?P<year>[0-9]{{4}})[: ]{CLOCK}{ZONE}",
        "iso": rf"(?P<year>[0-9]{{4}})([-/])(?P<month>[0-9]{{2}})\2(?P<day>[0-9]{{2}})[T ]{CLOCK}{ZONE}",
        "ctime": rf"[A-Z][a-z]{{2}} {DAY} {CLOCK} (?P<year>[0-9]{{4}})",
        "syslog": rf"(?:(?P<year>[0-9]{{4}}) )?{DAY} {CLOCK}",
        "epoch": r"[0-9]{1,19}(?:\.[0-9]{1,9})?",
    }.items()
}
UNITS = (1e17, 1e14, 1e11)  # from here on a number of nano-, micro- or milliseconds since 1970


def check_forms(forms: Sequence[str]) -> None:
    """Raise `ConfigError` for a form of time that there is not."""
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise ConfigError(f"time = {unknown[0]!r}: expected some of {', '.join(map(repr, FORMS))}")


def seconds_of(text: str, forms: Sequence[str], now: float) -> float | None:
    """Give the Unix seconds of a time in one of some forms; None if it has none of them."""
    for form in forms:
        told = _yearless(text, now) if form == "syslog" else _told(text, form)
        if told is not None:
            return told
    return None


def _yearless(text: str, now: float) -> float | None:
    year = datetime.fromtimestamp(now).year
    for each in (year + 1, year, year - 1):
        told = _told(f"{each} {text}", "syslog")
        if told is not None and told <= now + AHEAD_MOST:
            return told
    return None


@lru_cache(maxsize=4096)
def _told(text: str, form: str) -> float | None:
    found = FORMS[form].fullmatch(text)
    if found is None:
        return None
    try:
        told = _epoch(float(text)) if form == "epoch" else _date(found.groupdict()).timestamp()
    except (ValueError, OverflowError, OSError):  # the 30th of February, a month "Nev", a zone of 99 hours
        return None
    return told if is_time(told) else None


def _epoch(number: float) -> float:
    for unit, most in zip((1e9, 1e6, 1e3), UNITS, strict=True):
        if number >= most:
            return number / unit
    return number


def _date(found: dict[str, str | None]) -> datetime:
    year, month, day = found["year"] or "", found["month"] or "", found["day"] or ""
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    micro = int((found["fraction"] or "").ljust(6, "0")[:6])
    number = int(month) if month.isdigit() else MONTHS.index(month) + 1
    return datetime(int(year), number, int(day), hour, minute, second, micro, _zone(found.get("zone")))


def _zone(text: str | None) -> timezone | None:
    if not text:
        return None
    if text == "Z":
        return timezone(timedelta())
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)
