"""Policy: how a limit is named to its clients, in texts that are made once for all of its hits."""

from functools import lru_cache
from math import ceil

from appguard.rate import Rate

POLICY, STATE = "ratelimit-policy", "ratelimit"


class Policy:
    """What is told of a limit under one rate at every request: its policy, and how its state begins.

    The syntax is that of draft-ietf-httpapi-ratelimit-headers-10, each as text and as ASGI wants it.
    """

    __slots__ = ("amount", "field", "raw_field", "raw_state", "state")

    def __init__(self, name: str, rate: Rate) -> None:
        quoted = _quoted(name)
        self.amount = rate.amount
        self.field = (POLICY, f"{quoted};q={rate.amount};w={ceil(rate.window)}")
        self.state = f"{quoted};r="
        self.raw_field = (POLICY.encode(), self.field[1].encode())
        self.raw_state = self.state.encode()


@lru_cache(maxsize=1024)
def policy_of(name: str, rate: Rate) -> Policy:
    """Give the policy of a limit of this name under a rate."""
    return Policy(name, rate)


def _quoted(text: str) -> str:
    """Write a string of RFC 9651: printable ASCII in double quotes."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
