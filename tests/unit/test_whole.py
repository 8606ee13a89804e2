"""A whole ban set as facts: what a state must be told when more has changed than the ban set remembers."""

from pathlib import Path

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.state import Batch, State
from appguard.state_rows import PART
from appguard.stores.memory import FACTS_KEPT, MemoryBanSet
from appguard.whole import AT_ONCE, slices

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
        assert "10.0.0.0" in state.lifts()
    finally:
        state.close()
