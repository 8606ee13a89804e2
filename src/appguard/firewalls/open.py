"""Makes the firewall that the settings ask for."""

from collections.abc import Callable, Mapping

from appguard.errors import ConfigError
from appguard.firewalls.base import Firewall
from appguard.firewalls.dry_run import DryRun
from appguard.firewalls.nftables import Nftables
from appguard.firewalls.nginx_deny import NginxDeny

OPTIONS = {Nftables.name: {"transport", "size"}, NginxDeny.name: {"path", "reload"}}
FIREWALLS: dict[str, Callable[..., Firewall]] = {"nftables": Nftables, "nginx_deny": NginxDeny, "dry_run": DryRun}


def open_firewall(settings: Mapping[str, object]) -> Firewall:
    """Give the firewall of a `[firewall]` table whose values are checked; raise `ConfigError`."""
    kind = str(settings.get("kind", "nftables"))
    if kind not in FIREWALLS:
        expected = ", ".join(map(repr, (*FIREWALLS, "apart")))  # a bouncer apart is no firewall: the daemon knows it
        raise ConfigError(f"firewall: kind = {kind!r}: expected one of {expected}")
    options = {key: value for key, value in settings.items() if key != "kind"}
    foreign = [key for key in options if key not in OPTIONS.get(kind, ())]
    if foreign:
        owner = next((name for name, keys in OPTIONS.items() if foreign[0] in keys), "no")
        raise ConfigError(f"firewall: {', '.join(foreign)}: only kind = {owner!r} has that, not {kind!r}")
    return FIREWALLS[kind](**options)
