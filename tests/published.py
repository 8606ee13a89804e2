"""Both sides of the published bans, for tests: the facts a daemon tells, and an app whose clocks stand still."""

from collections.abc import Sequence
from pathlib import Path

from appguard.address import parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.stores.local import PublishedBans

NOW = 1_800_000_000.0
STRANGER = 65534  # a user who owns nothing


def ban_of(address: str, *, end: float | None = None, version: int = 1) -> Ban:
    """Make a ban."""
    return Ban(parse_network(address), "login", NOW, end, version=version)


def fact_of(address: str, *, is_lifted: bool = False) -> Fact:
    """Make a fact: a ban, or its end."""
    ban = ban_of(address)
    return Fact(ban.network, ban.version, None if is_lifted else ban)


def nothing_else() -> Sequence[Ban]:
    """Give the bans in force to a publisher that must not ask for them."""
    raise AssertionError("a new file was written")


class Reader(PublishedBans):
    """An app's side with clocks that stand still until they are moved."""

    def __init__(self, directory: Path) -> None:
        self.monotonic = 1000.0
        super().__init__(directory, lambda: NOW, lambda: self.monotonic)

    def is_banned(self, address: str) -> bool:
        """Say whether an address is shut out."""
        return self.get(parse_address(address)) is not None
