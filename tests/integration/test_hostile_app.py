"""What an app's user can do to the files and sockets it can open: nothing that delays a ban or ends a process."""

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import APP, LOGIN_JAIL, Place, in_kernel, login_failure, running_daemon
from tests.lab import Process, User, running, wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab

STRANGER = User(65534)
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
end = time.monotonic() + 20
while time.monotonic() < end:
    events.send(b"x" * 60000)
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


def test_filling_the_socket_delays_no_ban(place: Place) -> None:
    """While a user floods events.sock with garbage, the failures another one reports still ban."""
    place.configure(LOGIN_JAIL)
    with running_daemon(place) as daemon:
        fill = [sys.executable, "-c", FILL, str(place.runtime / "events.sock")]
        with running(Process("flood", fill, user=STRANGER)) as flood:
            daemon.wait_for("user 65534 reports events")
            send_three(place, "203.0.113.77", APP)
            daemon.wait_for("[login] Ban 203.0.113.77", 5)
            wait_until(lambda: "203.0.113.77" in in_kernel(), 5, daemon.output)
            assert flood.status is None


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
