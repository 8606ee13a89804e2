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


@pytest.mark.parametrize(
    "name", ["Answer", "AppGuard", "Jail", "Limit", "Ban", "Refusal", "open_store", "report_auth_failure"]
)
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


ELSEWHERE = """
import sys
for name in ("fcntl", "mmap", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
import asyncio, limits
from appguard import AppGuard, Jail, report_auth_failure
from appguard.wsgi import AppGuard as WsgiAppGuard
from wsgiref.util import setup_testing_defaults

options = dict(limits=["2/minute"], jails=[Jail("login", maxretry=2)], store="memory://", event_log="logger")
async def app(scope, receive, send):
    report_auth_failure(scope, "alice")
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b""})

def wsgi_app(environ, start_response):
    report_auth_failure(environ, "alice")
    start_response("401 Unauthorized", [])
    return [b""]

seen = []
async def ask(app):
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("203.0.113.5", 1)}
    async def send(message):
        seen.append(message.get("status"))
    await app(scope, None, send)

async def main():
    guarded = AppGuard(app, **options)
    for _ in range(3):
        await ask(guarded)

asyncio.run(main())
guarded = WsgiAppGuard(wsgi_app, **options)
for _ in range(3):
    environ = {"REMOTE_ADDR": "203.0.113.5"}
    setup_testing_defaults(environ)
    list(guarded(environ, lambda status, headers: seen.append(int(status[:3]))))
print(*filter(None, seen))
"""


def test_the_middleware_serves_without_the_modules_of_posix() -> None:
    """Where there is no fcntl, mmap, pwd and grp, apps are served, limited and their guessers banned."""
    done = subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("401 401 403 401 401 403\n", 0), done.stderr


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
