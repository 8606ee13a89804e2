"""`safelist`: whom nobody bans, beside what the settings say; on all hosts of a fleet."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import click

from appguard.address import network_text, parse_network
from appguard.ban import parse_duration
from appguard.cli.client import ask, control_options, printable, say, say_json, understanding
from appguard.cli.text import aligned, duration_text
from appguard.errors import AddressError, ConfigError
from appguard.status import BanRecord, SafelistRecord


@click.group()
def safelist() -> None:
    """Let addresses off on all hosts, beside the settings."""


@safelist.command()
@click.argument("address")
@click.option("--for", "lasts", default="1d", show_default=True, help="How long: 600, 10m, 1d12h; -1 is for ever.")
@click.option("--reason", required=True, help="Why; shown in the list.")
@control_options
def add(address: str, lasts: str, reason: str, socket_path: Path, as_json: bool) -> None:
    """Put an address or a network on the safelist.

    The bans that meet it are lifted.
    """
    try:
        parse_duration(lasts, "--for")
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    reply = ask(socket_path, "POST", "/v1/safelist", {"address": _network(address), "for": lasts, "reason": reason})
    if as_json:
        return say_json(reply)
    with understanding():
        entry = SafelistRecord.from_json(reply["entry"])
        lifted = [BanRecord.from_json(cast("dict[str, object]", each)) for each in cast("list[Any]", reply["lifted"])]
    say(f"{entry.network} is on the safelist {_ends(entry, time.time())}")
    say(*(f"Lifted the ban of {ban.network} (jail {ban.jail})" for ban in lifted))


@safelist.command()
@click.argument("address")
@control_options
def remove(address: str, socket_path: Path, as_json: bool) -> None:
    """Take an address or a network off the safelist.

    It must be the one that was put there.
    """
    reply = ask(socket_path, "DELETE", f"/v1/safelist/{quote(_network(address), safe='')}")
    if as_json:
        return say_json(reply)
    with understanding():
        network = SafelistRecord.from_json(reply).network
    say(f"{network} is not on the safelist any more, unless the settings of a host say so")


@safelist.command("list")
@control_options
def list_(socket_path: Path, as_json: bool) -> None:
    """List what was put on the safelist beside the settings."""
    reply = ask(socket_path, "GET", "/v1/safelist")
    if as_json:
        return say_json(reply)
    with understanding():
        entries = [SafelistRecord.from_json(each) for each in cast("list[Any]", reply["entries"])]
    say(*(_lines(entries, time.time()) if entries else ["Nothing on the safelist beside the settings."]))


def _lines(entries: Sequence[SafelistRecord], now: float) -> Iterator[str]:
    rows = [("ADDRESS", "ENDS IN", "ADDED ON", "REASON")]
    for entry in sorted(entries, key=lambda each: each.network):
        ends = "for ever" if entry.until is None else duration_text(entry.until - now)
        rows.append((entry.network, ends, printable(entry.host) or "-", printable(entry.reason) or "-"))
    return aligned(rows)


def _ends(entry: SafelistRecord, now: float) -> str:
    return "for ever" if entry.until is None else f"for {duration_text(entry.until - now)}"


def _network(text: str) -> str:
    try:
        return network_text(parse_network(text))
    except AddressError as error:
        raise click.UsageError(str(error)) from error
