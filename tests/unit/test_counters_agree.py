"""Counters of memory and of the shared table say, to the last bit, what the pure algorithms say."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings

from appguard.limit import Hit, Least, Verdict
from appguard.stores.local_counters import LocalCounters
from appguard.stores.memory_counters import MemoryCounters
from tests.counting import UNIT, Model, alone, hits_of, requests

fresh = count()


def told(verdict: Verdict) -> tuple[str | None, float, Least | None]:
    """Give what a verdict says, as the model says it."""
    return verdict.refused.key if verdict.refused else None, verdict.wait, verdict.least


def follow(
    counters: MemoryCounters | LocalCounters,
    set_now: Callable[[float], None],
    steps: Sequence[tuple[int, Sequence[tuple[int, int, int]], bool, int]],
) -> None:
    """Ask counters and model the same, give back the same, and compare every verdict."""
    example, model, now = next(fresh), Model(), 1000.0
    returning: list[tuple[float, Sequence[Hit], Verdict, float]] = []
    for gap, keys, is_reserved, after in steps:
        now += gap * UNIT
        for due, hits, verdict, at in [each for each in returning if each[0] <= now]:
            set_now(due)
            counters.give_back(hits, verdict.time)
            model.give_back(hits, at, due)
        returning = [each for each in returning if each[0] > now]
        set_now(now)
        hits = hits_of(example, keys, is_reserved=is_reserved)
        verdict = counters.check(hits)
        assert told(verdict) == model.check(hits, now)
        assert [told(counters.check(each)) for each in alone(hits)] == [model.check(each, now) for each in alone(hits)]
        if is_reserved and verdict.refused is None:
            returning.append((now + after * UNIT, hits, verdict, now))
            returning.sort(key=lambda each: each[0])


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_counters_agree_with_the_pure_model(kind: str, tmp_path: Path) -> None:
    """Windows and buckets, costs, several limits at once, and what is given back: every verdict is the model's."""
    now = [0.0]
    local = LocalCounters("shop", tmp_path / "counters", lambda: now[0])
    counters = MemoryCounters(lambda: now[0]) if kind == "memory" else local

    @settings(max_examples=200)
    @given(steps=requests)
    def agree(steps: list[tuple[int, list[tuple[int, int, int]], bool, int]]) -> None:
        follow(counters, lambda time: now.__setitem__(0, time), steps)

    try:
        agree()
    finally:
        local.close_table()


def test_given_back_by_another_process(tmp_path: Path) -> None:
    """What one worker reserved another's clock knows too: the table gives it back whoever asks."""
    now = [1000.0]
    one, other = (LocalCounters("shop", tmp_path / "counters", lambda: now[0]) for _ in range(2))
    hits = hits_of(0, [(0, 0, 3)], is_reserved=True)
    verdict = one.check(hits)
    assert other.check(hits_of(0, [(0, 0, 1)], is_reserved=False)).refused is not None
    other.give_back(hits, verdict.time)
    assert one.check(hits_of(0, [(0, 0, 3)], is_reserved=False)).refused is None
    for each in (one, other):
        each.close_table()
