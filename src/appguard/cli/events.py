"""`events`: what became of bans on this host and in its fleet, and why."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click

from appguard.ban_log import BanEvent
from appguard.cli.client import NotReachable, ask, control_options, printable, say, understanding
from appguard.cli.text import duration_text

LAST = 20
EVIDENCE_SHOWN = 3
AGAIN = 1.0  # seconds until a daemon that is away is asked again
SECONDS_MOST = 40.0  # a daemon lets who follows wait for 25
_WHAT = {"ban": "Ban", "prolong": "Prolong", "lift": "Unban"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--since", type=click.IntRange(0), help=f"Events after this cursor; else the last {LAST}.")
@control_options
def events(follow: bool, since: int | None, socket_path: Path, as_json: bool) -> None:
    """Show who was banned and lifted, and what led to it.

    Also by whom and on which host; the oldest first. With --json one object per line; the cursor of the last one is
    where to go on with --since.
    """
    cursor = -LAST if since is None else since
    found, cursor = _ask(socket_path, cursor, wait=False)
    _say(found, as_json=as_json)
    while found and since is not None and not follow:  # there may be more than one answer holds
        found, cursor = _ask(socket_path, cursor, wait=False)
        _say(found, as_json=as_json)
    while follow:
        try:
            found, cursor = _ask(socket_path, cursor, wait=True)
        except NotReachable:
            time.sleep(AGAIN)  # it is being restarted; its events go on with the same numbers
            continue
        _say(found, as_json=as_json)


def _ask(socket_path: Path, since: int, *, wait: bool) -> tuple[list[BanEvent], int]:
    reply = ask(socket_path, "GET", f"/v1/events?since={since}{'&wait=1' if wait else ''}", seconds=SECONDS_MOST)
    with understanding():
        found = [BanEvent.from_json(each) for each in cast("list[Any]", reply["events"])]
        return found, int(cast("int", reply["cursor"]))


def _say(found: Sequence[BanEvent], *, as_json: bool) -> None:
    for event in found:
        if as_json:
            print(json.dumps(event.to_json()), flush=True)
        else:
            say(*event_lines(event))


def event_lines(event: BanEvent) -> Iterator[str]:
    """Write an event: one line of what happened, then what led to it."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    what = f"{_WHAT.get(event.what, event.what)} {event.network}" + (f" {event.ports}" if event.ports else "")
    yield printable(f"{stamp}  {what}  {_who(event)}  ref {event.ref}")
    if event.what == "lift":
        return
    lasts = "for ever" if event.end is None else f"for {duration_text(event.end - event.start)}"
    yield printable(f"    {lasts}" + (f": {event.reason}" if event.reason else ""))
    if event.request_ids:
        yield printable(f"    requests {' '.join(event.request_ids)}")
    if event.via:
        yield printable(f"    via {' '.join(event.via)}")
    lines = Counter(event.evidence)  # in the order they came
    for line, times in list(lines.items())[-EVIDENCE_SHOWN:]:
        yield printable(f"    | {line}" + (f"  ({times} times)" if times > 1 else ""))
    if len(lines) > EVIDENCE_SHOWN:
        yield f"    | and {len(lines) - EVIDENCE_SHOWN} lines before them (--json shows all)"


def _who(event: BanEvent) -> str:
    jail = "" if event.jail in ("manual", "unknown") else f" (jail {event.jail})"
    program = "fail2ban" if event.reason == "fail2ban" else "a program"
    who = {"jail": f"by jail {event.jail}", "program": f"by {program}{jail}"}.get(event.by, f"by a person{jail}")
    return who + (f" on {event.host}" if event.host else "")
