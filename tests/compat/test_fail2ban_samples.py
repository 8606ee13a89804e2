"""fail2ban's filters, unmodified, find in fail2ban's own samples what fail2ban finds: a number, and it is all of them."""

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest

from appguard.event import Event
from appguard.filters.base import Named
from appguard.filters.fail2ban import read_filter
from appguard.filters.regex import Hit, RegexFilter
from tests.compat.fail2ban_samples import Layout, Record, find_layout, records

ZONE = "CET-01CEST-02,M3.5.0,M10.5.0"  # the samples' times are told in this zone
NOW = datetime(2005, 8, 14, 12, 0, tzinfo=timezone(timedelta(hours=2))).timestamp()  # and as of this moment
RECORDS_LEAST = 1000


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be where the samples were written."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = ZONE
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def filter_of(record: Record, layout: Layout, scratch: Path) -> RegexFilter:
    """Open the filter that a record is tried with."""
    file = layout.filter_file(record.filter)
    if file.parent == layout.test_filters:
        file = with_installed_includes(file, layout, scratch)
    parameters = ",".join(f'{name}="{value}"' for name, value in record.options.items())
    return RegexFilter(record.filter, read_filter(f"{file}[{parameters}]"))


def with_installed_includes(file: Path, layout: Layout, scratch: Path) -> Path:
    """Copy a filter of fail2ban's tests: it includes the shipped ones by a path that holds only where it was built."""
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("before =") and "/config/filter.d/" in line:
            lines[number] = f"before = {layout.filters / Path(line).name}"
    copy = scratch / file.name
    copy.write_text("\n".join(lines))
    return copy


def complaint(record: Record, hit: Hit | None, made: Event | Named | None) -> str:
    """Say what is wrong with what was found; empty if nothing is."""
    if (made is not None) != record.expected["match"]:
        return f"found {made}"
    if hit is None or made is None:
        return ""
    host = made.host if isinstance(made, Named) else made.address.text
    found: dict[str, object] = {**hit.groups, "host": host, "attempts": hit.count, "users": set(hit.users)}
    if isinstance(made, Event):
        found |= {"user": made.user, "attempts": made.count}
    for key, expected in record.expected.items():
        if key in ("match", "desc", "constraint", "time"):
            continue
        wanted = set(expected) if isinstance(expected, list) else same_address(expected) if key == "host" else expected
        if found.get(key) != wanted:
            return f"{key} is {found.get(key)!r}, not {wanted!r}"
    told = record.expected.get("time")
    if told and int(hit.time) != datetime.strptime(str(told)[:19], "%Y-%m-%dT%H:%M:%S").timestamp():
        return f"time is {datetime.fromtimestamp(hit.time).isoformat()}, not {told}"
    return ""


def same_address(text: object) -> str:
    """Write an address as we do; anything else stays as it is."""
    plain = ".".join(part.lstrip("0") or "0" for part in str(text).split(".")) if str(text)[0].isdigit() else str(text)
    try:
        return str(ip_address(plain))
    except ValueError:
        return str(text)


@pytest.mark.usefixtures("central_europe")
def test_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every record comes out as its annotation says: match, address or name, time, user, users, attempts."""
    layout = find_layout()
    filters: dict[tuple[str, str], RegexFilter] = {}
    wrong: list[str] = []
    number = 0
    for number, record in enumerate(records(layout), start=1):
        if record.case not in filters:
            filters[record.case] = filter_of(record, layout, tmp_path)
        chosen = filters[record.case]
        hit = chosen.find(record.line, NOW)
        why = complaint(record, hit, hit and chosen.event_of(hit))
        if why:
            wrong.append(f"{record.where} {record.case}: {why}\n    {record.line!r}")
    with capsys.disabled():
        print(f"\nrecords {number}, right {number - len(wrong)}, wrong {len(wrong)}")
    assert not wrong, "\n".join(wrong)
    assert number >= RECORDS_LEAST
