"""What a date in a log line may look like, piece by piece, and the time that its pieces make.

A pattern is written as for `strptime`. Each directive becomes a group whose name begins with the directive's letter; so
a pattern may have some of them optional, and what is found is read from the groups that took part. Time zones are
numbers or one of the names of `ZONE_HOURS`; a line without one is in this host's local time.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from appguard.event import TIME_MOST

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH_NAMES = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    "|sep(?:tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
DAY_NAMES = "(?:mon|tue(?:s)?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
ZONE_HOURS = {
    **{"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3},
    **{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7},  # RFC 5322
}
ZONE_NAMES = "(?:" + "|".join(sorted(ZONE_HOURS, key=len, reverse=True)) + ")(?![A-Za-z])"
ZONE = r"(?:Z|UTC|GMT)(?![A-Za-z])|[+-]\d{2}(?::?\d{2})?"
ANY_ZONE = rf"{ZONE_NAMES}|[+-]\d{{2}}(?::?\d{{2}})?"
DIRECTIVES = {
    "Y": r"\d{4}",
    "ExY": r"(?:19|20)\d{2}",
    "y": r"\d{2}",
    "Exy": r"\d{2}",
    "m": r"1[0-2]|0?[1-9]",
    "Exm": r"1[0-2]|0[1-9]",
    "d": r"3[01]|[12]\d|[ 0]?[1-9]",
    "Exd": r"3[01]|[12]\d|0[1-9]",
    "H": r"2[0-3]|[01]\d|\d",
    "ExH": r"2[0-3]|[01]\d",
    "k": r"2[0-3]|[01]\d| ?\d",
    "Exk": r"2[0-3]|[01]\d| ?\d",
    "I": r"1[0-2]|0?[1-9]",
    "ExI": r"1[0-2]|0[1-9]",
    "l": r"1[0-2]|[ 0]?[1-9]",
    "Exl": r"1[0-2]|[ 0]?[1-9]",
    "M": r"[0-5]\d|\d",
    "ExM": r"[0-5]\d",
    "S": r"6[01]|[0-5]\d|\d",
    "ExS": r"6[01]|[0-5]\d",
    "f": r"\d{1,9}",
    "b": MONTH_NAMES,
    "B": MONTH_NAMES,
    "a": DAY_NAMES,
    "A": DAY_NAMES,
    "p": r"[ap]\.?m\.?",
    "z": ZONE,
    "Z": ANY_ZONE,
    "Exz": r"[+-]\d{2}:?\d{2}|Z(?![A-Za-z])|UTC|GMT",
    "ExZ": ANY_ZONE,
    "j": r"36[0-6]|3[0-5]\d|[12]\d{2}|0?\d{1,2}",
    "s": r"\d{9,11}",
}
SEEN_AS = {"B": "b", "A": "a", "Z": "z", "k": "H", "l": "I"}
DIRECTIVE = re.compile(r"%(%|Ex[A-Za-z]|[A-Za-z])")
ZONE_NUMBER = re.compile(r"([+-])(\d{2}):?(\d{2})?")
DAY = 86_400.0
AHEAD_MOST = 120.0  # seconds that the clock of whoever wrote a time without a day may be ahead of ours
TAI_BEGIN = 2**62
EPOCH_MILLISECONDS, EPOCH_MICROSECONDS = 1e11, 1e14


def with_groups(pattern: str) -> str:
    """Write a pattern's directives as groups; one that is not known stays as it is."""
    count = 0

    def group(found: re.Match[str]) -> str:
        nonlocal count
        name = found[1]
        if name not in DIRECTIVES:
            return "%" if name == "%" else found[0]
        count += 1
        letter = name[-1]
        return f"(?P<{SEEN_AS.get(letter, letter)}_{count}>{DIRECTIVES[name]})"

    return DIRECTIVE.sub(group, pattern)


def seconds_of(groups: Mapping[str, str], time: float) -> float | None:
    """Give the Unix time of what was found, None if there is no such time. One before 1970 or after 4147 is cut.

    `time` is about when the line was written: a date without a year is its latest such day, a time without a day is
    today's or yesterday's.
    """
    found = {name.partition("_")[0]: value for name, value in groups.items()}
    try:
        told = _told(found, time)
    except (ValueError, OverflowError, OSError):  # the 30th of February, or the year 0
        return None
    return None if told is None else min(max(told, 0.0), TIME_MOST - 1)


def _told(found: Mapping[str, str], time: float) -> float | None:
    if "epoch" in found:
        return _epoch(found["epoch"])
    if "tai" in found:
        return float(int(found["tai"][:16], 16) - TAI_BEGIN)
    if "s" in found:
        return float(found["s"])
    return _seconds(found, time)


def _epoch(text: str) -> float:
    number = float(text)
    if "." in text or number < EPOCH_MILLISECONDS:
        return number
    return number / (1e6 if number >= EPOCH_MICROSECONDS else 1e3)


def _seconds(found: Mapping[str, str], time: float) -> float | None:
    if not found.keys() & {"H", "I", "Y", "y", "m", "b", "d", "j"}:
        return None
    zone = _zone(found.get("z", ""))
    now = datetime.fromtimestamp(time, zone)
    year = _year(found)
    month = MONTHS.index(found["b"][:3].lower()) + 1 if "b" in found else int(found.get("m", 0))
    day = int(found.get("d", 0))
    clock = timedelta(hours=_hour(found), minutes=int(found.get("M", 0)), seconds=min(59, int(found.get("S", 0))))
    clock += timedelta(seconds=float(f"0.{found['f']}") if "f" in found else 0.0)
    if "j" in found and not month:
        first = datetime(year or now.year, 1, 1, tzinfo=zone)
        return (first + timedelta(days=int(found["j"]) - 1) + clock).timestamp()
    if not (month or day or year):
        told = (datetime(now.year, now.month, now.day, tzinfo=zone) + clock).timestamp()
        return told if told <= time + AHEAD_MOST else told - DAY
    told = (
        datetime(year or _leap(now.year, month, day), month or now.month, day or 1, tzinfo=zone) + clock
    ).timestamp()
    if year is None and told > time + DAY:
        before = datetime(_leap(now.year - 1, month, day), month or now.month, day or 1, tzinfo=zone)
        told = (before + clock).timestamp()
    return told


def _leap(year: int, month: int, day: int) -> int:
    """Give the latest year up to this that has the day: a yearless 29th of February is of a leap year."""
    while (month, day) == (2, 29) and not (year % 4 == 0 and (year % 100 or year % 400 == 0)):
        year -= 1
    return year


def _year(found: Mapping[str, str]) -> int | None:
    if "Y" in found:
        return int(found["Y"])
    if "y" in found:
        short = int(found["y"])
        return short + (1900 if short >= 69 else 2000)
    return None


def _hour(found: Mapping[str, str]) -> int:
    if "I" not in found:
        return int(found.get("H", 0))
    afternoon = found.get("p", "").lower().startswith("p")
    return int(found["I"]) % 12 + (12 if afternoon else 0)


def _zone(text: str) -> timezone | None:
    """Give the zone, None for local time."""
    if text.upper() in ZONE_HOURS:
        return timezone(timedelta(hours=ZONE_HOURS[text.upper()]))
    found = ZONE_NUMBER.fullmatch(text)
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
    return timezone(-offset if found[1] == "-" else offset)
