"""How much is read in one turn follows from how long the last ones took."""

import pytest

from appguard.sources.generation import CHUNK_BYTES
from appguard.sources.pace import BYTES_FIRST, BYTES_LEAST, BYTES_SLOW, TURN_MOST, TURN_QUICK, Pace


@pytest.mark.parametrize(("may_be_slow", "most"), [(False, CHUNK_BYTES), (True, BYTES_SLOW)])
def test_quick_turns_grow_to_a_bound(may_be_slow: bool, most: int) -> None:
    """The first turn is short; each quick one doubles the next, as far as a slow line may cost."""
    pace = Pace(may_be_slow=may_be_slow)
    sizes: list[int] = []
    for _ in range(12):
        sizes.append(pace.bytes)
        pace.took(TURN_QUICK / 2)
    assert sizes[:2] == [BYTES_FIRST, BYTES_FIRST * 2]
    assert sizes[-1] == pace.bytes == most


def test_a_long_turn_shortens_the_next() -> None:
    """One that took twice as long as it may halves the next; however long one takes, something is read."""
    pace = Pace()
    while pace.bytes < CHUNK_BYTES:
        pace.took(0.0)
    pace.took(TURN_MOST * 2)
    assert pace.bytes == CHUNK_BYTES // 2
    pace.took(TURN_QUICK)
    assert pace.bytes == CHUNK_BYTES // 2
    pace.took(3600.0)
    assert pace.bytes == BYTES_LEAST


def test_what_comes_after_a_rest_is_read_in_short_turns_again() -> None:
    """Each rest halves the turn, down to the first; one that is shorter still stays so."""
    pace = Pace()
    pace.took(0.0)
    pace.took(0.0)
    sizes = [BYTES_FIRST * 2, BYTES_FIRST, BYTES_FIRST]
    for size in sizes:
        pace.rested()
        assert pace.bytes == size
    pace.took(3600.0)
    pace.rested()
    assert pace.bytes == BYTES_LEAST
