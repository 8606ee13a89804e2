"""The control socket and the command, end to end: a real server on a real socket, real peers, the real CLI.

Behind the server stands a small daemon that keeps its bans in a dictionary. The server runs as root here, so its group
is 0: a peer "in the daemon's group" is one started with group 0 among its groups.
"""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from appguard import control_socket
from appguard.address import network_text, parse_network
from appguard.ban import Ban
from appguard.control import DaemonStatus, JailStatus, JailSummary, RefusedBan, SourceSummary, serve
from appguard.control_socket import CONNECTIONS_PER_USER, bound, peer_of
from appguard.errors import ConfigError, FirewallError, RefusedForSafety
from tests.lab import User, has_user, wait_until

ADMIN_GID = 61003
DAEMON_GID = 0
STRANGER = 65534
GATEWAY = "192.0.2.1"
NOW = time.time()

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="starts peers under other user ids")


class DictionaryDaemon:
    """A daemon whose ban set is a dictionary and whose firewall is a word."""

    def __init__(self) -> None:
        self.kept: dict[str, Ban] = {}
        self.enforcing = True
        self.version = 0

    def status(self) -> DaemonStatus:
        """Say what the tests expect to read."""
        return DaemonStatus(
            version="0.1.0",
            pid=4242,
            started=NOW - 60,
            store="local:///run/appguard",
            firewall="nftables",
            enforcing=self.enforcing,
            firewall_error="",
            bans=len(self.kept),
            dropped=14,
            jails=(JailSummary("login", 1, 9, 1, 2), JailSummary("nginx-auth", 0, 0, 0, 0)),
            sources=(
                SourceSummary("app", ("/run/appguard/events.sock",), 0, ""),
                SourceSummary("nginx", (), 2048, "/var/log/nginx/access.log: Permission denied"),
            ),
            refused=(RefusedBan(GATEWAY, "login", "it is the gateway"),),
        )

    def jail_status(self, name: str) -> JailStatus | None:
        """Know one jail."""
        if name != "login":
            return None
        return JailStatus(
            name, 1, 9, ("/run/appguard/events.sock",), 1, 2, ("203.0.113.5",), "nftables, 14 packets dropped"
        )

    def bans(self) -> Sequence[Ban]:
        """Give a copy of what is kept."""
        return tuple(self.kept.values())

    async def ban(self, ban: Ban, *, force: bool) -> Ban:
        """Keep the ban, unless it hits the gateway or is asked for by a jail that stands for a fault."""
        if ban.jail == "faulty":
            raise RuntimeError("a detail nobody outside should read")
        if ban.key == GATEWAY and not force:
            raise RefusedForSafety(f"{GATEWAY} is the gateway")
        self.version += 1
        kept = replace(ban.starting(time.time()), version=self.version)
        self.kept[kept.key] = kept
        return kept

    async def unban(self, what: str) -> Ban | None:
        """Lift by key or ref."""
        for key, ban in self.kept.items():
            if ban.ref == what:
                return self.kept.pop(key)
        if len(what) == 8 and what.isalnum():
            return None
        return self.kept.pop(network_text(parse_network(what)), None)

    async def enforce(self, on: bool) -> None:
        """Switch the word; a daemon with 9 bans has a broken firewall."""
        if len(self.kept) == 9:
            raise FirewallError("nft: Operation not permitted")
        self.enforcing = on


@contextmanager
def serving(daemon: DictionaryDaemon, path: Path) -> Generator[None]:
    """Serve in a thread; on leaving, cancel and expect an end within 10 seconds."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def main() -> None:
        task = asyncio.create_task(serve(daemon, path, admin_gid=lambda: ADMIN_GID))
        started.set_result((asyncio.get_running_loop(), task))
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    loop, task = started.result(10)
    try:
        wait_until(lambda: answers(path), 10, "the server listens")
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        assert not thread.is_alive()


def answers(path: Path) -> bool:
    """Say whether a server answers a request, and has closed the connection since."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        if client.connect_ex(str(path)) != 0:
            return False
        client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200" and is_ended(client)


@pytest.fixture
def daemon() -> DictionaryDaemon:
    """Give a daemon without bans."""
    return DictionaryDaemon()


