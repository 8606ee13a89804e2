"""The time by which bans are dropped for good, with clocks that stand still until they are moved."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from appguard.address import parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.errors import StateError
from appguard.state import Batch, State
from appguard.stores.memory import MemoryBanSet
from appguard.stores.replica import Replica
from appguard.stores.sure_time import DOUBTED, SureTime

NOW = 1_800_000_000.0
HOUR = 3600.0
ATTACKER = parse_address("203.0.113.5")


class Host:
    """A host with a wall clock that can be set, a steady one, and what keeps bans there."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 1000.0
        self.sure = SureTime(lambda: self.wall, lambda: self.steady)

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.steady += seconds

    def ban(self, seconds: float = 600.0) -> Ban:
        """Make a ban that begins now."""
        return Ban(parse_network(ATTACKER.text), "login", self.wall, self.wall + seconds, automatic=True, version=1)


def test_it_is_the_clocks_time_unless_the_clock_is_set_ahead() -> None:
    """It goes with the clock, not with one set ahead until that has stayed for a day, and back with it at once."""
    host = Host()
    host.pass_by(50)
    assert host.sure.now() == NOW + 50
    host.wall += HOUR
    host.pass_by(10)
    assert host.sure.now() == NOW + 60
    assert not host.sure.was_set_back()
    host.pass_by(DOUBTED)
    assert host.sure.now() == NOW + 60 + HOUR + DOUBTED
    host.wall -= 2 * HOUR
    assert host.sure.now() == NOW + 60 - HOUR + DOUBTED
    assert host.sure.was_set_back()
    assert not host.sure.was_set_back()


def test_it_follows_a_clock_that_is_slowed_or_hurried() -> None:
    """Small differences, however many, are no setting of the clock."""
    host = Host()
    for _ in range(100):
        host.pass_by(10)
        host.wall += 0.5
        assert host.sure.now() == host.wall
    assert not host.sure.was_set_back()


@pytest.mark.parametrize(("away", "expected"), [(60.0, NOW), (-60.0, NOW - 60), (2 * DOUBTED, NOW + DOUBTED)])
def test_it_goes_on_after_a_restart(away: float, expected: float) -> None:
    """It begins where it was, as the clock may have been set meanwhile, but no more than a day before the clock."""
    host = Host()
    host.wall += away
    sure = SureTime(lambda: host.wall, lambda: host.steady)
    sure.resume(NOW)
    assert sure.now() == expected
    host.pass_by(DOUBTED)
    assert sure.now() == host.wall


def test_bans_that_ended_by_a_wrong_clock_are_in_force_again() -> None:
    """A ban ends while the clock is ahead, and is back when that is right again, for who follows too; then it ends."""
    host = Host()
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    bans.ban(host.ban())
    cursor = bans.snapshot().cursor
    host.wall += HOUR
    assert bans.expire() == []
    assert bans.get(ATTACKER) is None
    assert not bans.kinds()
    host.pass_by(10)
    host.wall -= HOUR
    assert bans.expire() == []
    assert bans.get(ATTACKER) is not None
    assert bans.follow(cursor) is None
    host.pass_by(600)
    assert [ban.key for ban in bans.expire()] == [ATTACKER.text]


@pytest.mark.parametrize("is_restarted", [False, True], ids=["set ahead", "restarted after a day"])
def test_bans_that_began_since_the_clock_was_set_end_by_it(tmp_path: Path, is_restarted: bool) -> None:
    """They are dropped from memory and state when they have ended: they are not to be in force again."""
    host = Host()
    if is_restarted:
        host.sure.resume(host.wall - DOUBTED)
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    state = State(tmp_path / "state", lambda: host.wall, host.sure)
    state.open()
    before = bans.ban(replace(host.ban(900), network=parse_network("203.0.113.6")))
    assert before is not None
    if not is_restarted:
        host.wall += HOUR
        assert bans.expire() == []
    host.pass_by(1)
    ban = bans.ban(host.ban())
    assert ban is not None
    state.save(Batch(facts=[Fact.of(before), Fact.of(ban)]))
    host.pass_by(600)
    assert [ban.key for ban in bans.expire()] == [ATTACKER.text]
    assert bans.held() == [before]
    state.save(Batch())
    assert state.bans() == (before,)
    state.close()


