"""Visit: a request that was let in, until its answer is known."""

from collections.abc import Awaitable, Generator, Sequence
from typing import TYPE_CHECKING

from appguard.app_events import Exchange
from appguard.guard import Due, Guard, Refusal
from appguard.limit import Hit, Least, Verdict, admitted
from appguard.outcome import Outcome, Pending, with_status
from appguard.proxies import Client
from appguard.report import Noted
from appguard.steps import LONGEST, Step, Steps, run, run_async

if TYPE_CHECKING:
    from appguard.middleware import Middleware


class _NotAsked:
    """What a visit has asked where counters could not be: it gives False at once."""

    def __await__(self) -> Generator[None, None, bool]:
        yield from ()
        return False


NOT_ASKED = _NotAsked()


class Visit(Noted):
    """What is known of the request. `Middleware.decide` and `consider` make one.

    `least` is what is told of its `hits`. `refusal` is what to answer instead, once a limit at a route or of a user's
    outcomes has refused it. `waited` is how many seconds it has waited for counters.

    What follows has only a visit of an event loop. `asked` is what to await until counters have answered: None if they
    are of this host and have, and then nothing else follows. `begun` is when they were asked, in monotonic seconds.
    `verdict` is what they said if more is to be done with it than to tell what is left.
    """

    __slots__ = (
        "asked",
        "begun",
        "client",
        "hits",
        "least",
        "method",
        "middleware",
        "outcome",
        "path",
        "pending",
        "refusal",
        "verdict",
        "waited",
    )

    middleware: "Middleware"
    client: Client
    method: str
    path: str
    hits: Sequence[Hit]
    least: Least | None
    pending: Sequence[tuple[Guard, Pending]]
    outcome: Outcome | None
    refusal: Refusal | None
    waited: float
    begun: float
    asked: Awaitable[bool] | None
    verdict: Verdict | None

    def hear(self, verdict: Verdict) -> bool:
        """Note the verdict; say whether with it all is decided."""
        if verdict.refused is None:
            return self.admit(verdict.time, verdict.least)
        self.verdict = verdict
        return False

    def admit(self, time: float, least: Least | None) -> bool:
        """Hear a verdict that admits it, given as its parts."""
        middleware = self.middleware
        took = middleware.monotonic() - self.begun
        self.waited = took if took < LONGEST else 0.0
        self.meet(least if middleware.has_fields else None)
        if not middleware.has_more_limits:
            return True
        self.verdict = admitted(time, least)
        return False

    def meet(self, least: Least | None) -> None:
        """Note what is told of all its hits."""
        self.least = least

    def record(self, exchange: Exchange) -> None:
        """Tell of the answer, once."""
        if self.outcome is None:
            self.outcome = self.middleware.events.record(exchange, self.notes)

    def due(self, status: int) -> Sequence[Due]:
        """Give what the outcome, known by the status, changes: mostly nothing. It is for `settle`.

        A request that ends without an answer told nobody anything: what is counted of it stays counted.
        """
        if not self.pending or not status:
            return ()
        outcome = with_status(self.outcome, status)
        waiting, self.pending = self.pending, ()
        due: list[Due] = []
        for guard, pending in waiting:
            self.middleware.attempts.accept(pending.request, outcome)
            returned, asked = pending.to_give_back(outcome), guard.to_ask(pending, outcome)
            if returned or asked:
                due.append(Due(guard, pending, returned, asked))
        return due

    def settle(self, due: Sequence[Due]) -> None:
        """Count the outcome, in a thread; note a refusal if its user's limit is full."""
        if due:
            run(self._settling(due), self.middleware.counters, self)

    async def settle_async(self, due: Sequence[Due]) -> None:
        """Do what `settle` does, on the event loop."""
        if due:
            await run_async(self._settling(due), self.middleware.counters, self)

    def _settling(self, due: Sequence[Due]) -> Steps[None]:
        now = self.middleware.monotonic()
        for guard, pending, returned, asked in due:
            for hit in returned:
                guard.denied.pop(hit.key, None)
            if returned:
                yield Step(returned, pending.time)
            verdicts = list[tuple[Hit, Verdict]]()
            for hit in asked:
                verdicts.append((hit, (yield Step([hit]))))
            self._settled(guard, pending, verdicts, now)

    def _settled(self, guard: Guard, pending: Pending, verdicts: Sequence[tuple[Hit, Verdict]], now: float) -> None:
        middleware = self.middleware
        for hit, verdict in verdicts:
            refused = guard.settle(verdict, now) if verdict.refused else None
            if refused is None or hit.limit not in pending.users:
                continue  # a limit of the client is full now: that is the next request's matter
            if hit.limit.dry_run:
                middleware.events.would_refuse(hit.limit, self.client, self.method, self.path, now)
            elif self.refusal is None:
                self.refusal = middleware.refuse(self.client, refused, self.method, self.path, now)
