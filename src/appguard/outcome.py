"""Outcome: what became of a request, and what that means for the limits of outcomes it met."""

from collections.abc import Sequence
from typing import NamedTuple

from appguard.event import LOGIN_FAIL, LOGIN_SUCCESS
from appguard.limit import Hit, Limit
from appguard.request import Request


class Outcome(NamedTuple):
    """The status of an answer and, of a login, the kind of its event and the user; a repetition counts for nothing."""

    status: int
    kind: str = ""
    user: str = ""
    is_repeated: bool = False

    def counts_for(self, limit: Limit) -> bool:
        """Say whether a limit of outcomes counts this one."""
        if limit.statuses:
            return self.status in limit.statuses
        if limit.count == "auth_failure":
            return self.kind == LOGIN_FAIL and not self.is_repeated
        return limit.count == "auth_success" and self.kind == LOGIN_SUCCESS

    @property
    def is_login(self) -> bool:
        """Say whether somebody tried to log in, whether it worked or not."""
        return self.kind in (LOGIN_FAIL, LOGIN_SUCCESS)


class Pending(NamedTuple):
    """A request that was let in, as far as its outcome will be counted.

    `hits` are those of outcomes; `time` is the counters' own, when they were reserved. `users` are limits of users'
    outcomes whose user only the outcome names.
    """

    request: Request
    hits: Sequence[Hit]
    users: Sequence[Limit]
    time: float

    def to_give_back(self, outcome: Outcome) -> list[Hit]:
        """Give the reserved hits that the outcome does not count."""
        return [hit for hit in self.hits if hit.is_reserved and not outcome.counts_for(hit.limit)]

    def to_count(self, outcome: Outcome) -> list[Hit]:
        """Give the hits that only asked, and that the outcome counts."""
        return [hit for hit in self.hits if not hit.is_reserved and outcome.counts_for(hit.limit)]


def with_status(outcome: Outcome | None, status: int) -> Outcome:
    """Give what is known of an outcome, with the status of its answer."""
    return Outcome(status) if outcome is None else outcome._replace(status=status)