def test_bans_made_while_the_clock_was_ahead_last_as_long_as_others() -> None:
    """When the clock is right again they begin then, as news for who follows; those made before it stay as they are."""
    host = Host()
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    before = bans.ban(replace(host.ban(900), network=parse_network("203.0.113.6")))
    host.wall += HOUR
    bans.expire()
    ahead = [bans.ban(ban) for ban in (host.ban(), replace(host.ban(), network=parse_network("203.0.113.7"), end=None))]
    host.pass_by(10)
    host.wall -= HOUR
    cursor = bans.snapshot().cursor
    assert bans.expire() == []
    assert bans.follow(cursor) is None
    found = {ban.key: ban for ban in bans.held()}
    assert found["203.0.113.6"] == before
    assert (found[ATTACKER.text].start, found[ATTACKER.text].end) == (host.wall, host.wall + 600)
    assert (found["203.0.113.7"].start, found["203.0.113.7"].end) == (host.wall, None)
    assert all(ban is not None and found[ban.key].version > ban.version for ban in ahead)
    host.pass_by(600)
    assert [ban.key for ban in bans.expire()] == [ATTACKER.text]


@pytest.mark.parametrize("was_ahead", [False, True])
def test_a_clock_set_back_by_mistake_ends_no_ban_earlier(was_ahead: bool) -> None:
    """Bans made by a right clock end when they would have, though they begin in the future now."""
    host = Host()
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    kept = bans.ban(host.ban())
    for seconds in (HOUR, -2 * HOUR) if was_ahead else (-HOUR,):
        host.wall += seconds
        bans.expire()
    assert bans.held() == [kept]


@pytest.mark.parametrize("is_restarted", [False, True], ids=["was behind", "was not running"])
def test_a_small_step_back_ends_no_ban_earlier(is_restarted: bool) -> None:
    """While the clock is ahead of what has surely come, as it should be, bans last as long as if it were never set."""
    host = Host()
    if is_restarted:
        host.sure.resume(host.wall - HOUR)
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    host.wall += 0 if is_restarted else HOUR
    bans.expire()
    host.pass_by(10)
    kept = bans.ban(host.ban())
    host.pass_by(60)
    bans.expire()
    host.wall -= 2
    assert bans.expire() == []
    assert bans.held() == [kept]


def test_bans_made_while_the_clock_was_ahead_last_no_longer_where_it_is_set_back_in_steps() -> None:
    """At each step they begin then, as long as they should, until the clock is right."""
    host = Host()
    bans = MemoryBanSet(lambda: host.wall, host.sure)
    host.wall += 3 * HOUR
    bans.expire()
    bans.ban(host.ban())
    for _ in range(3):
        host.pass_by(10)
        host.wall -= HOUR
        assert bans.expire() == []
        assert [(ban.start, ban.end) for ban in bans.held()] == [(host.wall, host.wall + 600)]


def test_a_wrong_clock_of_redis_ends_no_ban_for_good() -> None:
    """Ends that are moved, as the clock of Redis seems to be another, are moved back as if nothing had been."""
    host = Host()
    bans = Replica(lambda: host.wall, host.sure)
    bans.merge(Fact.of(host.ban()))
    bans.shift(-HOUR)
    assert bans.get(ATTACKER) is None
    assert bans.expire() == []
    bans.shift(HOUR)
    assert bans.get(ATTACKER) is not None
    host.pass_by(600)
    assert [ban.key for ban in bans.expire()] == [ATTACKER.text]


def test_the_state_drops_nothing_by_a_wrong_clock(tmp_path: Path) -> None:
    """A ban stays in the state while the clock is ahead, over a restart as well, and goes when it has ended."""
    host = Host()
    state = State(tmp_path / "state", lambda: host.wall, host.sure)
    state.open()
    state.save(Batch(facts=[Fact.of(host.ban())]))
    host.wall += HOUR
    for _ in range(2):
        state.save(Batch())
        state.close()
        sure = SureTime(lambda: host.wall, lambda: host.steady)
        state = State(tmp_path / "state", lambda: host.wall, sure)
        state.open()
        host.pass_by(5)
    state.save(Batch())
    assert len(state.bans()) == 1
    host.pass_by(700)
    state.save(Batch())
    assert state.bans() == ()
    state.close()


def test_a_state_whose_opening_failed_is_opened_whole_later(tmp_path: Path) -> None:
    """A database that cannot be read to its end is not half open: who tries again learns the time that was kept."""
    host = Host()
    state = State(tmp_path / "state", lambda: host.wall, host.sure)
    state.open()
    state.save(Batch())
    state.close()
    host.wall += HOUR
    sure = SureTime(lambda: host.wall, lambda: host.steady)
    state = State(tmp_path / "state", lambda: host.wall, sure)
    for before, after in (("setting", "gone"), ("gone", "setting")):
        with closing(sqlite3.connect(tmp_path / "state" / "state.db")) as connection:
            connection.execute(f"ALTER TABLE {before} RENAME TO {after}")
        if after == "gone":
            with pytest.raises(StateError, match="no such table"):
                state.open()
            with pytest.raises(StateError, match="is not open"):
                state.counts()
    state.open()
    assert sure.now() == NOW
    state.close()
