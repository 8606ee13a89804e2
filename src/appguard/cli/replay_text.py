"""What a replay found, as text for people."""

from collections.abc import Iterator
from datetime import datetime

from appguard.cli.client import printable
from appguard.cli.text import aligned, duration_text
from appguard.replay import Replayed, ReplayedBan

EVIDENCE_MOST = 96  # characters


def replayed_lines(found: Replayed) -> Iterator[str]:
    """Write the bans, the totals of the jails, and what was read."""
    if found.bans:
        yield from aligned([("ADDRESS", "JAIL", "BANNED AT", "UNTIL", "FAILURES", "EVIDENCE"), *map(_row, found.bans)])
        yield ""
    rows = [
        (
            each.name,
            str(each.total_failed),
            str(each.total_banned),
            str(each.networks),
            _remark(each.dry_run, each.alarm),
        )
        for each in found.jails
    ]
    yield from aligned([("JAIL", "FAILURES", "BANS", "ADDRESSES", ""), *rows])
    yield ""
    yield from _totals(found)


def _row(ban: ReplayedBan) -> tuple[str, ...]:
    evidence = ban.evidence[-1] if ban.evidence else ban.reason
    cells = (ban.network, ban.jail, moment(ban.start), until(ban), str(ban.failures), shortened(evidence))
    return tuple(map(printable, cells))


def shortened(text: str) -> str:
    """Cut a text that strangers choose."""
    return text if len(text) <= EVIDENCE_MOST else text[: EVIDENCE_MOST - 3] + "..."


def _remark(dry_run: bool, alarm: str) -> str:
    return "; ".join((*(["dry run"] if dry_run else []), *([alarm] if alarm else [])))


def _totals(found: Replayed) -> Iterator[str]:
    bans = "1 ban" if len(found.bans) == 1 else f"{len(found.bans):,} bans"
    span = ""
    if found.first is not None and found.last is not None:
        span = f", {moment(found.first)} to {moment(found.last)} ({duration_text(found.last - found.first)})"
    yield f"{found.lines:,} lines of {_files(len(found.files))}, {found.matched:,} with an event{span}: {bans}"
    for refused in found.refused:
        yield f"Refused:\t{refused.network} (jail {refused.jail}, {refused.times} times): {refused.why}"
    yield from (f"Note:\t{note}" for note in found.notes)


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def moment(seconds: float) -> str:
    """Write a time in this host's zone."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def until(ban: ReplayedBan) -> str:
    """Write when a ban ends."""
    return "for ever" if ban.end is None else moment(ban.end)
