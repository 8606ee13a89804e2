"""What a replay found, as one page that needs nothing else: no script, nothing loaded from anywhere.

Attackers choose user names and paths, so every text that is not ours goes through `_text`, and the page forbids the
browser everything but its own style. Jails are told apart by their row and name, never by colour alone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from appguard.cli.client import printable
from appguard.cli.replay_plot import plot_of
from appguard.cli.replay_text import moment, until
from appguard.cli.text import duration_text
from appguard.replay import Replayed, ReplayedBan

ROWS_MOST = 2_000  # of bans listed
OFFENDERS_MOST = 20
LINES_MOST = 3  # of evidence
SHORT = 40  # characters of a cell that is not broken into lines
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A cell with lines of a log."""

    lines: Sequence[str]


def html_of(found: Replayed) -> str:
    """Give the page."""
    style = files("appguard.cli").joinpath("replay.css").read_text(encoding="utf-8")
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>AppGuard replay</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            "<h1>Who would have been banned</h1>",
            f"<p>{_summary(found)}</p>",
            *_notes(found),
            "<h2>Bans over time</h2>",
            plot_of(found),
            "<p>A mark is a ban, from its beginning to its end; an empty one is of a dry run.</p>",
            *_section("Jails", ("Jail", "Failures", "Bans", "Addresses", ""), _jails(found)),
            *_section("Top offenders", ("Address", "Bans", "Failures", "Jails", "First", "Last"), _offenders(found)),
            *_section(_title(found), ("Address", "Jail", "Banned at", "Until", "Failures", "Evidence"), _bans(found)),
            *_section("Refused by the judge", ("Network", "Jail", "Times", "Why"), _refused(found)),
            *_section("Files", ("File", "Lines", "With an event", ""), _files(found)),
            "</main>\n</body>\n</html>\n",
        )
    )


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _summary(found: Replayed) -> str:
    span = ""
    if found.first is not None and found.last is not None:
        span = f" from {moment(found.first)} to {moment(found.last)} ({duration_text(found.last - found.first)})"
    networks = len({ban.network for ban in found.bans})
    return _text(
        f"{found.lines:,} lines{span}, {found.matched:,} with an event: "
        f"{len(found.bans):,} bans of {networks:,} addresses and networks. Nothing was enforced."
    )


def _notes(found: Replayed) -> Iterator[str]:
    damaged = [each.complaint for each in found.files if each.complaint]
    if found.notes or damaged:
        yield f'<ul class="notes">{"".join(f"<li>{_text(note)}</li>" for note in (*damaged, *found.notes))}</ul>'


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Write a table with its title; nothing if it has no rows. Numbers are set to the right."""
    written = list(rows)
    if not written:
        return
    head = "".join(
        f'<th scope="col"{_class(cell)}>{_text(head)}</th>' for head, cell in zip(heads, written[0], strict=True)
    )
    yield f'<h2>{_text(title)}</h2>\n<div class="wide"><table>'
    yield f"<thead><tr>{head}</tr></thead>\n<tbody>"
    yield from map(_row, written)
    yield "</tbody></table></div>"


def _class(cell: object) -> str:
    return ' class="number"' if isinstance(cell, int) else ""


def _row(cells: Sequence[object]) -> str:
    return f"<tr>{''.join(map(_cell, cells))}</tr>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"<td{_class(value)}>{value:,}</td>"
    if isinstance(value, Evidence):
        return f'<td class="long">{"".join(f"<code>{_text(line)}</code>" for line in value.lines)}</td>'
    text = _text(value)
    return f'<td class="long">{text}</td>' if len(text) > SHORT else f"<td>{text}</td>"


def _jails(found: Replayed) -> Iterator[Sequence[object]]:
    for each in found.jails:
        remark = "; ".join(filter(None, ("dry run" if each.dry_run else "", each.alarm)))
        yield each.name, each.total_failed, each.total_banned, each.networks, remark


def _offenders(found: Replayed) -> Iterator[Sequence[object]]:
    by_network: dict[str, list[ReplayedBan]] = {}
    for ban in found.bans:
        by_network.setdefault(ban.network, []).append(ban)
    counted = Counter({network: len(bans) for network, bans in by_network.items()})
    for network, times in counted.most_common(OFFENDERS_MOST):
        bans = by_network[network]
        jails = ", ".join(dict.fromkeys(ban.jail for ban in bans))
        failures = sum(ban.failures for ban in bans)
        yield network, times, failures, jails, moment(bans[0].start), moment(bans[-1].start)


def _title(found: Replayed) -> str:
    return "Bans" if len(found.bans) <= ROWS_MOST else f"Bans (the first {ROWS_MOST:,} of {len(found.bans):,})"


def _bans(found: Replayed) -> Iterator[Sequence[object]]:
    for ban in found.bans[:ROWS_MOST]:
        jail = f"{ban.jail} (dry run)" if ban.dry_run else ban.jail
        evidence = Evidence(ban.evidence[-LINES_MOST:] or (ban.reason,))
        yield ban.network, jail, moment(ban.start), until(ban), ban.failures, evidence


def _refused(found: Replayed) -> Iterator[Sequence[object]]:
    return ((each.network, each.jail, each.times, each.why) for each in found.refused)


def _files(found: Replayed) -> Iterator[Sequence[object]]:
    return ((each.path, each.lines, each.matched, each.complaint) for each in found.files)
