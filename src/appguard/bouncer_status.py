"""How enforcement is, as a bouncer tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from appguard.ban import Ban
from appguard.firewalls.base import Count


@dataclass(frozen=True, slots=True)
class BouncerStatus:
    """How enforcement is: `error` is empty while it works; `refused` holds by key bans that are kept out, and why.

    `firewall` is what to call it; `dropped` is None where the number is not known, `counts` is the same by jail.
    """

    kind: str
    firewall: str
    is_held: bool
    error: str
    enforced: int
    dropped: int | None
    refused: Mapping[str, tuple[Ban, str]]
    counts: Mapping[str, Count] = field(default_factory=dict[str, Count])
