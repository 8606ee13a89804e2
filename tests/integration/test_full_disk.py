"""A disk that is full, or may not be written: the daemon says so and bans in the kernel, requests go on."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest

from appguard import Limit
from appguard.wsgi import AppGuard
from tests.daemon import Place, in_kernel, running_daemon, web_jail
from tests.lab import wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab


@pytest.fixture
def disk(open_tmp_path: Path) -> Iterator[Path]:
    """Give a disk of two megabytes."""
    path = open_tmp_path / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "small", str(path))
    yield path
    run("umount", "-l", str(path))
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


@pytest.fixture
def place(disk: Path) -> Place:
    """Give a daemon with all its directories but its log there."""
    place = Place(disk)
    place.access_log = disk.parent / "access.log"
    place.configure(web_jail(place))
    return place


def fill(disk: Path) -> Path:
    """Leave no byte free; give what takes the room."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def shop(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer 401, as a shop does to a wrong password."""
    start_response("401 Unauthorized", [("WWW-Authenticate", "Basic")])
    return []


def statuses(event_log: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what a client meets whose app can write nowhere: neither its event log nor its counters."""
    monkeypatch.setenv("TMPDIR", str(event_log.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(event_log.parent))
    guard = AppGuard(shop, store="local://", limits=[Limit("3/hour")], event_log=str(event_log))
    found: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        found.append(status.partition(" ")[0])
        return bytes

    for _ in range(4):
        environ: WSGIEnvironment = {"REMOTE_ADDR": "203.0.113.77", "HTTP_AUTHORIZATION": "Basic YTpi"}
        setup_testing_defaults(environ)
        list(guard(environ, start_response))
    return found


def test_full_disk_stops_neither_bans_nor_requests(place: Place, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the daemon bans in the kernel and an app counts; with room again, nothing has been lost."""
    with running_daemon(place) as daemon:
        ballast = fill(disk)
        for number in range(1, 60):  # more than what lies ready in the files' last pages
            place.append(f"203.0.113.{number}", 3)
        wait_until(lambda: "203.0.113.59" in in_kernel(), 20, daemon.output)
        daemon.wait_for("state cannot be written, trying again:")
        daemon.wait_for("make room on its disk")
        assert place.run("ban", "198.51.100.7").returncode == 0
        assert statuses(disk / "events.jsonl", monkeypatch) == ["401", "401", "401", "429"]
        for address in ("198.51.100.8", "198.51.100.9"):  # a turn of the daemon's clock passes with each
            assert place.run("ban", address, "--for", "1s").returncode == 0
            daemon.wait_for(f"Unban {address}")
        assert "state is written again" not in daemon.output()
        ballast.unlink()
        daemon.wait_for("state is written again")
    with running_daemon(place):
        assert len(place.banned()) == 60


def test_read_only_disk_is_a_clear_error(place: Place, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it may not write, the daemon does not start and says which directory and why; an app goes on."""
    run("mount", "-o", "remount,ro", str(disk))
    daemon = place.start(is_up=False)
    try:
        daemon.wait_for("Error: ")
        assert daemon.wait() == 1
        assert f"cannot use the state directory {place.state}: Read-only file system" in daemon.output()
    finally:
        daemon.stop()
    assert statuses(disk / "events.jsonl", monkeypatch) == ["401", "401", "401", "429"]
