"""The header fields that tell a client of its limits, in refusals and in the answers to what was let in.

They are the two fields of draft-ietf-httpapi-ratelimit-headers-10, the older `X-RateLimit-*`, both or none. The draft
may still change; its names stand in `policy`. Of several limits the one with least left is told. Limits of outcomes
are not told: they would tell how many guesses are left.
"""

from collections.abc import Callable, Sequence
from math import ceil

from appguard.limit import Hit, Least
from appguard.policy import STATE, Policy, policy_of
from appguard.rate import TOLERANCE, Rate

HEADERS = ("draft", "legacy", "both", "none")
RAW_STATE = STATE.encode()

Fields = list[tuple[str, str]]
RawFields = list[tuple[bytes, bytes]]


class RateFields:
    """The fields of one app; `headers` is one of `HEADERS`."""

    def __init__(self, headers: str) -> None:
        self._has_draft = headers in ("draft", "both")
        self.has_legacy = headers in ("legacy", "both")
        self.has_any = self._has_draft or self.has_legacy

    def refused(self, name: str, rate: Rate, seconds: int, now: int) -> Fields:
        """Give the fields of a refusal by a limit for so many seconds; `now` is Unix seconds."""
        return self._fields(policy_of(name, rate), 0, seconds, lambda: now)

    def passed(self, hits: Sequence[Hit], least: Least, wall: Callable[[], float]) -> Fields:
        """Give the fields of an answer, from a request's hits and what is told of them; `wall` gives Unix seconds."""
        place, number, reset = least
        policy = hits[place].policy
        if policy is None:
            return []
        if self.has_legacy:
            return self._fields(policy, number, ceil(reset - TOLERANCE), wall)
        return [policy.field, (STATE, f"{policy.state}{number};t={ceil(reset - TOLERANCE)}")]

    def passed_raw(self, hits: Sequence[Hit], least: Least, wall: Callable[[], float]) -> RawFields:
        """Give the same as ASGI wants them."""
        place, number, reset = least
        policy = hits[place].policy
        if policy is None or self.has_legacy:
            return [(name.encode(), value.encode()) for name, value in self.passed(hits, least, wall)]
        return [policy.raw_field, (RAW_STATE, b"%b%d;t=%d" % (policy.raw_state, number, ceil(reset - TOLERANCE)))]

    def _fields(self, policy: Policy, number: int, seconds: int, wall: Callable[[], float]) -> Fields:
        fields: Fields = []
        if self._has_draft:
            fields = [policy.field, (STATE, f"{policy.state}{number};t={seconds}")]
        if self.has_legacy:
            fields += [("x-ratelimit-limit", str(policy.amount)), ("x-ratelimit-remaining", str(number))]
            fields.append(("x-ratelimit-reset", str(int(wall()) + seconds)))
        return fields
