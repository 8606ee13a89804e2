"""What the tests of the control socket share: a daemon that is a dictionary, and a server of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control import DictionaryDaemon, serving


@pytest.fixture
def daemon() -> DictionaryDaemon:
    """Give a daemon without bans."""
    return DictionaryDaemon()


@pytest.fixture
def path(open_tmp_path: Path, daemon: DictionaryDaemon) -> Iterator[Path]:
    """Give the control socket of a running server."""
    with serving(daemon, open_tmp_path / "control.sock"):
        yield open_tmp_path / "control.sock"
