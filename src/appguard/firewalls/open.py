"""Makes the firewalls that the settings ask for."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from appguard.errors import ConfigError
from appguard.firewalls.base import Firewall
from appguard.firewalls.command import Command
from appguard.firewalls.dry_run import DryRun
from appguard.firewalls.nftables import Nftables
from appguard.firewalls.nginx_deny import NginxDeny

_OF_NFTABLES = frozenset({"transport", "size", "block", "outbound"})
OPTIONS = {
    Nftables.name: _OF_NFTABLES,
    "apart": _OF_NFTABLES,  # of the nftables that the bouncer apart feeds
    NginxDeny.name: frozenset({"path", "reload"}),
    Command.name: frozenset({"command"}),
}
FIREWALLS: dict[str, Callable[..., Firewall]] = {each.name: each for each in (Nftables, NginxDeny, Command, DryRun)}


def kinds_of(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Give the kinds that a `[firewall]` table names, each once; raise `ConfigError` for options none of them has."""
    kinds = tuple(dict.fromkeys(cast("Sequence[str]", settings.get("kind", ("nftables",)))))
    able = frozenset[str]().union(*(OPTIONS.get(kind, ()) for kind in kinds))
    foreign = [key for key in settings if key != "kind" and key not in able]
    if foreign:
        owner = next((name for name, keys in OPTIONS.items() if foreign[0] in keys), "no")
        chosen = ", ".join(map(repr, kinds))
        raise ConfigError(f"firewall: {', '.join(foreign)}: only kind = {owner!r} has that, not {chosen}")
    return kinds


def open_firewall(kind: str, settings: Mapping[str, object]) -> Firewall:
    """Give the firewall of one kind with its options in a `[firewall]` table, checked; raise `ConfigError`."""
    if kind not in FIREWALLS:
        expected = ", ".join(map(repr, (*FIREWALLS, "apart")))  # a bouncer apart is no firewall: the daemon knows it
        raise ConfigError(f"firewall: kind = {kind!r}: expected one of {expected}")
    own = OPTIONS.get(kind, frozenset())
    return FIREWALLS[kind](**{key: value for key, value in settings.items() if key in own})
