"""The control socket: who may do what, what one peer may cost, and how the socket comes and goes.

The server runs as root here, so its group is 0: a peer "in the daemon's group" is one started with group 0 among its
groups.
"""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from appguard import control_socket
from appguard.ban import Ban
from appguard.ban_log import BanEvent
from appguard.control import serve
from appguard.control_socket import CONNECTIONS_PER_USER, bound, peer_of
from appguard.errors import ConfigError
from tests.control import (
    ADMIN_GID,
    DAEMON_GID,
    NOW,
    STRANGER,
    DictionaryDaemon,
    answers,
    ask,
    connected,
    is_ended,
    run,
    serving,
)
from tests.lab import User, has_user, wait_until

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="starts peers under other user ids")


@needs_users
def test_the_daemons_group_may_look_and_not_touch(path: Path, daemon: DictionaryDaemon) -> None:
    """A member of the daemon's group reads everything; what changes something is 403 and changes nothing."""
    member = User(STRANGER, groups=(DAEMON_GID, 61007))
    for target in ("/v1/status", "/v1/jails/login", "/v1/bans"):
        assert ask(path, "GET", target, user=member)[0] == 200
    orders = [
        ("POST", "/v1/bans", '{"address": "203.0.113.5"}'),
        ("DELETE", "/v1/bans/203.0.113.5", ""),
        ("PUT", "/v1/enforce", '{"on": false}'),
    ]
    for method, target, body in orders:
        status, reply = ask(path, method, target, body, user=member)
        assert status == 403
        assert reply == {"error": "only root and members of the group appguard-admin may do this; uid 65534 is not"}
    assert daemon.kept == {}
    assert daemon.enforcing


@needs_users
def test_the_admin_group_may_touch(path: Path, daemon: DictionaryDaemon) -> None:
    """A member of the admin group bans and unbans, whether it is a supplementary or the primary group."""
    supplementary = User(STRANGER, groups=(DAEMON_GID, ADMIN_GID))
    primary = User(STRANGER, ADMIN_GID, (DAEMON_GID,))
    assert ask(path, "POST", "/v1/bans", '{"address": "203.0.113.5"}', supplementary)[0] == 200
    assert list(daemon.kept) == ["203.0.113.5"]
    assert ask(path, "DELETE", "/v1/bans/203.0.113.5", user=primary)[0] == 200
    assert daemon.kept == {}


