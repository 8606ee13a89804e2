"""What somebody damaged in the daemon's state is dropped as bad input is, with a line in the log and nothing else."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.bantime import Past
from appguard.blocking import block_of
from appguard.counted import Failure
from appguard.state import Batch, State

NOW = 1_800_000_000.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Give an open state in a directory of its own."""
    state = State(tmp_path / "state", clock=lambda: NOW)
    state.open()
    yield state
    state.close()


def execute(directory: Path, *statements: str) -> None:
    """Change the database behind the state's back."""
    with closing(sqlite3.connect(directory / "state" / "state.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        "network = 'nonsense'",
        "network = 7",
        "jail = '../etc'",
        "starts = 'soon'",
        "starts = 9e999",
        "ends = 'never'",
        "reason = x'ff'",
        "failures = -1",
        "evidence = 'no json'",
        "evidence = '[1]'",
        "via = '{}'",
        "version = 'new'",
    ],
)
def test_a_bad_ban_is_dropped(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A ban somebody damaged in the database is dropped with a line in the log, and the others are there."""
    good, bad = (Ban(parse_network(f"192.0.2.{n}"), "login", NOW, None, "why", 5, ("line",), version=n) for n in (1, 2))
    state.save(Batch(facts=[Fact(ban.network, ban.version, ban) for ban in (good, bad)]))
    state.close()
    execute(tmp_path, f"UPDATE ban SET {damage} WHERE network = '192.0.2.2'")
    state.open()
    with caplog.at_level(logging.WARNING):
        assert state.bans() == (good,)
    assert "the saved ban of" in caplog.text
    is_told_in_brief = damage.split()[0] in ("network", "jail", "ends")
    assert len(list(filter(None, map(block_of, state.brief_bans())))) == (1 if is_told_in_brief else 2)


@pytest.mark.parametrize(
    "damage",
    [
        "key = x'ff'",
        "failures = 'no json'",
        "failures = '[[1, 2]]'",
        'failures = \'[["1", 2, ""]]\'',
        "failures = '[[1, -1, \"\"]]'",
        'failures = \'[[1, 1, "", "value"]]\'',
        'failures = \'[[1, 1, "", 7, ""]]\'',
        'failures = \'[[1, 0, "", "", "nonsense"]]\'',
        "failures = '[[NaN, 1, \"\"]]'",
        "failures = '[[1" + "0" * 400 + ', 1, ""]]\'',
        "failures = '" + "[" * 100_000 + "'",
        "failures = CAST(x'5b5bff' AS TEXT)",
    ],
)
def test_bad_failures_are_dropped(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """What somebody damaged in the database is dropped with a line in the log, and the other keys are there."""
    good = Failure(NOW, 1, "good")
    state.save(Batch(failures={("login", "192.0.2.1"): [good], ("login", "192.0.2.2"): [good]}))
    state.close()
    execute(tmp_path, f"UPDATE failure SET {damage} WHERE key = '192.0.2.2'")
    state.open()
    with caplog.at_level(logging.WARNING):
        assert state.failures("login") == [("192.0.2.1", good)]
    assert "jail login: what was counted for" in caplog.text


@pytest.mark.parametrize(
    "damage",
    ["network = 'nonsense'", "jail = x'ff'", "bans = 'many'", "bans = -1", "starts = 'soon'", "ends = 'never'"],
)
def test_bad_pasts_are_dropped(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A damaged row is dropped with a line in the log, and the others are there."""
    good, bad = (Past("login", f"192.0.2.{number}", 1, NOW, None) for number in (1, 2))
    state.save(Batch(pasts={"192.0.2.1": [good], "192.0.2.2": [bad]}))
    state.close()
    execute(tmp_path, f"UPDATE past SET {damage} WHERE network = '192.0.2.2'")
    state.open()
    with caplog.at_level(logging.WARNING):
        assert state.pasts() == (good,)
    assert "the saved bans of" in caplog.text


def test_bad_positions_settings_and_totals_are_as_if_never_saved(state: State, tmp_path: Path) -> None:
    """Values of the wrong type are not handed out."""
    state.save(Batch(positions={("nginx", "/log"): "1"}, totals={"login": (1, 1)}))
    state.set_setting("enforce", "on")
    state.close()
    tables = {"position": "text", "total": "failed", "setting": "value"}
    execute(tmp_path, *(f"UPDATE {table} SET {name} = x'ff'" for table, name in tables.items()))
    state.open()
    assert (state.positions("nginx"), state.totals("login"), state.setting("enforce")) == ({}, (0, 0), None)
