"""Traps: which paths they hold."""

import pytest

from appguard.errors import ConfigError
from appguard.traps import Traps

TRAPS = Traps(["/.env", "/wp-login.php", "/WP-*", "/cgi-bin/*"])
CAUGHT = (
    "/.env",
    "/.env\n",
    "/.ENV",
    "//.env",
    "/.env/",
    "///.env//",
    "/wp-",
    "/wp-admin/x",
    "//Wp-Login.php",
    "/cgi-bin/",
)


@pytest.mark.parametrize("path", CAUGHT)
def test_spellings_are_caught(path: str) -> None:
    """Case, doubled slashes and trailing slashes hide nothing."""
    assert path in TRAPS


@pytest.mark.parametrize("path", ["/", "", "/.env2", "/.environment", "/a/.env", "/wp", "/cgi-bins", "/.env/x", "*"])
def test_other_paths_are_not(path: str) -> None:
    """What only resembles a trap is the app's."""
    assert path not in TRAPS


@pytest.mark.parametrize("path", ["", "/", "*", "/*", "wp-*", "/wp-*/x", "/{name}", "//", "//*"])
def test_what_would_catch_everybody_is_refused(path: str) -> None:
    """A trap is a path, or the beginning of one that says something."""
    with pytest.raises(ConfigError, match="trap "):
        Traps([path])
