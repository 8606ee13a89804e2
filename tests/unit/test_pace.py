"""How much is read in one turn follows from how long the last ones took."""

import pytest

from appguard.sources.generation import CHUNK_BYTES
from appguard.sources.pace import BYTES_FIRST, BYTES_LEAST, BYTES_SLOW, TURN_MOST, TURN_QUICK, Pace


def turn(pace: Pace, *seconds: float) -> int:
    """Let a round go by in which logs took so long; give the bytes of the next turn."""
    for each in seconds:
        pace.took(each)
    pace.end_round(has_more=True)
    return pace.bytes


@pytest.mark.parametrize(("may_be_slow", "most"), [(False, CHUNK_BYTES), (True, BYTES_SLOW)])
def test_quick_turns_grow_to_a_bound(may_be_slow: bool, most: int) -> None:
    """The first turn is short; each round of quick ones doubles the next, as far as a slow line may cost."""
    pace = Pace(may_be_slow=may_be_slow)
    assert pace.bytes == BYTES_FIRST
    assert turn(pace, *[TURN_QUICK / 2] * 9) == BYTES_FIRST * 2
    assert [turn(pace, TURN_QUICK / 2) for _ in range(12)][-1] == most


def test_a_long_turn_shortens_the_next() -> None:
    """One that took twice as long as it may halves the next; however long one takes, something is read."""
    pace = Pace()
    while pace.bytes < CHUNK_BYTES:
        turn(pace, 0.0)
    assert turn(pace, 0.0, TURN_MOST * 2, 0.0) == CHUNK_BYTES // 2
    assert turn(pace, 0.0, TURN_QUICK) == CHUNK_BYTES // 2
    assert turn(pace, 3600.0) == BYTES_LEAST


def test_what_comes_after_a_rest_is_read_in_short_turns_again() -> None:
    """Each rest halves the turn, down to the first; one that is shorter still stays so."""
    pace = Pace()
    turn(pace, 0.0)
    for _ in range(3):
        turn(pace, 0.0, 0.0)  # of two logs
        pace.end_round(has_more=False)
        assert pace.bytes == BYTES_FIRST * 2
    pace.end_round(has_more=False)
    pace.end_round(has_more=False)
    assert pace.bytes == BYTES_FIRST
    turn(pace, 3600.0)
    pace.end_round(has_more=False)
    assert pace.bytes == BYTES_LEAST
