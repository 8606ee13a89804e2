"""Steps: questions to the counters, one after the other, written once for threads and for event loops.

A generator yields a step and is sent the verdict on it; `run` asks the counters in a thread, `run_async` on the event
loop. What every request asks first is not written so: a generator costs a third of a microsecond.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

from appguard.limit import ADMITTED, Hit, Verdict
from appguard.stores.base import Counters

T = TypeVar("T")


class Step(NamedTuple):
    """Hits to be counted together, or, with the time they were reserved, to be given back."""

    hits: Sequence[Hit]
    reserved_at: float | None = None


Steps = Generator[Step, Verdict, T]


def run(steps: Steps[T], counters: Counters) -> T:
    """Take all steps, in a thread; give what they come to."""
    verdict: Verdict | None = None
    while True:
        try:
            step = next(steps) if verdict is None else steps.send(verdict)
        except StopIteration as end:
            result: T = end.value
            return result
        verdict = ADMITTED
        if step.reserved_at is not None:
            counters.give_back(step.hits, step.reserved_at)
        elif step.hits:
            verdict = counters.check(step.hits)


async def run_async(steps: Steps[T], counters: Counters) -> T:
    """Do what `run` does, on the event loop."""
    verdict: Verdict | None = None
    while True:
        try:
            step = next(steps) if verdict is None else steps.send(verdict)
        except StopIteration as end:
            result: T = end.value
            return result
        verdict = ADMITTED
        if step.reserved_at is not None:
            await counters.give_back_async(step.hits, step.reserved_at)
        elif step.hits:
            verdict = await counters.check_async(step.hits)
