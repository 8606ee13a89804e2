"""Every exception AppGuard raises on purpose: one base, one class per thing the caller can do differently."""


class AppGuardError(Exception):
    """Base of all errors AppGuard raises on purpose."""


class AddressError(AppGuardError, ValueError):
    """A text is not an IP address or network."""


class EventError(AppGuardError, ValueError):
    """A line is not an AppGuard event line."""


class ConfigError(AppGuardError, ValueError):
    """A setting is wrong; the message says which, where, and what is accepted."""


class StoreError(AppGuardError):
    """A store cannot do what was asked of it."""


class StateError(AppGuardError):
    """The daemon's private state cannot be read or written."""


class SourceError(AppGuardError):
    """A log source cannot be read."""


class FirewallError(AppGuardError):
    """A firewall command failed; the message carries the firewall's own words."""


class FirewallPermissionError(FirewallError):
    """The process may not change the firewall (it lacks CAP_NET_ADMIN)."""


class FirewallFullError(FirewallError):
    """The firewall holds as many blocks of one kind as it can: `size` networks of this IP version and prefix length.

    Of those that are about these `ports`, or all if that is empty.
    """

    def __init__(self, said: str, version: int, prefixlen: int, size: int, ports: str = "") -> None:
        super().__init__(said)
        self.version = version
        self.prefixlen = prefixlen
        self.size = size
        self.ports = ports


class RefusedForSafety(AppGuardError):
    """The last judge refused a ban that would cut off this host or its administrator."""
