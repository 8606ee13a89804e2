"""The wheel as a user gets it: built from a copy of the checkout, put into an environment that has nothing of ours.

The environment holds the wheel's base dependencies and one framework, copied from the environment of these tests, so
that no package index is needed.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import PathDistribution, distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from tests.lab import Process, running

CHECKOUT = Path(__file__).parents[2]
DAEMON_ONLY = ("msgspec", "pyinotify")

QUICK_START = """
from fastapi import FastAPI
from appguard import AppGuard, report_auth_failure

app = FastAPI()
app.add_middleware(AppGuard)

@app.get("/")
async def page(): return "hello"
"""

VISITS = """
import asyncio, httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from appguard import AppGuard, Limit, report_auth_failure

async def login(request):
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)

app = Starlette(routes=[Route("/login", login, methods=["POST"])])
app.add_middleware(AppGuard, limits=[Limit("2/hour", path="/login")], event_log="stderr", name="shop")

async def visit():
    transport = httpx.ASGITransport(app, client=("203.0.113.5", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        print(*[(await client.post("/login")).status_code for _ in range(3)])

asyncio.run(visit())
"""

RUN_SCRIPT = """
import sys
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="appguard")
sys.argv = ["appguard", *sys.argv[1:]]
sys.exit(script.load()())
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy)
    shutil.copytree(CHECKOUT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = (copy / "dist").iterdir()
    return found


def needed(requirements: Iterable[str]) -> set[str]:
    """Give the names of all distributions that these requirements need."""
    found: set[str] = set()
    todo = [(Requirement(each), frozenset({""})) for each in requirements]
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if requirement.name not in found or requirement.extras:
            found.add(requirement.name)
            wanted = frozenset({"", *requirement.extras})
            todo += [(Requirement(each), wanted) for each in distribution(requirement.name).requires or ()]
    return found


def copy_distribution(name: str, destination: Path) -> None:
    """Copy the files of an installed distribution; its commands are left out."""
    for file in distribution(name).files or ():
        if ".." not in file.parts:
            target = destination / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)


def environment(directory: Path, wheel: Path, framework: Iterable[str]) -> Path:
    """Make a virtual environment with the bare wheel and a framework; give its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    packages = next(directory.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    base = PathDistribution(next(packages.glob("appguard_py-*.dist-info"))).requires or []
    for name in needed([*base, *framework]):
        copy_distribution(name, packages)
    return directory / "bin/python"


@pytest.fixture(scope="session")
def with_fastapi(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the Python of an environment with FastAPI and uvicorn."""
    return environment(tmp_path_factory.mktemp("fastapi"), wheel, ["fastapi", "uvicorn"])


@pytest.fixture(scope="session")
def with_starlette(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the Python of an environment with Starlette and httpx."""
    return environment(tmp_path_factory.mktemp("starlette"), wheel, ["starlette", "httpx"])


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    """Every file of the package is in it, `py.typed`, Lua, SQL and nft files included; no test, no example."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {PurePosixPath(name) for name in archive.namelist()}
    source = {
        PurePosixPath(file.relative_to(CHECKOUT / "src"))
        for file in (CHECKOUT / "src/appguard").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    inside = {name for name in packed if name.parts[0] == "appguard"}
    assert inside == source
    assert PurePosixPath("appguard/py.typed") in inside
    assert all(name.parts[0].endswith(".dist-info") for name in packed - inside)


def test_without_the_extra_only_the_base_is_needed(wheel: Path, with_starlette: Path) -> None:
    """The metadata asks for limits and redis, and nothing of the daemon is there in a bare installation."""
    packages = next(with_starlette.parents[1].glob("lib/python*/site-packages"))
    metadata = PathDistribution(next(packages.glob("appguard_py-*.dist-info")))
    asked = [Requirement(each) for each in metadata.requires or ()]
    assert {each.name for each in asked if not each.marker} == {"limits", "redis"}
    assert metadata.metadata["Requires-Python"] == ">=3.11"
    for name in DAEMON_ONLY:
        assert (
            subprocess.run(
                [with_starlette, "-I", "-c", f"import {name}"], stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 1
        )


def test_the_quick_start_runs_under_uvicorn(with_fastapi: Path, tmp_path: Path) -> None:
    """The bare wheel beside FastAPI and uvicorn serves the app and protects it."""
    (tmp_path / "shop.py").write_text(QUICK_START)
    command: list[str | Path] = [with_fastapi, "-I", "-m", "uvicorn", "shop:app", "--app-dir", tmp_path, "--port", "0"]
    with running(Process("the quick start", command)) as process:
        port = process.wait_for("Uvicorn running on").text.partition("127.0.0.1:")[2].partition(" ")[0]
        url = f"http://127.0.0.1:{port}/"
        curl = ["curl", "--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code} "]
        flood = subprocess.run([*curl, f"{url}?[1-1000]"], capture_output=True, text=True, check=True)
        statuses = flood.stdout.split()
        assert statuses[:100] == ["200"] * 100
        assert set(statuses) == {"200", "429"}
        assert "Traceback" not in process.output()


def test_the_wheel_works_with_starlette_alone(with_starlette: Path) -> None:
    """The bare wheel beside Starlette limits a login and writes its failures."""
    done = subprocess.run([with_starlette, "-I", "-c", VISITS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "401 401 429\n"), done.stderr
    assert done.stderr.count('"event":"authn_login_fail","source_ip":"203.0.113.5"') == 2


@pytest.mark.parametrize("fixture", ["with_fastapi", "with_starlette"])
def test_the_command_without_the_extra_says_what_to_install(request: pytest.FixtureRequest, fixture: str) -> None:
    """`appguard daemon` of a bare installation is one clear line, also where a framework has brought click along."""
    python: Path = request.getfixturevalue(fixture)
    command: list[str | Path] = [python, "-I", "-c", RUN_SCRIPT, "daemon"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'appguard-py[daemon]'" in line
    assert done.stdout == ""
