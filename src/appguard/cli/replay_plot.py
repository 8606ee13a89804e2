"""Bans over time as a drawing: one row for each jail, one mark for each ban from its beginning to its end.

Marks of one jail that overlap are put below each other, in at most `LANES_MOST` lanes; what finds no free lane is drawn
over the last. A ban that goes on behind the end of the logs is drawn up to the edge.
"""

import time
from collections.abc import Iterator, Sequence
from html import escape

from appguard.cli.client import printable
from appguard.cli.replay_text import moment, until
from appguard.replay import Replayed, ReplayedBan

MARKS_MOST = 5_000
LANES_MOST = 8
WIDTH, LEFT, RIGHT = 1000, 150, 20
LANE, GAP, TOP, BOTTOM = 9, 14, 8, 30
MARK_LEAST = 4.0  # wide, so that a short ban of a long log can be seen
NAME_MOST = 20
COLOURS = 6  # classes c0 to c5 of the style
STEPS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000)
TICKS_MOST = 8


def plot_of(found: Replayed) -> str:
    """Give the drawing as SVG; a sentence where there is nothing to draw."""
    if not found.bans or found.first is None or found.last is None:
        return "<p>No ban.</p>"
    shown = sorted(found.bans[:MARKS_MOST], key=lambda ban: ban.start)
    begin = min(found.first, shown[0].start)
    axis = _Axis(begin, max(found.last, shown[-1].start, begin + 1))
    jails = [each.name for each in found.jails if any(ban.jail == each.name for ban in shown)]
    body: list[str] = []
    y = TOP
    for number, name in enumerate(jails):
        lanes = _lanes([ban for ban in shown if ban.jail == name], axis)
        height = LANE * (max(lane for _, lane in lanes) + 1)
        body += _jail(name, number, lanes, y, height, axis)
        y += height + GAP
    said = f"{len(shown)} bans by {len(jails)} jails over time; the table below lists them"
    more = f"<p>The first {MARKS_MOST:,} of {len(found.bans):,} bans.</p>" if len(found.bans) > MARKS_MOST else ""
    head = f'<svg viewBox="0 0 {WIDTH} {y + BOTTOM}" role="img" aria-label="{said}">'
    return "\n".join((f'<div class="wide">{head}', *axis.ticks(y), *body, f"</svg></div>{more}"))


class _Axis:
    """From times to places."""

    def __init__(self, begin: float, end: float) -> None:
        self._begin = begin
        self._end = end

    def x(self, seconds: float | None) -> float:
        """Give the place of a time; the edge for what is behind it."""
        part = 1.0 if seconds is None else min(1.0, (seconds - self._begin) / (self._end - self._begin))
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def ticks(self, bottom: int) -> Iterator[str]:
        """Write a line and a label for each round time, in this host's zone."""
        span = self._end - self._begin
        step = next((step for step in STEPS if span / step <= TICKS_MOST), STEPS[-1])
        ahead = time.localtime(self._begin).tm_gmtoff
        form = "%H:%M:%S" if step < 60 else "%H:%M" if span < 86400 else "%b %d %H:%M" if step < 86400 else "%Y-%m-%d"
        at = ((self._begin + ahead) // step + 1) * step - ahead
        while at <= self._end:
            x, label = self.x(at), time.strftime(form, time.localtime(at))
            yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>'
            yield f'<text class="label" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
            at += step


def _lanes(bans: Sequence[ReplayedBan], axis: _Axis) -> list[tuple[ReplayedBan, int]]:
    """Give each ban the first lane that is free by then."""
    ends: list[float] = []
    placed: list[tuple[ReplayedBan, int]] = []
    for ban in bans:
        x = axis.x(ban.start)
        lane = next((lane for lane, end in enumerate(ends) if end <= x), len(ends))
        if lane == LANES_MOST:
            lane -= 1
        end = x + _width(ban, axis) + 1
        ends[lane:] = [end, *ends[lane + 1 :]]
        placed.append((ban, lane))
    return placed


def _width(ban: ReplayedBan, axis: _Axis) -> float:
    return max(MARK_LEAST, axis.x(ban.end) - axis.x(ban.start))


def _jail(
    name: str, number: int, lanes: Sequence[tuple[ReplayedBan, int]], y: int, height: int, axis: _Axis
) -> Iterator[str]:
    label = name if len(name) <= NAME_MOST else name[: NAME_MOST - 1] + "…"
    yield f'<text class="name" x="{LEFT - 10}" y="{y + LANE}" text-anchor="end">{escape(label)}</text>'
    yield f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + height + 3}" y2="{y + height + 3}"/>'
    for ban, lane in lanes:
        told = f"{ban.network} banned by {ban.jail} at {moment(ban.start)} until {until(ban)}: {ban.reason}"
        x, width = axis.x(ban.start), _width(ban, axis)
        kind = f"ban c{number % COLOURS}" + (" dry" if ban.dry_run else "")
        yield (
            f'<rect class="{kind}" x="{x:.1f}" y="{y + lane * LANE}" width="{width:.1f}" height="{LANE - 2}" rx="1.5">'
            f"<title>{escape(printable(told))}</title></rect>"
        )
