"""A whole ban set as facts: what a state must be told when more has changed than the ban set remembers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.state import Batch, State
from appguard.state_rows import PART
from appguard.stores.memory import FACTS_KEPT, MemoryBanSet
from appguard.whole import AT_ONCE, slices, whole

NOW = 1_800_000_000.0
NUMBER = max(PART, AT_ONCE) + 50


def test_a_state_that_is_told_the_whole_holds_what_is_true(tmp_path: Path) -> None:
    """What was lifted is gone from it, also where the ban set has forgotten the lifts, and what is new is there."""
    bans = MemoryBanSet(lambda: NOW)
    for number in range(NUMBER):
        bans.ban(Ban(parse_network(f"10.0.{number // 256}.{number % 256}"), "login", NOW, NOW + 600))
    state = State(tmp_path / "state", clock=lambda: NOW)
    state.open()
    try:
        state.save(Batch(facts=[*map(Fact.of, bans.snapshot().bans)]))
        for ban in bans.snapshot().bans:
            bans.unban(ban.network)
        for _ in range(FACTS_KEPT // 2):
            bans.ban(Ban(parse_network("203.0.113.5"), "login", NOW, None))
            bans.unban(parse_network("203.0.113.5"))
        new = bans.ban(Ban(parse_network("203.0.113.6"), "login", NOW, NOW + 600))
        assert bans.follow(NUMBER) is None
        for facts in slices(bans, state):
            state.save(Batch(facts=[*facts]))
        assert state.bans() == (new,)
        assert "10.0.0.0" in {lift.key for lift in state.lifts()}
    finally:
        state.close()


def test_a_state_that_cannot_be_read_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no state is told at once and once, however often reading fails; the rest when it can be read again."""
    monkeypatch.setattr("appguard.whole.AGAIN", 0.001)
    bans = MemoryBanSet(lambda: NOW)
    gone = Ban(parse_network("203.0.113.5"), "login", NOW, NOW + 600, version=1)
    there = bans.ban(Ban(parse_network("203.0.113.6"), "login", NOW, NOW + 600))
    assert there is not None
    state = State(tmp_path / "state", clock=lambda: NOW)
    state.open()
    state.save(Batch(facts=[Fact.of(gone)]))
    state.close()
    told: list[Fact] = []
    failures: list[None] = []

    class Failing(State):
        def ban_parts(self) -> Iterator[tuple[Ban, ...]]:
            failures.append(None)
            if len(failures) == 3:
                self.open()
            return super().ban_parts()

    failing = Failing(tmp_path / "state", clock=lambda: NOW)

    async def scene() -> None:
        async for facts in whole(bans, failing, lambda: 0):
            told.extend(facts)

    asyncio.run(scene())
    failing.close()
    assert told == [Fact.of(there), Fact.lifting(gone, gone.version)]
    assert len(failures) == 3
