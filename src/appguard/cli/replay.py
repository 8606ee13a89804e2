"""The verb `replay`: who would have been banned, from finished logs."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appguard.ban import PERMANENT, parse_duration
from appguard.cli.client import CONFIG_READ, CommandError, WrongInput, config_option, say, say_json
from appguard.errors import AppGuardError, ConfigError

if TYPE_CHECKING:  # the verb imports what it runs
    from appguard.replay import Progress, Replayed

BAR = 24
PACKED_MOST = 12  # times a compressed file is likely to grow, at least as far as the bar is concerned


def time_of(text: str, now: float) -> float:
    """Read a time: a date with or without a time of day, in local time if it names no zone, or how long before now."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass  # a duration then
    try:
        ago = parse_duration(text, "--since")
    except ConfigError:
        ago = PERMANENT
    if ago == PERMANENT:
        raise click.UsageError(
            f"--since {text!r}: expected '2026-11-20', '2026-11-20 09:11:02' or a duration such as 1d"
        )
    return now - ago


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--since", help="Leave out what was before: 2026-11-20, '2026-11-20 09:11:02', or 1d for a day ago.")
@click.option("--jail", "jails", multiple=True, help="The jail that reads the files, whatever its sources; repeatable.")
@config_option(CONFIG_READ)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to this file.")
def replay(
    files: Sequence[Path],
    since: str | None,
    jails: Sequence[str],
    config: Path | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Say whom the jails would have banned, from logs.

    They may be compressed. Nothing is enforced.
    """
    from appguard.cli.replay_text import replayed_lines

    now = time.time()
    begin = time_of(since, now) if since else float("-inf")
    try:
        found = _replay(files, begin, now, jails, config)
    except ConfigError as error:
        raise WrongInput(str(error)) from error
    except AppGuardError as error:
        raise CommandError(str(error)) from error
    if page is not None:
        _write(page, found)
    if as_json:
        say_json(asdict(found) | {"files": [asdict(each) | {"path": str(each.path)} for each in found.files]})
    else:
        say(*replayed_lines(found))
        if page is not None:
            say(f"Report: {page}")
    damaged = [each.complaint for each in found.files if each.complaint]
    if damaged:
        raise CommandError("; ".join(damaged))


def _replay(files: Sequence[Path], since: float, now: float, jails: Sequence[str], config: Path | None) -> "Replayed":
    from appguard.config import CONFIG_FILE, daemon_config
    from appguard.host import read_host_facts
    from appguard.replay import Replay, plan_of

    logging.getLogger("appguard").setLevel(logging.CRITICAL)  # what the daemon would log is what the report says
    settings = daemon_config(config or CONFIG_FILE)
    plan = plan_of(settings, files, jails)
    made = Replay(settings, plan, read_host_facts(), since=since, latest=now)
    return made.run(_bar()) if sys.stderr.isatty() else made.run()


def _write(page: Path, found: "Replayed") -> None:
    from appguard.cli.replay_html import html_of

    try:
        page.write_text(html_of(found), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{page} cannot be written: {error.strerror}") from error


def _bar() -> "Callable[[Progress], None]":
    """Give what draws a bar on standard error: the part of the files that is read, estimated for compressed ones."""
    from appguard.sources.siblings import is_packed

    sizes: dict[Path, int] = {}

    def draw(progress: "Progress") -> None:
        for path in (each.path for each in progress.files if each.path not in sizes):
            sizes[path] = path.stat().st_size * (PACKED_MOST if is_packed(path.name) else 1)
        done = sum(min(each.size, sizes[each.path]) for each in progress.files)
        filled = BAR * done // (sum(sizes.values()) or 1)
        bar = "#" * filled + "-" * (BAR - filled)
        print(f"\r[{bar}] {progress.lines:,} lines, {progress.bans:,} bans\x1b[K", end="", file=sys.stderr, flush=True)

    def draw_and_end(progress: "Progress") -> None:
        if progress.is_done:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            draw(progress)

    return draw_and_end
