"""What the daemon says, as text for people.

`status` keeps fail2ban's tree and words, so that scripts written for it keep parsing the first lines.
"""

from collections.abc import Iterator, Sequence

from appguard.cli.client import printable
from appguard.ports import spoken
from appguard.status import BanRecord, DaemonStatus, Dropped, FirewallSummary, JailStatus, ReachSummary, SourceSummary

REASON_MOST = 48
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def status_lines(status: DaemonStatus) -> list[str]:
    """Write the daemon's status: fail2ban's three lines, then one for each thing there is to know."""
    return [
        "Status",
        f"|- Number of jail:\t{len(status.jails)}",
        f"`- Jail list:\t{', '.join(jail.name for jail in status.jails)}",
        f"Daemon:\t{status.version}, pid {status.pid}",
        f"Store:\t{status.store}",
        *(f"Firewall:\t{_firewall(firewall, status)}" for firewall in status.firewalls),
        *(f"Firewall error:\t{firewall.error}" for firewall in status.firewalls if firewall.error),
        *(f"Reach:\t{_reach(reach)}" for reach in status.reach),
        *(f"Alarm:\tjail {jail.name}: {jail.alarm}" for jail in status.jails if jail.alarm),
        *(f"Source:\t{_source(source)}" for source in status.sources),
        *(f"Refused:\t{refused.network} (jail {refused.jail}): {refused.why}" for refused in status.refused),
    ]


def _firewall(firewall: FirewallSummary, status: DaemonStatus) -> str:
    enforcing = "NOT enforcing" if firewall.error else "enforcing"
    if not status.enforcing:
        enforcing = "NOT enforcing (appguard enforce on)"
    dropped = "" if firewall.dropped is None else f", {_count(firewall.dropped, 'packet')} dropped"
    return f"{firewall.name}, {enforcing}, {_count(status.bans, 'ban')}{dropped}"


def _reach(reach: ReachSummary) -> str:
    bans, enforcers = _count(reach.bans, "ban"), " and ".join(reach.enforced_by)
    by = f"by {enforcers} only" if enforcers else "by nobody"
    return f"{bans} {by}: the packets come from {printable(reach.via)}, not from the client"


def _source(source: SourceSummary) -> str:
    origins = " ".join(source.origins) or "nothing yet"
    what = source.name if origins == source.name else f"{source.name} ({origins})"
    lag = f"{_count(source.behind, 'byte')} behind" if source.behind else "up to date"
    lag += f" for {duration_text(source.lag)}" if source.lag >= 1 else ""
    lag += f", {_count(source.dropped, 'message')} dropped by the kernel" if source.dropped else ""
    return f"{what}, {lag}{_lines(source)}" + (f", complaint: {source.complaint}" if source.complaint else "")


def _lines(source: SourceSummary) -> str:
    """Write how many lines came and what became of them; nothing if none did."""
    if not source.lines:
        return ""
    found = [
        (source.passed_over, "of banned addresses"),
        (source.refused, "of users in no jail"),
        (source.untimely, "too old or in the future"),
    ]
    parts = [f"{source.matched or 'none'} matched", *(f"{number} {what}" for number, what in found if number)]
    return f", {_count(source.lines, 'line')}: {', '.join(parts)}"


def jail_lines(jail: JailStatus) -> list[str]:
    """Write one jail's status: fail2ban's lines, and who enforces its bans."""
    enforced_by = [jail.enforced_by, *map(_reach, jail.reach)]
    return [
        f"Status for the jail: {jail.name}",
        "|- Filter",
        f"|  |- Currently failed:\t{jail.currently_failed}",
        f"|  |- Total failed:\t{jail.total_failed}",
        f"|  `- File list:\t{' '.join(jail.origins)}",
        "`- Actions",
        f"   |- Currently banned:\t{jail.currently_banned}",
        f"   |- Total banned:\t{jail.total_banned}",
        f"   |- Banned IP list:\t{' '.join(jail.banned)}",
        f"   `- Enforced by:\t{'; '.join(enforced_by)}",
        *([f"Ports:\t{spoken(jail.ports)}"] if jail.ports else []),
        *([f"Dropped:\t{_dropped(jail.dropped)}"] if jail.dropped is not None else []),
        *([f"Alarm:\t{jail.alarm}"] if jail.alarm else []),
    ]


def _dropped(dropped: Dropped) -> str:
    return f"{_count(dropped.packets, 'packet')}, {_count(dropped.bytes, 'byte')}"


def ban_lines(bans: Sequence[BanRecord], now: float, jail: str | None = None) -> list[str]:
    """Write bans, all or those of one jail, as an aligned table, newest first."""
    if not bans:
        return [f"No bans of {jail!r} in force." if jail else "No bans in force."]
    newest_first = sorted(bans, key=lambda ban: ban.start, reverse=True)
    return list(
        aligned(
            [
                ("ADDRESS", "PORTS", "JAIL", "ENDS IN", "FAILURES", "BLOCKED BY", "REASON", "REF"),
                *_rows(newest_first, now),
            ]
        )
    )


def _rows(bans: Sequence[BanRecord], now: float) -> Iterator[tuple[str, ...]]:
    for ban in bans:
        ends = "for ever" if ban.end is None else duration_text(ban.end - now)
        reason = ban.reason if len(ban.reason) <= REASON_MOST else ban.reason[: REASON_MOST - 3] + "..."
        blocked_by = ", ".join(ban.enforced_by) or "-"
        cells = (ban.network, spoken(ban.ports), ban.jail, ends, ban.failures, blocked_by, reason or "-", ban.ref)
        yield tuple(printable(str(cell)) for cell in cells)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write rows as a table, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def span_text(ban: BanRecord) -> str:
    """Write how long a ban lasts from its start: `for 10m`, `for ever`."""
    return "for ever" if ban.end is None else f"for {duration_text(ban.end - ban.start)}"


def duration_text(seconds: float) -> str:
    """Write a duration with its two greatest units: `4m 10s`, `1d 2h`, `10m`; `0s` for what is over."""
    rest = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        amount, rest = divmod(rest, size)
        if parts or amount:
            parts.append(f"{amount}{unit}" if amount else "")
    return " ".join(part for part in parts[:2] if part) or "0s"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
