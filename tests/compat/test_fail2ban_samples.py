"""fail2ban's filters, unmodified, find in fail2ban's own samples what fail2ban finds: all of it."""

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import cast

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
    found = details_of(hit, made)
    for key, expected in record.expected.items():
        if key in ("match", "desc", "constraint") or (key == "time" and not expected):
            continue
        if found.get(key) != as_found(key, expected):
            return f"{key} is {found.get(key)!r}, not {expected!r}"
    return ""


def details_of(hit: Hit, made: Event | Named) -> dict[str, object]:
    """Give what was found under the names that annotations use."""
    host = made.host if isinstance(made, Named) else made.address.text
    details: dict[str, object] = {
        **hit.groups,
        "host": host,
        "attempts": hit.attempts,
        "users": set(hit.users),
        "time": int(hit.time),
    }
    if isinstance(made, Event):
        details["user"] = made.user
    return details


def as_found(key: str, expected: object) -> object:
    """Give what an annotation expects as we would say it."""
    if key == "time":
        return int(datetime.strptime(str(expected)[:19], "%Y-%m-%dT%H:%M:%S").timestamp())
    if isinstance(expected, list):
        return set(cast("list[str]", expected))
    return same_address(str(expected)) if key == "host" else expected


def same_address(text: str) -> str:
    """Write an address as we do, without zeros before its numbers; anything else stays as it is."""
    try:
        return str(ip_address(".".join(part.lstrip("0") or "0" for part in text.split("."))))
    except ValueError:
        return text


@pytest.mark.usefixtures("central_europe")
def test_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record comes out as its annotation says: match, address or name, time, user, users, attempts."""
    monkeypatch.setattr("appguard.filters.patience.AT_ONCE", 60.0)  # what lines cost is asked elsewhere
    layout = find_layout()
    filters: dict[tuple[str, str], RegexFilter] = {}
    wrong: list[str] = []
    tried = list(records(layout))
    for record in tried:
        if record.case not in filters:
            filters[record.case] = filter_of(record, layout, tmp_path)
        chosen = filters[record.case]
        hit = chosen.find(record.line, NOW)
        why = complaint(record, hit, None if hit is None else chosen.event_of(hit))
        if why:
            wrong.append(f"{record.where} {record.case}: {why}\n    {record.line!r}")
    with capsys.disabled():
        print(f"\nrecords {len(tried)}, right {len(tried) - len(wrong)}, wrong {len(wrong)}")
    assert not wrong, "\n".join(wrong)
    assert len(tried) >= RECORDS_LEAST
