"""What an app's user can do to the files and sockets it can open: nothing that delays a ban or ends a process."""

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.daemon import APP, LOGIN_JAIL, Place, in_kernel, login_failure, running_daemon, web_jail
from tests.lab import Process, User, running, wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab

STRANGER = User(65534)
PROMPTLY = 0.5  # seconds from a log line to the kernel; undisturbed some 20 ms
SEND_THREE = """
import socket, sys
events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
events.connect(sys.argv[1])
for _ in range(3):
    events.send(sys.argv[2].encode())
"""
FILL = """
import socket, sys, time
events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
events.connect(sys.argv[1])
line = sys.argv[2]
datagram = (line + "\\n").encode() * (60000 // (len(line) + 1))
end = time.monotonic() + 20
while time.monotonic() < end:
    events.send(datagram)
"""
FILL_FILE = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
piece = (sys.argv[2] + "\\n").encode() * 300
end = time.monotonic() + 20
written = 0
while time.monotonic() < end and written < 60_000_000:
    written += os.write(log, piece)
"""
HOSTILE = """
import fcntl, mmap, os, socket, sys, time
from pathlib import Path
runtime, state, control = map(Path, sys.argv[1:])

def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, type(error).__name__, flush=True)
    else:
        print(what, "worked", flush=True)

bans, word = runtime / "bans", runtime / "bans.seq"
kept = [bans.open("rb"), word.open("rb")]
attempt("lock", lambda: [fcntl.flock(each, fcntl.LOCK_EX) for each in kept])
attempt("map", lambda: kept.append(mmap.mmap(kept[1].fileno(), 8, access=mmap.ACCESS_READ)))
attempt("write", lambda: bans.open("ab").close())
attempt("truncate", lambda: os.truncate(word, 0))
attempt("unlink", lambda: bans.unlink())
attempt("create", lambda: (runtime / "mine").touch())
attempt("state", lambda: list(state.iterdir()))
attempt("control", lambda: socket.socket(socket.AF_UNIX).connect(str(control)))
events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt("events", lambda: events.connect(str(runtime / "events.sock")))
print("holding", flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def send_three(place: Place, address: str, user: User) -> None:
    """Let a user report three failed logins of an address."""
    events, line = str(place.runtime / "events.sock"), login_failure(address).to_line()
    run(*user.prefix(), sys.executable, "-c", SEND_THREE, events, line)


def test_event_socket_counts_only_its_users(place: Place) -> None:
    """Events of the user named in the jail count; those of another user never do, and the log says so."""
    place.configure(LOGIN_JAIL)
    with running_daemon(place) as daemon:
        send_three(place, "203.0.113.40", STRANGER)
        send_three(place, "203.0.113.33", APP)
        daemon.wait_for("[login] Ban 203.0.113.33")
        daemon.wait_for("user 65534 reports events, but is in the users of no jail")
        assert place.banned() == ["203.0.113.33"]


def seconds_to_ban(place: Place, address: str) -> float:
    """Ban an address by log lines; give the seconds until the kernel says that it has the ban."""
    with running(Process("monitor", ["nft", "monitor", "new", "elements"])) as monitor:
        sleep(0.3)  # it says nothing when it listens
        began = monotonic()
        place.append(address, 3)
        return monitor.wait_for(address, 10).time - began


@pytest.mark.parametrize("line", ["a", "x" * 59_000, "EVENT"])
@pytest.mark.parametrize("user", [APP, STRANGER], ids=["app", "stranger"])
def test_filling_the_socket_delays_no_ban(place: Place, user: User, line: str) -> None:
    """While an app, or a stranger, floods events.sock with short, long or right lines, other bans are as quick."""
    place.configure(LOGIN_JAIL.replace("maxretry = 3", "maxretry = 10000") + web_jail(place))
    line = login_failure("198.51.100.9").to_line() if line == "EVENT" else line
    with running_daemon(place):
        fill = [sys.executable, "-c", FILL, str(place.runtime / "events.sock"), line]
        with running(Process("flood", fill, user=user)) as flood:
            wait_until(lambda: place.ask("status")["sources"], 5, "no status")
            times = [seconds_to_ban(place, f"203.0.113.{last}") for last in (1, 2, 3)]
            assert flood.status is None, flood.output()
    assert sorted(times)[1] < PROMPTLY, times


def test_filling_a_log_delays_no_ban(place: Place) -> None:
    """While an app fills a log of its own with events, bans that another log leads to are as quick."""
    own = place.logs / "app.log"
    own.touch()
    own.chmod(0o666)
    jail = LOGIN_JAIL.replace('source = "events"', f'source = "{own}"\nfilter = "appguard"').replace("= 3", "= 10000")
    place.configure(jail + web_jail(place))
    with running_daemon(place):
        fill = [sys.executable, "-c", FILL_FILE, str(own), login_failure("198.51.100.9").to_line()]
        with running(Process("flood", fill, user=APP)):
            wait_until(lambda: place.ask("status", "login")["total_failed"] > 100, 10, "the flood is not read")
            times = [seconds_to_ban(place, f"203.0.113.{last}") for last in (1, 2, 3)]
            assert place.ask("status", "login")["currently_failed"] == 1
    assert sorted(times)[1] < PROMPTLY, times


def test_app_can_hold_everything_and_stop(place: Place) -> None:
    """An app that locks and maps what it can open, is refused all else and is then stopped, delays no ban."""
    place.configure(LOGIN_JAIL)
    with running_daemon(place) as daemon:
        command = [sys.executable, "-c", HOSTILE, str(place.runtime), str(place.state), str(place.control)]
        with running(Process("hostile app", command, user=APP)) as hostile:
            hostile.wait_for("holding")
            hostile.send(signal.SIGSTOP)
            send_three(place, "203.0.113.33", APP)
            daemon.wait_for("[login] Ban 203.0.113.33", 5)
            wait_until(lambda: "203.0.113.33" in in_kernel(), 5, daemon.output)
            hostile.send(signal.SIGCONT)
        said = dict(line.text.split()[:2] for line in hostile.lines() if " " in line.text)
        assert daemon.status is None
    assert said == {
        "lock": "worked",
        "map": "worked",
        "events": "worked",
        **dict.fromkeys(("write", "truncate", "unlink", "create", "state", "control"), "PermissionError"),
    }


def test_half_a_control_request_delays_no_ban(place: Place) -> None:
    """An administrator's client that stops in the middle of a request holds up neither bans nor other clients."""
    place.configure(LOGIN_JAIL)
    with running_daemon(place) as daemon, socket.socket(socket.AF_UNIX) as half:
        half.connect(str(place.control))
        half.send(b"POST /v1/bans HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        send_three(place, "203.0.113.33", APP)
        daemon.wait_for("[login] Ban 203.0.113.33", 5)
        assert place.banned() == ["203.0.113.33"]
