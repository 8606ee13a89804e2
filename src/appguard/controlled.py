"""What the control API needs of a daemon."""

from collections.abc import Sequence
from typing import Protocol

from appguard.address import Network
from appguard.ban import Ban
from appguard.ban_log import BanEvent
from appguard.explained import Explanation
from appguard.following import Following
from appguard.safelisted import Safelisted
from appguard.status import BanRecord, DaemonStatus, JailStatus


class Controlled(Protocol):
    """What the control API needs of the daemon. All is called on the daemon's event loop."""

    @property
    def following(self) -> Following:
        """Give what tells followers of the ban set."""
        ...

    def status(self) -> DaemonStatus:
        """Say how the daemon is. Reads memory only."""
        ...

    async def jail_status(self, name: str) -> JailStatus | None:
        """Say how one jail is; None if there is no such jail. Reads memory only."""
        ...

    def bans(self) -> Sequence[Ban]:
        """Give the bans in force, in a sequence that does not change afterwards. Reads memory only."""
        ...

    def record(self, ban: Ban) -> BanRecord:
        """Give the record of a ban, with who enforces it. Reads memory only."""
        ...

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Put a ban in force and give it as kept; if it is automatic and one in force outlasts it, give that one.

        Raise `RefusedForSafety` (which `force` overrides on this host), `ConfigError` or `AddressError`.
        """
        ...

    async def confirm(self, what: str) -> Ban | None:
        """Give a ban by force, named by its network, the length that was asked for, and give it; None if none waits.

        Raise `AddressError`.
        """
        ...

    async def settled(self) -> str:
        """Enforce what is new now; say why it is not enforced, nothing if it is."""
        ...

    async def unban(self, what: str, jail: str | None = None) -> Ban | None:
        """Lift the bans named by an address, a network or a ref, whatever their ports; of one jail if one is named.

        Give one of them, None if there are none. Raise `AddressError`.
        """
        ...

    async def enforce(self, on: bool) -> None:
        """Begin or stop to enforce bans in the firewall. May be repeated. Raise `FirewallError`."""
        ...

    def safelisted(self) -> Sequence[Safelisted]:
        """Give what was put on the safelist beside the settings. Reads memory only."""
        ...

    async def add_to_safelist(
        self, network: Network, seconds: float | None, reason: str
    ) -> tuple[Safelisted, Sequence[Ban]]:
        """Put a network on the safelist of the whole fleet; give the entry and the bans it lifts.

        Raise `ConfigError`.
        """
        ...

    async def remove_from_safelist(self, network: Network) -> Safelisted | None:
        """Take exactly this network off the safelist of the whole fleet; None if it was not there."""
        ...

    async def events(self, since: int) -> tuple[Sequence[BanEvent], int]:
        """Give what became of bans after a cursor, or of a negative one the last so many.

        And the newest cursor when that was asked: what comes meanwhile is after it.
        """
        ...

    async def explain(self, what: str, origin: str) -> Explanation:
        """Say what would become of a line (of the file `origin`), or what is known of an address. Changes nothing.

        Raise `ConfigError`.
        """
        ...
