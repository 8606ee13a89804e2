"""The verbs that only look: `status` and `list`."""

import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import click

from appguard.cli.client import ask, control_options, say, say_json, understanding
from appguard.cli.text import ban_lines, jail_lines, status_lines
from appguard.status import BanRecord, DaemonStatus, JailStatus


@click.command()
@click.argument("jail", required=False)
@control_options
def status(jail: str | None, socket_path: Path, as_json: bool) -> None:
    """Show the daemon, or one jail, in fail2ban's words."""
    reply = ask(socket_path, "GET", f"/v1/jails/{quote(jail, safe='')}" if jail else "/v1/status")
    if as_json:
        return say_json(reply)
    with understanding():
        lines = jail_lines(JailStatus.from_json(reply)) if jail else status_lines(DaemonStatus.from_json(reply))
    say(*lines)


@click.command("list")
@click.option("--jail", help="Only the bans of this jail.")
@control_options
def list_(jail: str | None, socket_path: Path, as_json: bool) -> None:
    """List the bans in force, newest first."""
    reply = ask(socket_path, "GET", f"/v1/bans?jail={quote(jail, safe='')}" if jail else "/v1/bans")
    if as_json:
        return say_json(reply)
    with understanding():
        bans = [BanRecord.from_json(record) for record in cast("list[Any]", reply["bans"])]
        lines = ban_lines(bans, time.time(), jail)
    say(*lines)
