"""The example shop in a container behind a published port: its failed logins are dropped by the host."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts.demos.docker_like import PLACES, DockerLike
from scripts.demos.sections import ATTACKER4, ATTACKER6, BANNED6, HONEST4, NEIGHBOUR6
from scripts.demos.timeline import Timeline
from tests.contained_shop import APP_UID, BEHIND, ContainedShop
from tests.container import joining
from tests.daemon import login_failure
from tests.internet import SERVER4, SERVER6, Internet
from tests.lab import User, wait_until
from tests.shop import CONTROL, RUNTIME
from tests.visitor import SILENCE, KeptConnection, Visitor, guess_until_dropped

pytestmark = pytest.mark.lab

DIRECTORY = Path("/run/shop")
NEIGHBOUR4 = "203.0.113.6"
STRANGER = User(65534)
SEND_FIVE = """
import socket, sys
events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
events.connect(sys.argv[1])
for _ in range(5):
    events.send(sys.argv[2].encode())
"""
REACH = """
import os, socket, sys
from pathlib import Path
runtime = Path(sys.argv[1])
def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(f"{what}: {error.strerror}")
    else:
        print(f"{what}: worked")
attempt("read bans", (runtime / "bans").read_bytes)
attempt("write bans", lambda: (runtime / "bans").open("ab"))
attempt("unlink bans", (runtime / "bans").unlink)
attempt("make a file", (runtime / "mine").touch)
attempt("unlink socket", (runtime / "events.sock").unlink)
for path in sys.argv[2:]:
    attempt(path, lambda: os.stat(path))
others = [pid for pid in os.listdir("/proc") if pid.isdigit() and os.stat(f"/proc/{pid}").st_uid != os.getuid()]
print(f"processes of others: {len(others)}")
"""


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """Give the attackers, the honest client and the server."""
    with Internet(PLACES) as internet:
        yield internet


@pytest.fixture
def shop(internet: Internet) -> Iterator[ContainedShop]:
    """Give the running shop."""
    with ContainedShop(internet.server, DIRECTORY) as shop:
        yield shop


@pytest.mark.parametrize(("source", "host", "banned"), [(ATTACKER4, SERVER4, ATTACKER4), (ATTACKER6, SERVER6, BANNED6)])
def test_the_host_drops_new_and_established_connections(
    internet: Internet, shop: ContainedShop, source: str, host: str, banned: str
) -> None:
    """Five wrong passwords through the published port silence a connection of before and a new one until `unban`.

    What was asked on the old connection meanwhile is answered then: it was held up by the kernel, and by nobody else.
    """
    attacker = Visitor(internet.machines["attacker"], host, source)
    honest = Visitor(internet.machines["honest"], host)
    forged = {"X-Forwarded-For": HONEST4, "Forwarded": f"for={HONEST4}"}
    with KeptConnection(attacker) as kept:
        assert kept.ask() == 200
        attempts = [partial(attacker.log_in, "alice", f"guess{number}", forged) for number in range(5)]
        guess_until_dropped(attacker, shop.container, attempts, behind=BEHIND[host])
        assert kept.ask(SILENCE) == 0
        assert attacker.outcome(SILENCE) == 0
        assert honest.outcome() == 200
        assert f"Banned IP list:\t{banned}\n" in shop.command("status", "login")
        shop.command("unban", banned)
        wait_until(lambda: kept.read() == 200, 10, "TCP sends again what the kernel dropped")
    wait_until(lambda: attacker.outcome(SILENCE) == 200, 5, "the attacker is let back")


def test_neighbours_are_served_but_not_in_the_same_slash64(internet: Internet, shop: ContainedShop) -> None:
    """Of a banned IPv4 address the next one is served; of a banned IPv6 address the whole /64 is not."""
    attacker = internet.machines["attacker"]
    for address in (ATTACKER4, ATTACKER6):
        shop.command("ban", address)
    assert Visitor(attacker, SERVER4, ATTACKER4).outcome(SILENCE) == 0
    assert Visitor(attacker, SERVER4, NEIGHBOUR4).outcome() == 200
    assert Visitor(attacker, SERVER6, NEIGHBOUR6).outcome(SILENCE) == 0


def test_the_app_has_one_directory_of_the_host(shop: ContainedShop) -> None:
    """The app reads the bans and can change nothing there; control socket, state, logs and processes are not there."""
    hidden = [str(path) for path in (CONTROL, DIRECTORY, Path("/run/netns"), Path("/var/lib"), Path("/etc"))]
    said = shop.run_inside(sys.executable, "-c", REACH, RUNTIME, *hidden).splitlines()
    assert said == [
        "read bans: worked",
        "write bans: Permission denied",
        *(f"{what}: Read-only file system" for what in ("unlink bans", "make a file", "unlink socket")),
        *(f"{path}: No such file or directory" for path in hidden),
        "processes of others: 0",
    ]
    assert shop.run_inside("ls", "/run") == "appguard\n"
    assert shop.run_inside("id", "-u") == f"{APP_UID}\n"


def test_the_app_refuses_what_the_daemon_publishes(shop: ContainedShop) -> None:
    """A ban and its end reach the app through the directory: asked inside, where no packet passes the host."""
    local = Visitor(shop.container, "127.0.0.1", port=8000)

    def status_for(client: str) -> int:
        return local.ask("GET", "/", headers={"X-Forwarded-For": client}).status

    assert status_for(ATTACKER4) == 200
    shop.command("ban", ATTACKER4)
    wait_until(lambda: status_for(ATTACKER4) == 403, 5, "the app knows of the ban")
    assert status_for(HONEST4) == 200
    shop.command("unban", ATTACKER4)
    wait_until(lambda: status_for(ATTACKER4) == 200, 5, "the app knows of its end")


def test_a_daemon_started_anew_is_found_again(internet: Internet, shop: ContainedShop) -> None:
    """Because the directory is shared and not the socket in it, the app reports to the daemon's next socket."""
    shop.daemon.stop()
    shop.start_daemon()
    attacker = Visitor(internet.machines["attacker"], SERVER4, ATTACKER4)
    attempts = [partial(attacker.log_in, "alice", f"guess{number}") for number in range(5)]
    guess_until_dropped(attacker, shop.container, attempts, behind=BEHIND[SERVER4])


def test_only_the_user_named_in_the_jail_is_believed(shop: ContainedShop) -> None:
    """Another user of the container reaches the socket, but has nobody banned."""
    send = [sys.executable, "-c", SEND_FIVE, f"{RUNTIME}/events.sock"]
    for user, address in ((STRANGER, "203.0.113.40"), (User(APP_UID), "203.0.113.41")):
        subprocess.run(joining(shop.app.pid, user, [*send, login_failure(address).to_line()]), check=True)
    shop.daemon.wait_for(f"user {STRANGER.uid} reports events, but is in the users of no jail")
    shop.daemon.wait_for("[login] Ban 203.0.113.41")
    assert "Banned IP list:\t203.0.113.41\n" in shop.command("status", "login")


def test_the_demonstration_fails_when_nothing_is_dropped(internet: Internet) -> None:
    """What scripts/demo --docker-like shows is observed: with a firewall that only pretends, it ends in an error."""
    with ContainedShop(internet.server, DIRECTORY, firewall="dry_run") as shop:
        demo = DockerLike(internet, shop, Timeline())
        demo.look_inside()
        with pytest.raises(AssertionError, match="the kernel drops the probes"):
            demo.guess_through_the_port(ATTACKER4, SERVER4, ATTACKER4)
