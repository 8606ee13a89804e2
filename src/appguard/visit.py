"""Visit: a request that was let in, until its answer is known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from appguard.app_events import Exchange
from appguard.guard import Guard, Refusal
from appguard.limit import Hit, Verdict
from appguard.outcome import Outcome, Pending
from appguard.proxies import Client
from appguard.rate import Left
from appguard.report import Noted

if TYPE_CHECKING:
    from appguard.middleware import Middleware


class Visit(Noted):
    """What is known of the request. `let_in` makes one.

    `left` is what was left of the limits of the first `hits`. `refusal` is what to answer instead, once a limit at a
    route or of a user's outcomes has refused it. `waited` is how many seconds it has waited for counters.
    """

    __slots__ = ("client", "hits", "left", "method", "middleware", "outcome", "path", "pending", "refusal", "waited")

    middleware: "Middleware"
    client: Client
    method: str
    path: str
    hits: Sequence[Hit]
    left: Sequence[Left]
    pending: Sequence[tuple[Guard, Pending]]
    outcome: Outcome | None
    refusal: Refusal | None
    waited: float

    def hear(self, verdict: Verdict) -> None:
        """Note what a verdict that admits it leaves, as far as it is told."""
        self.meet(verdict.left if self.middleware.has_fields else ())

    def meet(self, left: Sequence[Left]) -> None:
        """Note what is left of the limits of all its hits."""
        self.left = left

    def record(self, exchange: Exchange) -> None:
        """Tell of the answer, once."""
        if self.outcome is None:
            self.outcome = self.middleware.events.record(exchange, self.notes)


V = TypeVar("V", bound=Visit)
_new = object.__new__


def let_in(
    kind: type[V],
    middleware: "Middleware",
    client: Client,
    method: str,
    path: str,
    hits: Sequence[Hit],
) -> V:
    """Make the visit of a request, in half the time that calling its class would take.

    Where a call is too much, in `Middleware.decide`, the same lines stand again.
    """
    visit = _new(kind)
    visit.middleware = middleware
    visit.client = client
    visit.method = method
    visit.path = path
    visit.hits = hits
    visit.left = visit.notes = visit.pending = ()
    visit.outcome = visit.refusal = None
    visit.waited = 0.0
    return visit
