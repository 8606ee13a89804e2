"""What importing AppGuard loads, in an interpreter of its own, and that every public name is there."""

import subprocess
import sys

import pytest

import appguard

HEAVY = {
    "asyncio",
    "click",
    "django",
    "fastapi",
    "flask",
    "httpx",
    "limits",
    "msgspec",
    "pyinotify",
    "redis",
    "starlette",
    "uvicorn",
}
NO_FRAMEWORK = HEAVY - {"asyncio", "limits"}


def loaded_by(code: str) -> set[str]:
    """Run a line of Python; give the top-level packages it loaded."""
    command = [
        sys.executable,
        "-I",
        "-c",
        f"{code}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_loads_nothing() -> None:
    """`import appguard` loads no framework, no redis, no limits, no pyinotify and no asyncio."""
    assert loaded_by("import appguard") & HEAVY == set()


@pytest.mark.parametrize("name", ["AppGuard", "Jail", "Limit", "Ban", "open_store", "report_auth_failure"])
def test_a_public_name_loads_no_framework(name: str) -> None:
    """What an app imports needs no framework, no redis, and nothing of the daemon."""
    assert loaded_by(f"from appguard import {name}") & NO_FRAMEWORK == set()


def test_a_report_needs_nothing() -> None:
    """Code that only reports loads neither the middleware nor the rates."""
    assert loaded_by("from appguard import report_auth_failure") & HEAVY == set()


def test_a_middleware_in_use_loads_no_framework_and_no_redis() -> None:
    """With every member of the settings made, nothing that an app did not ask for is loaded."""
    code = "from appguard import AppGuard; AppGuard(None, limits=['5/minute'], store='memory://', event_log='logger')"
    assert loaded_by(code) & NO_FRAMEWORK == set()


def test_every_public_name_is_there() -> None:
    """`__all__` is sorted, each name resolves, and `dir` gives the same."""
    assert appguard.__all__ == sorted(appguard.__all__)
    assert dir(appguard) == appguard.__all__
    for name in appguard.__all__:
        assert getattr(appguard, name).__name__ == name


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    """A typo in an import is the error Python knows."""
    with pytest.raises(AttributeError, match="module 'appguard' has no attribute 'AppGaurd'"):
        _ = getattr(appguard, "AppGaurd")  # noqa: B009 - the type checkers know that it is not there
    with pytest.raises(ImportError):
        exec("from appguard import AppGaurd")
