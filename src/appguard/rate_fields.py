"""The header fields that tell a client of its limits, in refusals and in the answers to what was let in.

They are the two fields of draft-ietf-httpapi-ratelimit-headers-10, the older `X-RateLimit-*`, both or none. The draft
may still change; its names stand here and nowhere else. Of several limits the one with least left is told. Limits of
outcomes are not told: they would tell how many guesses are left.
"""

from collections.abc import Callable, Sequence
from math import ceil

from appguard.limit import Hit
from appguard.rate import TOLERANCE, Left, Rate

HEADERS = ("draft", "legacy", "both", "none")
POLICY, STATE = "ratelimit-policy", "ratelimit"
RAW_STATE = STATE.encode()
MEMO_MOST = 1024

Fields = list[tuple[str, str]]
RawFields = list[tuple[bytes, bytes]]


class _Policy:
    """What is told of one limit at every request: its policy, and how its state begins."""

    __slots__ = ("amount", "field", "raw_field", "raw_state", "state")

    def __init__(self, name: str, rate: Rate) -> None:
        quoted = _quoted(name)
        self.amount = rate.amount
        self.field = (POLICY, f"{quoted};q={rate.amount};w={ceil(rate.window)}")
        self.state = f"{quoted};r="
        self.raw_field = (POLICY.encode(), self.field[1].encode())
        self.raw_state = self.state.encode()


class RateFields:
    """The fields of one app; `headers` is one of `HEADERS`."""

    def __init__(self, headers: str) -> None:
        self._has_draft = headers in ("draft", "both")
        self.has_legacy = headers in ("legacy", "both")
        self.has_any = self._has_draft or self.has_legacy
        self._policies: dict[tuple[str, str], _Policy] = {}

    def refused(self, name: str, rate: Rate, seconds: int, now: int) -> Fields:
        """Give the fields of a refusal by a limit for so many seconds; `now` is Unix seconds."""
        return self._fields(self._policy(name, rate), 0, seconds, lambda: now)

    def passed(self, hits: Sequence[Hit], left: Sequence[Left], wall: Callable[[], float]) -> Fields:
        """Give the fields of an answer to a request, from its hits and what they left; `wall` gives Unix seconds."""
        hit, (number, reset) = _least(hits, left) if len(left) > 1 else (hits[0], left[0])
        if not hit.limit.counts_requests:
            return []
        policy = self._policies.get(hit.policy) or self._policy(hit.limit.name, hit.rate)
        if self.has_legacy:
            return self._fields(policy, number, ceil(reset - TOLERANCE), wall)
        return [policy.field, (STATE, f"{policy.state}{number};t={ceil(reset - TOLERANCE)}")]

    def passed_raw(self, hits: Sequence[Hit], left: Sequence[Left], wall: Callable[[], float]) -> RawFields:
        """Give the same as ASGI wants them."""
        if self.has_legacy:
            return [(name.encode(), value.encode()) for name, value in self.passed(hits, left, wall)]
        hit, (number, reset) = _least(hits, left) if len(left) > 1 else (hits[0], left[0])
        if not hit.limit.counts_requests:
            return []
        policy = self._policies.get(hit.policy) or self._policy(hit.limit.name, hit.rate)
        return [policy.raw_field, (RAW_STATE, b"%b%d;t=%d" % (policy.raw_state, number, ceil(reset - TOLERANCE)))]

    def _policy(self, name: str, rate: Rate) -> _Policy:
        policy = self._policies.get((name, rate.text))
        if policy is None:
            if len(self._policies) >= MEMO_MOST:
                self._policies.clear()
            policy = self._policies[name, rate.text] = _Policy(name, rate)
        return policy

    def _fields(self, policy: _Policy, number: int, seconds: int, wall: Callable[[], float]) -> Fields:
        fields: Fields = []
        if self._has_draft:
            fields = [policy.field, (STATE, f"{policy.state}{number};t={seconds}")]
        if self.has_legacy:
            fields += [("x-ratelimit-limit", str(policy.amount)), ("x-ratelimit-remaining", str(number))]
            fields.append(("x-ratelimit-reset", str(int(wall()) + seconds)))
        return fields


def _least(hits: Sequence[Hit], left: Sequence[Left]) -> tuple[Hit, Left]:
    """Give the limit of requests that has least left, or one of outcomes if there is none, and what is left of it."""
    least = min(left)
    hit = hits[left.index(least)]
    if hit.limit.counts_requests:  # as most are
        return hit, least
    told = [(its, place) for place, its in enumerate(left) if hits[place].limit.counts_requests]
    least, place = min(told, default=(least, left.index(least)))
    return hits[place], least


def _quoted(text: str) -> str:
    """Write a string of RFC 9651: printable ASCII in double quotes."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
