"""Makes the firewall that the settings ask for."""

from collections.abc import Callable, Mapping

from appguard.errors import ConfigError
from appguard.firewalls.base import Firewall
from appguard.firewalls.dry_run import DryRun
from appguard.firewalls.nftables import Nftables
from appguard.firewalls.nginx_deny import NginxDeny

FIREWALLS: dict[str, Callable[[], Firewall]] = {"nftables": Nftables, "nginx_deny": NginxDeny, "dry_run": DryRun}


def open_firewall(settings: Mapping[str, object]) -> Firewall:
    """Give the firewall of a `[firewall]` table whose values are checked; raise `ConfigError`."""
    kind = str(settings.get("kind", "nftables"))
    if kind not in FIREWALLS:
        expected = ", ".join(map(repr, (*FIREWALLS, "apart")))  # a bouncer apart is no firewall: the daemon knows it
        raise ConfigError(f"firewall: kind = {kind!r}: expected one of {expected}")
    options = {key: value for key, value in settings.items() if key != "kind"}
    if not options:
        return FIREWALLS[kind]()
    if kind != NginxDeny.name:
        raise ConfigError(f"firewall: {', '.join(options)}: only kind = {NginxDeny.name!r} has that, not {kind!r}")
    return NginxDeny(**options)  # type: ignore[arg-type]  # each was checked by its key's check