@needs_users
def test_a_stranger_cannot_connect(path: Path) -> None:
    """A user outside the daemon's group gets no connection, and the command tells it what to do, with exit code 4."""
    assert ask(path, "GET", "/v1/status", user=User(STRANGER, groups=(61007,))) == (0, {})
    done = subprocess.run(
        [sys.executable, "-c", _AS_A_STRANGER, "status", "--socket", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr == f"Error: you may not open {path}: use sudo, or join the group appguard and log in again\n"


_AS_A_STRANGER = f"""
import os, sys
import appguard.cli.verbs
from appguard.cli import main
os.setgroups([])
os.setresgid({STRANGER}, {STRANGER}, {STRANGER})
os.setresuid({STRANGER}, {STRANGER}, {STRANGER})
sys.exit(main())
"""


@needs_users
def test_without_an_admin_group_only_root_may_touch(open_tmp_path: Path) -> None:
    """Where the host has no group appguard-admin, a daemon under its own user obeys root alone.

    Also: an unprivileged daemon makes its socket 0660 and its own, whatever its umask.
    """
    uid, gid, path = 61001, 61002, open_tmp_path / "control.sock"
    os.chown(open_tmp_path, uid, gid)
    command = [sys.executable, "-c", _UNPRIVILEGED, str(path), str(uid), str(gid)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        try:
            wait_until(lambda: answers(path), 10, "the server listens")
            found = path.lstat()
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, 0o660)
            order = ("POST", "/v1/bans", '{"address": "203.0.113.5"}')
            assert ask(path, "GET", "/v1/status", user=User(STRANGER, groups=(gid,)))[0] == 200
            assert ask(path, *order, User(STRANGER, groups=(gid,)))[0] == 403
            assert ask(path, *order, User(uid, gid))[0] == 403
            assert ask(path, *order)[0] == 200
        finally:
            process.kill()


_UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
from appguard.control import serve
from tests.control import DictionaryDaemon
path, uid, gid = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.umask(0o077)
asyncio.run(serve(DictionaryDaemon(), path))
"""


def test_nobody_can_connect_before_the_mode_is_set(open_tmp_path: Path) -> None:
    """Between bind and listen, with the most careless umask, a connection is refused and the mode is already right."""
    umask = os.umask(0)
    try:
        listener, inode = bound(open_tmp_path / "control.sock")
    finally:
        os.umask(umask)
    with listener, socket.socket(socket.AF_UNIX) as client:
        found = (open_tmp_path / "control.sock").lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid, found.st_ino) == (0o660, os.getegid(), inode)
        with pytest.raises(ConnectionRefusedError):
            client.connect(str(open_tmp_path / "control.sock"))


def test_the_kernel_says_who_a_peer_is() -> None:
    """The credentials of a peer are its process, user and all its groups."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.groups == {os.getegid(), *os.getgroups()}


HALF_REQUESTS = [
    b"",
    b"GET /v1/sta",
    b"GET /v1/status HTTP/1.1\r\nHost: a\r\n",
    b'POST /v1/bans HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"address": "203.0.113.5"',
    b"GET /v1/bans HTTP/1.1\r\nHost: a\r\n\r\n",  # whole, but its long answer is not read
]


def test_half_a_request_delays_nobody(path: Path, daemon: DictionaryDaemon, caplog: pytest.LogCaptureFixture) -> None:
    """While clients hold connections they do not finish, others are served; the half asked is not done nor logged."""
    bans = [Ban.of(f"10.{host // 65536}.{host // 256 % 256}.{host % 256}", start=NOW) for host in range(20_000)]
    daemon.kept = {ban.key: ban for ban in bans}
    with ExitStack() as held:
        for data in HALF_REQUESTS * 5:
            held.enter_context(connected(path, data))
        assert run(path, "status").returncode == 0
        assert run(path, "ban", "198.51.100.7").returncode == 0
    assert run(path, "unban", "198.51.100.7").returncode == 0  # after the server saw the others hang up
    assert daemon.kept.keys() == {ban.key for ban in bans}
    assert caplog.text == ""


@pytest.mark.parametrize("data", HALF_REQUESTS)
def test_a_connection_ends_in_time(
    path: Path, daemon: DictionaryDaemon, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which nothing more happens is closed by the server, wherever the client stopped."""
    monkeypatch.setattr(control_socket, "EXCHANGE_SECONDS", 0.3)
    bans = [Ban.of(f"10.0.{host // 256}.{host % 256}", start=NOW, reason="x" * 256) for host in range(10_000)]
    daemon.kept = {ban.key: ban for ban in bans}
    with connected(path, data) as client:
        assert is_ended(client)


@needs_users
def test_one_user_cannot_use_up_the_connections_of_another(path: Path) -> None:
    """A user who holds as many connections as allowed gets no more, and others are served as before."""
    with ExitStack() as held:
        for _ in range(CONNECTIONS_PER_USER):
            held.enter_context(connected(path))
        refused = run(path, "status")
        assert refused.returncode == 4
        assert "the daemon did not answer" in refused.stderr
        assert ask(path, "GET", "/v1/status", user=User(STRANGER, groups=(DAEMON_GID,)))[0] == 200
    wait_until(lambda: run(path, "status").returncode == 0, 10, "the connections given back are free again")


def test_cancelling_ends_everything(open_tmp_path: Path, daemon: DictionaryDaemon) -> None:
    """Cancelled while clients are stuck, the server ends within seconds, closes them and removes its socket file."""
    path = open_tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        with serving(daemon, path):
            client.connect(str(path))
            client.sendall(HALF_REQUESTS[3])
            assert run(path, "status").returncode == 0
        assert is_ended(client)
    assert not path.exists()


def test_serving_leaves_the_signal_handlers_alone(open_tmp_path: Path, daemon: DictionaryDaemon) -> None:
    """The server takes no signal handler from the process it runs in, and no task or file is left after it."""
    path = open_tmp_path / "control.sock"

    async def main() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        task = asyncio.create_task(serve(daemon, path))
        await asyncio.to_thread(wait_until, lambda: answers(path), 10, "it listens")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert list(open_tmp_path.iterdir()) == []


def test_a_dead_daemons_socket_is_replaced(open_tmp_path: Path, daemon: DictionaryDaemon) -> None:
    """A socket file left by a killed daemon does not stop the next one."""
    path = open_tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    with serving(daemon, path):
        assert run(path, "status").returncode == 0


def test_a_living_daemons_socket_is_not_taken(path: Path, daemon: DictionaryDaemon) -> None:
    """A second daemon on the same path is told so, and the first goes on."""
    with pytest.raises(ConfigError, match="another process listens there already"):
        asyncio.run(serve(daemon, path))
    assert run(path, "status").returncode == 0


def test_a_successors_socket_is_not_removed(open_tmp_path: Path, daemon: DictionaryDaemon) -> None:
    """A daemon that ends removes its own socket file, not one that has taken its place."""
    path = open_tmp_path / "control.sock"
    with serving(daemon, path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "there is a file that is no socket"),
        ("missing/control.sock", "No such file or directory"),
        ("x" * 200, "too long"),
    ],
)
def test_a_socket_that_cannot_be_made_is_a_clear_error(
    open_tmp_path: Path, daemon: DictionaryDaemon, name: str, words: str
) -> None:
    """A path where no socket can be is an error that names it; a file there is left as it was."""
    (open_tmp_path / "file").write_text("keep me")
    with pytest.raises(ConfigError, match=words) as caught:
        asyncio.run(serve(daemon, open_tmp_path / name))
    assert str(open_tmp_path / name) in str(caught.value)
    assert (open_tmp_path / "file").read_text() == "keep me"


def test_who_waits_for_events_hears_of_one_that_has_just_come(path: Path, daemon: DictionaryDaemon) -> None:
    """An event that comes while there is still none to give is given at once, not when the wait is over."""
    details = {"evidence": (), "request_ids": (), "via": (), "reason": "", "failures": 0, "ref": "", "host": ""}
    what = {"what": "ban", "network": "203.0.113.5", "ports": "", "jail": "login", "by": "jail"}
    daemon.event_to_come = BanEvent.from_json({"cursor": 1, "time": 1.0, "start": 1.0, "end": None} | what | details)
    status, answer = ask(path, "GET", "/v1/events?since=0&wait=1")  # which waits less long than the daemon would
    assert (status, answer["cursor"]) == (200, 1)


@needs_users
def test_only_administrators_change_the_safelist(path: Path, daemon: DictionaryDaemon) -> None:
    """Who may read sees the safelist and the events, and changes nothing."""
    stranger = User(STRANGER, groups=(DAEMON_GID,))
    order = '{"address": "203.0.113.5", "reason": "mine"}'
    assert ask(path, "GET", "/v1/safelist", user=stranger) == (200, {"entries": []})
    assert ask(path, "GET", "/v1/events", user=stranger) == (200, {"cursor": 0, "events": []})
    assert ask(path, "POST", "/v1/safelist", order, user=stranger)[0] == 403
    assert ask(path, "DELETE", "/v1/safelist/203.0.113.5", user=stranger)[0] == 403
    assert ask(path, "GET", "/v1/events?since=x")[0] == 400
    assert list(daemon.safelist) == []