@pytest.fixture
def path(open_tmp_path: Path, daemon: DictionaryDaemon) -> Iterator[Path]:
    """Give the control socket of a running server."""
    with serving(daemon, open_tmp_path / "control.sock"):
        yield open_tmp_path / "control.sock"


def run(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    return subprocess.run(
        [sys.executable, "-m", "appguard", *arguments, "--socket", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def ask(
    path: Path, method: str, target: str, body: str = "", user: User | None = None
) -> tuple[int, dict[str, object]]:
    """Send one request with curl as a user; give status and JSON, (0, {}) if there was no connection."""
    command = [*(user.prefix() if user else ()), "curl", "--silent", "--max-time", "20", "--unix-socket", str(path)]
    command += ["--request", method, "--write-out", "\n%{http_code}", f"http://appguard{target}"]
    command += ["--data-binary", "@-"] if body else []
    sent = body.encode(errors="surrogateescape")
    done = subprocess.run(command, input=sent, capture_output=True, timeout=60, check=False, cwd="/")
    if done.returncode == 7:
        return 0, {}
    assert done.returncode == 0, done.stderr
    text, _, status = done.stdout.rpartition(b"\n")
    return int(status), cast("dict[str, object]", json.loads(text))


@contextmanager
def connected(path: Path, data: bytes = b"") -> Generator[socket.socket]:
    """Hold a connection on which only this was sent."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(data)
        yield client


def is_ended(client: socket.socket) -> bool:
    """Say whether the server closes the connection within the socket's timeout, after whatever it still sends."""
    with suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True


def test_status_is_fail2bans_tree(path: Path) -> None:
    """`appguard status` begins with fail2ban's lines, tabs included, and goes on with store, firewall and sources."""
    done = run(path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Status",
        "|- Number of jail:\t2",
        "`- Jail list:\tlogin, nginx-auth",
        "Daemon:\t0.1.0, pid 4242",
        "Store:\tlocal:///run/appguard",
        "Firewall:\tnftables, enforcing, 0 bans, 14 packets dropped",
        "Source:\tapp (/run/appguard/events.sock), up to date",
        "Source:\tnginx (nothing yet), 2048 bytes behind, complaint: /var/log/nginx/access.log: Permission denied",
        f"Refused:\t{GATEWAY} (jail login): it is the gateway",
    ]


def test_status_of_a_jail_is_fail2bans_tree(path: Path) -> None:
    """`appguard status login` gives fail2ban's lines, tabs included, and who enforces."""
    done = run(path, "status", "login")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Status for the jail: login\n"
        "|- Filter\n"
        "|  |- Currently failed:\t1\n"
        "|  |- Total failed:\t9\n"
        "|  `- File list:\t/run/appguard/events.sock\n"
        "`- Actions\n"
        "   |- Currently banned:\t1\n"
        "   |- Total banned:\t2\n"
        "   |- Banned IP list:\t203.0.113.5\n"
        "   `- Enforced by:\tnftables, 14 packets dropped\n"
    )


@pytest.mark.parametrize("name", ["logni", "../status", "a b/\x1b[2J"])
def test_an_unknown_jail_is_named_with_those_there_are(path: Path, name: str) -> None:
    """A mistyped jail exits 1, names the jails there are, and sends nothing to the terminal that it would act on."""
    done = run(path, "status", name)
    assert done.returncode == 1
    assert "no such jail" in done.stderr
    assert "login, nginx-auth" in done.stderr
    assert "\x1b" not in done.stderr


def test_ban_list_unban(path: Path, daemon: DictionaryDaemon) -> None:
    """A ban given on the command line arrives whole, is listed, and is lifted by its address."""
    banned = run(path, "ban", "2001:db8:5::1/64", "--for", "1h", "--jail", "abuse", "--reason", "ticket 17")
    kept = daemon.kept["2001:db8:5::/64"]
    assert banned.stdout == f"Banned 2001:db8:5::/64 for 1h (jail abuse, ref {kept.ref})\n"
    assert (kept.jail, kept.reason, kept.automatic) == ("abuse", "ticket 17", False)
    assert kept.end == pytest.approx(kept.start + 3600)
    header, line = run(path, "list").stdout.splitlines()
    assert header.split() == ["ADDRESS", "JAIL", "ENDS", "IN", "FAILURES", "REASON", "REF"]
    assert line.startswith("2001:db8:5::/64  abuse")
    assert line.endswith(f"ticket 17  {kept.ref}")
    assert run(path, "unban", "2001:db8:5::/64").stdout == "Lifted the ban of 2001:db8:5::/64 (jail abuse)\n"
    assert daemon.kept == {}
    assert run(path, "list").stdout == "No bans in force.\n"


def test_everything_speaks_json(path: Path, daemon: DictionaryDaemon) -> None:
    """With `--json` every verb prints one JSON object with the documented keys."""

    def reply(*arguments: str) -> dict[str, object]:
        done = run(path, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return cast("dict[str, object]", json.loads(done.stdout))

    record = reply("ban", "203.0.113.5", "--for", "-1", "--reason", "caf\u00e9 \u202e")
    kept = daemon.kept["203.0.113.5"]
    assert record == {
        "network": "203.0.113.5",
        "jail": "manual",
        "start": kept.start,
        "end": None,
        "reason": "caf\u00e9 \u202e",
        "failures": 0,
        "evidence": [],
        "via": [],
        "ref": kept.ref,
        "automatic": False,
    }
    assert reply("list") == {"bans": [record]}
    assert reply("list", "--jail", "login") == {"bans": []}
    assert reply("status")["bans"] == 1
    assert reply("status", "login")["banned"] == ["203.0.113.5"]
    assert reply("enforce", "off") == {"on": False}
    assert reply("unban", "--ref", kept.ref.lower()) == record
    assert daemon.kept == {}


def test_enforce_off_and_on(path: Path, daemon: DictionaryDaemon) -> None:
    """Enforcement is switched by a verb, and status says loudly that it is off."""
    assert run(path, "enforce", "off").stdout == "Bans are kept but not enforced\n"
    assert not daemon.enforcing
    assert "NOT enforcing (appguard enforce on)" in run(path, "status").stdout
    assert run(path, "enforce", "on").stdout == "Bans are enforced\n"
    assert daemon.enforcing


def test_refusals_have_their_exit_codes(path: Path, daemon: DictionaryDaemon) -> None:
    """Refused for safety is 3 unless forced, nothing to lift is 1, the daemon's own trouble is 1 in its own words."""
    refused = run(path, "ban", GATEWAY)
    assert (refused.returncode, refused.stderr) == (3, f"Error: {GATEWAY} is the gateway\n")
    assert run(path, "ban", GATEWAY, "--force").returncode == 0
    assert list(daemon.kept) == [GATEWAY]
    nothing = run(path, "unban", "198.51.100.1")
    assert (nothing.returncode, nothing.stderr) == (1, "Error: no such ban: '198.51.100.1'\n")
    assert run(path, "unban", "AAAAAAAA").returncode == 1
    daemon.kept = {f"198.51.100.{host}": Ban.of(f"198.51.100.{host}") for host in range(9)}
    broken = run(path, "enforce", "on")
    assert (broken.returncode, broken.stderr) == (1, "Error: nft: Operation not permitted\n")


def test_text_from_outside_cannot_drive_the_terminal(path: Path, daemon: DictionaryDaemon) -> None:
    """Escape sequences and line ends in a reason are printed escaped, and no terminal encoding makes it fail."""
    daemon.kept["203.0.113.5"] = Ban.of("203.0.113.5", start=NOW, bantime=-1, reason="\x1b[2J\r\nok\u202e caf\u00e9")
    assert "\\x1b[2J\\r\\nok\\u202e caf\u00e9" in run(path, "list", PYTHONIOENCODING="utf-8").stdout
    in_ascii = run(path, "list", PYTHONIOENCODING="ascii")
    assert (in_ascii.returncode, in_ascii.stderr) == (0, "")
    assert "\\x1b[2J\\r\\nok\\u202e caf\\xe9" in in_ascii.stdout


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "words"),
    [
        ("POST", "/v1/bans", '{"adress": "203.0.113.5"}', 400, "unknown field `adress`"),
        ("POST", "/v1/bans", '{"jail": "login"}', 400, "missing required field `address`"),
        ("POST", "/v1/bans", '{"address": 17}', 400, "$.address"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "force": "yes"}', 400, "$.force"),
        ("POST", "/v1/bans", '{"address": "203.0.113"}', 400, "'203.0.113' is not an IP address"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": "soon"}', 400, "bantime = 'soon'"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": 0}', 400, "bantime = 0"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": true}', 400, "$.bantime"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": "%s"}' % ("9" * 400), 400, "expected a duration"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "jail": "a b"}', 400, "jail = 'a b'"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5"', 400, "truncated"),
        ("POST", "/v1/bans", '["203.0.113.5"]', 400, "Expected `object`"),
        ("POST", "/v1/bans", '{"address": "\udcff"}', 400, "utf-8"),
        ("POST", "/v1/bans", "[" * 60_000, 400, ""),
        ("POST", "/v1/bans", " " * 65_537, 413, "longer than 65536 bytes"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "jail": "faulty"}', 500, "unexpected error"),
        ("DELETE", "/v1/bans/not-a-ban", "", 400, "'not-a-ban' is not an IP address"),
        ("DELETE", "/v1/bans/", "", 400, "'' is not an IP address"),
        ("PUT", "/v1/enforce", '{"on": 1}', 400, "$.on"),
        ("PUT", "/v1/enforce", "{}", 400, "`on`"),
        ("GET", "/v1/jails/nonsense", "", 404, "no such jail: 'nonsense'"),
        ("GET", "/v2/status", "", 404, "Not Found"),
        ("DELETE", "/v1/status", "", 405, "Method Not Allowed"),
    ],
)
def test_bad_input_is_a_json_error_with_its_status(
    path: Path, daemon: DictionaryDaemon, method: str, target: str, body: str, status: int, words: str
) -> None:
    """Whatever is wrong with a request, the answer is JSON with the right status, names it, and changes nothing."""
    got, reply = ask(path, method, target, body)
    assert got == status, reply
    assert set(reply) == {"error"}
    assert words in str(reply["error"])
    assert daemon.kept == {}
    assert daemon.enforcing


def test_an_unexpected_error_is_logged_and_not_told(
    path: Path, daemon: DictionaryDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in the daemon is logged with its traceback, kept from the client, and does not end the server."""
    done = run(path, "ban", "203.0.113.5", "--jail", "faulty")
    assert done.returncode == 1
    assert "a detail nobody outside should read" not in done.stderr
    wait_until(lambda: "a detail nobody outside should read" in caplog.text, 10, "the error is logged")
    assert run(path, "ban", "203.0.113.5").returncode == 0
    assert list(daemon.kept) == ["203.0.113.5"]


@pytest.mark.parametrize("number", [0, 1, 500, 501, 1201])
def test_a_list_written_in_pieces_is_whole(path: Path, daemon: DictionaryDaemon, number: int) -> None:
    """A list of any length is one JSON object with every ban once."""
    bans = [Ban.of(f"10.0.{host // 256}.{host % 256}", start=NOW) for host in range(number)]
    daemon.kept = {ban.key: ban for ban in bans}
    status, reply = ask(path, "GET", "/v1/bans")
    assert status == 200
    assert [record["network"] for record in cast("list[dict[str, object]]", reply["bans"])] == list(daemon.kept)


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
from tests.integration.test_control import DictionaryDaemon, serve
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


def test_half_a_request_delays_nobody(path: Path, daemon: DictionaryDaemon) -> None:
    """While clients hold connections they do not finish, others are served, and what was half asked is not done."""
    bans = [Ban.of(f"10.{host // 65536}.{host // 256 % 256}.{host % 256}", start=NOW) for host in range(20_000)]
    daemon.kept = {ban.key: ban for ban in bans}
    with ExitStack() as held:
        for data in HALF_REQUESTS * 5:
            held.enter_context(connected(path, data))
        assert run(path, "status").returncode == 0
        assert run(path, "ban", "198.51.100.7").returncode == 0
    assert "198.51.100.7" in daemon.kept
    assert "203.0.113.5" not in daemon.kept


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
