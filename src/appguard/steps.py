"""Steps: questions to the counters, one after the other, written once for threads and for event loops.

A generator yields a step and is sent the verdict on it; `run` asks the counters in a thread, `run_async` on the event
loop. What every request asks first is not written so: a generator costs a third of a microsecond.

However many steps there are, a request waits for its counters `PATIENCE` seconds at most: what they have not answered
by then is counted in this process, and what was reserved stays counted. A step that took longer than anybody waits for
an answer is not counted among them: there it was this process that was late, and an attack must not turn that into
limits that each process counts for itself.
"""

import time
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from appguard.limit import ADMITTED, Hit, Verdict
from appguard.stores.base import BUDGET, Counters

T = TypeVar("T")


class Step(NamedTuple):
    """Hits to be counted together, or, with the time they were reserved, to be given back."""

    hits: Sequence[Hit]
    reserved_at: float | None = None


Steps = Generator[Step, Verdict, T]
PATIENCE = 0.05  # seconds; with the rest of a request it stays below 60 ms
LATE = 0.008  # seconds more after which it was this process that was late
LONGEST = BUDGET + LATE  # seconds; a first question that took longer is not counted among what a request waited


class Waiting(Protocol):
    """A request, and how many seconds it has waited for counters."""

    waited: float


def waited(took: float, seconds: float = BUDGET) -> float:
    """Give how long counters made a request wait at a step that took so long, and had so many seconds to."""
    return took if took < LONGEST and took < seconds + LATE else 0.0


def run(steps: Steps[T], counters: Counters, request: Waiting) -> T:
    """Take all steps, in a thread; give what they come to."""
    verdict: Verdict | None = None
    while True:
        try:
            step = next(steps) if verdict is None else steps.send(verdict)
        except StopIteration as end:
            result: T = end.value
            return result
        verdict, begun, seconds = ADMITTED, time.monotonic(), PATIENCE - request.waited
        if step.reserved_at is None:
            verdict = counters.check(step.hits, seconds) if step.hits else ADMITTED
        else:
            counters.give_back(step.hits, step.reserved_at, seconds)
        request.waited += waited(time.monotonic() - begun, seconds)


async def run_async(steps: Steps[T], counters: Counters, request: Waiting) -> T:
    """Do what `run` does, on the event loop."""
    verdict: Verdict | None = None
    while True:
        try:
            step = next(steps) if verdict is None else steps.send(verdict)
        except StopIteration as end:
            result: T = end.value
            return result
        verdict, begun, seconds = ADMITTED, time.monotonic(), PATIENCE - request.waited
        if step.reserved_at is None:
            verdict = await counters.check_async(step.hits, seconds) if step.hits else ADMITTED
        else:
            await counters.give_back_async(step.hits, step.reserved_at, seconds)
        request.waited += waited(time.monotonic() - begun, seconds)
