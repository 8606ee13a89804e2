"""The verbs that change something: `ban`, `confirm`, `unban`, `enforce`, for root and the group appguard-admin."""

import re
from pathlib import Path
from shlex import quote as quoted
from urllib.parse import quote

import click

from appguard.address import network_text, parse_network
from appguard.ban import Ban, parse_duration
from appguard.cli.client import (
    CommandError,
    NotFound,
    NotReachable,
    Reply,
    ask,
    control_options,
    say,
    say_json,
    understanding,
)
from appguard.cli.text import span_text
from appguard.errors import AddressError, ConfigError, FirewallError
from appguard.ports import PROTOCOLS, key_of, ports_text, spoken
from appguard.status import BanRecord

ENFORCE_SECONDS = 10.0  # a bouncer apart may take half of that
_REF = re.compile(r"[A-Z2-7]{8}")


@click.command()
@click.argument("address")
@click.option("--for", "bantime", default="10m", show_default=True, help="How long: 600, 10m, 1d12h; -1 is for ever.")
@click.option("--jail", default="manual", show_default=True, help="The name the ban is kept under.")
@click.option("--reason", default="", help="Why; shown in the list.")
@click.option(
    "--force",
    is_flag=True,
    help="Ban even what would cut off this host: on this host only, until the daemon restarts, and for a minute until"
    " you confirm it.",
)
@click.option(
    "--ports",
    default="",
    help="Of these ports alone, as they are dialled: 22, ssh, 8000-8010, several with commas between. Default: all.",
)
@click.option("--protocol", multiple=True, type=click.Choice(PROTOCOLS), help="Of tcp or udp alone. Default: both.")
@click.option("--automatic", is_flag=True, help="For programs: leave a ban that ends later as it is.")
@control_options
def ban(  # each is an option
    address: str,
    bantime: str,
    jail: str,
    reason: str,
    force: bool,
    ports: str,
    protocol: tuple[str, ...],
    automatic: bool,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Ban an address or a network."""
    try:
        parse_duration(bantime, "--for")
        asked = Ban.of(address, jail=jail, bantime=bantime, reason=reason)
        listed = [port.strip() for port in ports.split(",")] if ports else []
        ports_text(listed, protocol, "--ports")
    except (AddressError, ConfigError) as error:
        raise click.UsageError(str(error)) from error
    order = {"address": asked.key, "bantime": bantime, "jail": jail, "reason": asked.reason}
    more = {"force": force, "automatic": automatic, "ports": listed, "protocol": protocol}
    reply = ask(socket_path, "POST", "/v1/bans", order | more)
    _say_ban(reply, as_json=as_json)


def _say_ban(reply: Reply, *, as_json: bool) -> None:
    if as_json:
        return say_json(reply)
    with understanding():
        kept = BanRecord.from_json(reply)
        alone = f" from {spoken(kept.ports)} alone" if kept.ports else ""
        line = f"Banned {kept.network}{alone} {span_text(kept)} (jail {kept.jail}, ref {kept.ref})"
        warning = f"Not enforced: {kept.not_enforced}" if kept.not_enforced else ""
        key, is_trial = key_of(kept.network, kept.ports), kept.unconfirmed
    say(line)
    if warning:
        say(warning)
    if is_trial:
        say(f"It ends within a minute unless you confirm that you are still here: appguard confirm {quoted(key)}")


@click.command()
@click.argument("address")
@control_options
def confirm(address: str, socket_path: Path, as_json: bool) -> None:
    """Keep a ban that needed --force for the time asked for."""
    _say_ban(ask(socket_path, "POST", "/v1/confirm", {"address": address}), as_json=as_json)


@click.command()
@click.argument("what", required=False)
@click.option("--ref", help="The reference a shut-out person quotes.")
@click.option("--jail", help="Lift it only if it is kept under this name.")
@click.option("--missing-ok", is_flag=True, help="It is no failure if there is no such ban.")
@control_options
def unban(
    what: str | None, ref: str | None, jail: str | None, missing_ok: bool, socket_path: Path, as_json: bool
) -> None:
    """Lift the ban of an address, a network or a ref."""
    if (what is None) == (ref is None):
        raise click.UsageError("give either an address, a network or a ref")
    target = _ref(ref) if ref is not None else _address_or_ref(what or "")
    only = "" if jail is None else f"?jail={quote(jail, safe='')}"
    try:
        reply = ask(socket_path, "DELETE", f"/v1/bans/{quote(target, safe='')}{only}")
    except NotFound:
        if not missing_ok:
            raise
        return say_json({}) if as_json else say("No such ban")
    if as_json:
        return say_json(reply)
    with understanding():
        lifted = BanRecord.from_json(reply)
    say(f"Lifted the ban of {lifted.network} (jail {lifted.jail})")


def _address_or_ref(what: str) -> str:
    try:
        return network_text(parse_network(what))
    except AddressError:
        return _ref(what)


def _ref(text: str) -> str:
    if not _REF.fullmatch(text.upper()):
        raise click.UsageError(f"{text!r} is not an address, a network, or a ban's ref such as 'K4TQZ7AB'")
    return text.upper()


def _lift_without_daemon(socket_path: Path, why: NotReachable) -> None:
    """Mark enforcement as off, so that no daemon that wakes restores anything, and take our table out of the kernel."""
    import asyncio

    from appguard.firewalls.nftables import Nftables
    from appguard.held import HoldMark

    try:
        if socket_path.parent.is_dir():
            HoldMark(socket_path).set()
        asyncio.run(Nftables().lift())
    except (OSError, FirewallError) as error:
        raise CommandError(f"{why.message}; nor can this be done without it: {error}; try again as root") from error
    say(
        f"{why.message}",
        "So all bans were taken out of the kernel directly; they stay out until: appguard enforce on",
        "What nginx or a command firewall refuses is lifted when the daemon answers again",
    )


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]))
@control_options
def enforce(state: str, socket_path: Path, as_json: bool) -> None:
    """Enforce bans in the firewall, or lift them all.

    After `off` bans are kept and not enforced. As root it works with a daemon that hangs, too.
    """
    try:
        reply = ask(socket_path, "PUT", "/v1/enforce", {"on": state == "on"}, seconds=ENFORCE_SECONDS)
    except NotReachable as error:
        if state == "on":
            raise
        return _lift_without_daemon(socket_path, error)
    if as_json:
        return say_json(reply)
    say("Bans are enforced" if reply.get("on") else "Bans are kept but not enforced")
