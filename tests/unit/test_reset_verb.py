"""`appguard reset` says what it removes, asks, and removes all of it; never under a running daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appguard.ban import Ban, Fact
from appguard.cli.verbs import appguard
from appguard.state import Batch, State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Give the state of a daemon that has ended; it holds one ban and how far a log was read."""
    (tmp_path / "appguard.toml").write_text(f'state_directory = "{tmp_path}/state"\nstore = "redis://192.0.2.1:1/0"\n')
    state = State(tmp_path / "state")
    state.open()
    ban = Ban.of("203.0.113.5", start=1_800_000_000.0, bantime=-1)
    state.save(Batch(positions={("nginx", "/log"): "7"}, facts=[Fact(ban.network, 1, ban)]))
    state.close()
    yield state
    state.close()


def reset(directory: Path, *options: str, answer: str = "") -> Result:
    """Run the verb."""
    return CliRunner().invoke(appguard, ["reset", "--config", f"{directory}/appguard.toml", *options], input=answer)


def test_it_says_what_it_removes_and_asks(state: State, tmp_path: Path) -> None:
    """Without a yes nothing is removed; the question counts what there is and says where bans come back from."""
    for answer in ("n\n", ""):
        done = reset(tmp_path, answer=answer)
        assert done.exit_code == 1
        for text in (f"{tmp_path}/state/state.db", "1 bans", "1 logs", "0 keys", "Redis", "stay until they end"):
            assert text in done.output
    state.open()
    assert (len(state.bans()), state.positions("nginx")) == (1, {"/log": "7"})


@pytest.mark.parametrize(("options", "answer"), [(["--yes"], ""), ([], "y\n")])
def test_it_removes_everything(state: State, tmp_path: Path, options: list[str], answer: str) -> None:
    """With a yes the database is gone, with its log; the next start begins anew."""
    done = reset(tmp_path, *options, answer=answer)
    assert (done.exit_code, list((tmp_path / "state").iterdir())) == (0, [])
    assert "There is nothing to forget" in reset(tmp_path, *options).output
    state.open()
    assert (state.bans(), state.positions("nginx")) == ((), {})


def test_it_refuses_under_a_running_daemon(state: State, tmp_path: Path) -> None:
    """While a daemon has the state it stays as it is, and the message says why."""
    state.open()
    state.set_setting("enforce", "off")
    done = reset(tmp_path, "--yes")
    assert (done.exit_code, "is a second daemon running?" in done.output) == (1, True)
    assert len(state.bans()) == 1
