"""A log written faster than it is read: nothing is lost or counted twice, memory stays bounded, the lag is told."""

from pathlib import Path

import pytest

from tests.flood import MEMORY_MOST, Flood


@pytest.mark.lab
def test_a_flood_through_rotations(open_tmp_path: Path) -> None:
    """300 000 lines at 200 000 a second through four rotations: what is behind is told, each line counts once."""
    found = Flood(open_tmp_path, rate=200_000, seconds=1.5, rotations=4).run(patience=120, tell=print)
    assert (found["lost"], found["doubled"], found["lines_read"]) == (0, 0, found["lines"])
    assert found["memory_peak_megabytes"] * 2**20 < MEMORY_MOST
    assert found["most_megabytes_behind"] > 0
