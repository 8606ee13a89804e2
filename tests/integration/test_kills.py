"""Daemon and worker killed while bans stream in: no committed ban is lost, and apps see all within a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Place, web_jail
from tests.killing import victims
from tests.netns import has_table, run

pytestmark = pytest.mark.lab

KILLS = 5  # two hundred: scripts/soak kills


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give the directories of root's daemon, and take its table away afterwards."""
    yield Place(tmp_path, None)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def test_no_committed_ban_is_lost(place: Place) -> None:
    """After each kill the state opens, every ban in it is in force again, and an app has seen it at its next look."""
    place.configure(web_jail(place, {"bantime": -1, "bans_per_minute": 1_000_000}))
    with victims(place, 20261120) as those:
        kills = [those.kill() for _ in range(KILLS)]
    lost, unseen = (sum(map(len, found)) for found in zip(*((kill.lost, kill.unseen) for kill in kills), strict=True))
    print(f"divergences {lost + unseen} after {KILLS} kills, {kills[-1].committed} bans")
    assert [kill.lost for kill in kills] == [frozenset()] * KILLS
    assert kills[-1].committed > 0
    assert [kill.unseen for kill in kills] == [frozenset()] * KILLS
