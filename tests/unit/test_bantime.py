"""How long bans last: the growing bantime against its definition, the past of a network against a plain list."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.ban import Ban
from appguard.bantime import REMEMBERED, SWEPT_AT_ONCE, History, Past, bantime_of
from appguard.jail import Jail

NOW = 1_800_000_000.0


def growing(**settings: Any) -> Jail:
    """Make a jail whose bantime grows."""
    defaults: dict[str, Any] = {"bantime": 60, "bantime_increment": True}
    return Jail("login", **(defaults | settings))


def ban_of(start: float, bantime: float | None = 60, jail: str = "login", address: str = "203.0.113.5") -> Ban:
    """Make a ban."""
    return Ban.of(address, jail=jail, bantime=-1 if bantime is None else bantime, start=start)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bantime_increment": False}, [60, 60, 60, 60]),
        ({}, [60, 120, 240, 480]),
        ({"bantime_factor": 3}, [60, 360, 720, 1440]),
        ({"bantime_multipliers": [1, 5, 30]}, [60, 300, 1800, 1800]),
        ({"bantime_multipliers": "1 5 30"}, [60, 300, 1800, 1800]),
        ({"bantime_multipliers": [1, 5], "bantime_factor": 0.5}, [60, 150, 150, 150]),
        ({"bantime_maxtime": "5m"}, [60, 120, 240, 300]),
        ({"bantime": -1, "bantime_increment": False}, [-1, -1, -1, -1]),
    ],
)
def test_bantime_grows_as_defined(settings: dict[str, Any], expected: list[float]) -> None:
    """The first to the fourth ban last as the table in the documentation says."""
    assert [bantime_of(growing(**settings), earlier) for earlier in range(4)] == expected


@given(earlier=st.integers(0, 10**9), chance=st.floats(0, 1, exclude_max=True), rndtime=st.integers(1, 10_000))
def test_bantime_is_bounded(earlier: int, chance: float, rndtime: int) -> None:
    """However often somebody was banned, the doubling ends, maxtime holds, and chance adds at most rndtime."""
    assert 60 <= bantime_of(growing(), earlier) <= 60 * 2**20
    bantime = bantime_of(growing(bantime_maxtime="1d", bantime_rndtime=rndtime), earlier, lambda: chance)
    plain = min(60 * 2 ** min(earlier, 20), 86_400)
    assert plain <= bantime <= plain + rndtime


def test_default_chance_varies() -> None:
    """Without an argument the addition is drawn anew each time."""
    jail = growing(bantime_rndtime=1_000_000)
    assert len({bantime_of(jail, 0) for _ in range(20)}) > 1


@given(
    bans=st.lists(st.tuples(st.integers(0, 2 * int(REMEMBERED)), st.integers(1, 400_000)), max_size=12),
    cut=st.integers(0, 12),
)
def test_history_is_a_plain_list_of_bans(bans: list[tuple[int, int]], cut: int) -> None:
    """Earlier bans are those that ended, without a week's gap since; a prolonged one is one; a restart forgets none."""
    history = History()
    jail = growing()
    now, end, number = NOW, 0.0, 0
    for index, (later, bantime) in enumerate(bans):
        if index == cut:
            saved = history.of("203.0.113.5")
            history = History()
            history.restore(saved)
        now += later
        if end + REMEMBERED <= now:
            number = 0
        is_new = end <= now
        assert history.earlier(jail, "203.0.113.5", now) == number - (number and not is_new)
        assert history.in_force("login", "203.0.113.5", now) is not is_new
        assert history.note(ban_of(now, bantime)) is is_new
        number += is_new
        end = now + bantime if is_new else max(end, now + bantime)


def test_jails_are_counted_apart_unless_told_otherwise() -> None:
    """Only a jail with `bantime_overalljails` counts the bans of others."""
    history = History()
    for number, jail in enumerate(["login", "probes", "probes"]):
        history.note(ban_of(NOW + number * 100, jail=jail))
    assert history.earlier(growing(), "203.0.113.5", NOW + 1000) == 1
    assert history.earlier(growing(bantime_overalljails=True), "203.0.113.5", NOW + 1000) == 3
    assert history.earlier(growing(), "203.0.113.6", NOW + 1000) == 0


def test_permanent_ban_is_in_force_until_it_is_lifted() -> None:
    """A ban without an end is prolonged by nothing, and forgotten only when a person lifts it or much later."""
    history = History()
    assert history.note(ban_of(NOW, None))
    assert not history.note(ban_of(NOW + 100))
    assert history.in_force("login", "203.0.113.5", NOW + 10 * REMEMBERED)
    history.changed.clear()
    history.forget("203.0.113.5")
    assert history.changed == {"203.0.113.5"}
    assert not history.in_force("login", "203.0.113.5", NOW + 100)


def test_history_is_bounded_and_tells_what_it_forgets() -> None:
    """Beyond the cap the network banned longest ago goes, a sweep takes what is past, and both are told."""
    history = History(networks_most=2)
    for number in (1, 2, 1, 3):
        history.note(ban_of(NOW + number, address=f"203.0.113.{number}"))
    assert (history.of("203.0.113.2"), len(history.of("203.0.113.1"))) == ((), 1)
    assert history.changed == {"203.0.113.1", "203.0.113.2", "203.0.113.3"}
    history.changed.clear()
    history.sweep(NOW + 2 + 60 + REMEMBERED)
    assert history.changed == {"203.0.113.1"}
    many = History()
    for number in range(3 * SWEPT_AT_ONCE):
        many.note(ban_of(NOW, address=f"10.0.{number >> 8}.{number & 255}"))
    for _ in range(3):
        assert many.of("10.0.0.0") or many.of(f"10.0.{(3 * SWEPT_AT_ONCE - 1) >> 8}.{(3 * SWEPT_AT_ONCE - 1) & 255}")
        many.sweep(NOW + 2 * REMEMBERED)
    assert not any(many.of(f"10.0.{number >> 8}.{number & 255}") for number in range(3 * SWEPT_AT_ONCE))
    small = History(networks_most=1)
    small.restore([Past("login", f"203.0.113.{n}", 1, NOW + n, None) for n in (2, 3, 1)])
    assert len(small.of("203.0.113.3")) == 1
    assert small.changed == {"203.0.113.1", "203.0.113.2"}
