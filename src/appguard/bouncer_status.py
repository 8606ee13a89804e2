"""How enforcement is, as a bouncer tells it."""

from dataclasses import dataclass

from appguard.ban import Ban


@dataclass(frozen=True, slots=True)
class BouncerStatus:
    """How enforcement is: `error` is empty while it works; `refused` holds bans the judge keeps out, and why.

    `firewall` is what to call it; `dropped` is None where the number is not known.
    """

    kind: str
    firewall: str
    is_held: bool
    error: str
    enforced: int
    dropped: int | None
    refused: tuple[tuple[Ban, str], ...]
