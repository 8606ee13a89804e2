"""The header fields that tell a client of its limits, in refusals and in the answers to what was let in.

They are the two fields of draft-ietf-httpapi-ratelimit-headers-10, the older `X-RateLimit-*`, both or none. The draft
may still change; its names stand in `policy`. Of several limits the one with least left is told. Limits of outcomes
are not told: they would tell how many guesses are left.
"""

from collections.abc import Callable, Sequence
from math import ceil

from appguard.limit import Hit
from appguard.policy import STATE, Policy, policy_of
from appguard.rate import TOLERANCE, Left, Rate

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

    def passed(self, hits: Sequence[Hit], left: Sequence[Left], wall: Callable[[], float]) -> Fields:
        """Give the fields of an answer to a request, from its hits and what they left; `wall` gives Unix seconds."""
        if len(left) == 1:
            policy, (number, reset) = hits[0].policy, left[0]
        else:
            policy, (number, reset) = _least(hits, left)
        if policy is None:
            return []
        if self.has_legacy:
            return self._fields(policy, number, ceil(reset - TOLERANCE), wall)
        return [policy.field, (STATE, f"{policy.state}{number};t={ceil(reset - TOLERANCE)}")]

    def passed_raw(self, hits: Sequence[Hit], left: Sequence[Left], wall: Callable[[], float]) -> RawFields:
        """Give the same as ASGI wants them."""
        if self.has_legacy:
            return [(name.encode(), value.encode()) for name, value in self.passed(hits, left, wall)]
        if len(left) == 1:
            policy, (number, reset) = hits[0].policy, left[0]
        else:
            policy, (number, reset) = _least(hits, left)
        if policy is None:
            return []
        return [policy.raw_field, (RAW_STATE, b"%b%d;t=%d" % (policy.raw_state, number, ceil(reset - TOLERANCE)))]

    def _fields(self, policy: Policy, number: int, seconds: int, wall: Callable[[], float]) -> Fields:
        fields: Fields = []
        if self._has_draft:
            fields = [policy.field, (STATE, f"{policy.state}{number};t={seconds}")]
        if self.has_legacy:
            fields += [("x-ratelimit-limit", str(policy.amount)), ("x-ratelimit-remaining", str(number))]
            fields.append(("x-ratelimit-reset", str(int(wall()) + seconds)))
        return fields


def _least(hits: Sequence[Hit], left: Sequence[Left]) -> tuple[Policy | None, Left]:
    """Give the policy of the limit of requests that has least left, None without one, and what is left of it."""
    least = min(left)
    policy = hits[left.index(least)].policy
    if policy is not None:  # as most are
        return policy, least
    told = [(its, place) for place, its in enumerate(left) if hits[place].policy is not None]
    if not told:
        return None, least
    least, place = min(told)
    return hits[place].policy, least
