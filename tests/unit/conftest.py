"""What several unit tests share: both sides of the published bans."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.stores.local import Publisher
from tests.published import Reader


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    """Give a daemon's side that has published nothing yet."""
    publisher = Publisher(tmp_path)
    yield publisher
    publisher.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Give an app's side whose clock never moves by itself, so that only the word can tell of news."""
    reader = Reader(tmp_path)
    yield reader
    reader.close()
