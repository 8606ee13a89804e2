"""The demonstration with the app in a container whose port is published: the host drops ahead of the translation."""

import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.demos.sections import (
    ATTACKER4,
    ATTACKER6,
    BANNED6,
    BANTIME,
    FORGED,
    HONEST4,
    HONEST6,
    NEIGHBOUR6,
    HonestClient,
    Sections,
)
from scripts.demos.timeline import Timeline, require
from tests.contained_shop import BEHIND, CONTAINER4, ContainedShop
from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.shop import CONTROL, RUNTIME
from tests.visitor import SILENCE, KeptConnection, Visitor

NEIGHBOUR4 = "203.0.113.6"
PLACES = (
    Place("attacker", (f"{ATTACKER4}/24", f"{NEIGHBOUR4}/24", f"{ATTACKER6}/64", f"{NEIGHBOUR6}/64")),
    Place("honest", (f"{HONEST4}/24", f"{HONEST6}/64")),
)
LOOK = """
import os, socket, sys
from pathlib import Path
runtime, *hidden = map(Path, sys.argv[1:])
print("in /run:", *sorted(os.listdir("/run")))
print(f"in {runtime}:", *sorted(os.listdir(runtime)))
try:
    (runtime / "mine").touch()
    print("a file of its own there: made")
except OSError as error:
    print("a file of its own there:", error.strerror)
for path in hidden:
    print(f"{path}:", "there" if path.exists() else "not there")
"""


@contextmanager
def staged(timeline: Timeline, *, bantime: float = BANTIME) -> Generator["DockerLike"]:
    """Build the machines, the container and the shop, and give the demonstration."""
    with (
        Internet(PLACES) as internet,
        ContainedShop(internet.server, Path("/run/shop"), bantime=f"{bantime:g}s") as shop,
    ):
        yield DockerLike(internet, shop, timeline, bantime)


class DockerLike(Sections[ContainedShop]):
    """From a failed login in a container to a drop in the kernel of its host."""

    def __init__(self, internet: Internet, shop: ContainedShop, timeline: Timeline, bantime: float = BANTIME) -> None:
        super().__init__(shop, HonestClient(internet.machines["honest"]), timeline, bantime)
        self.server = internet.server
        self.attacker = internet.machines["attacker"]

    def look_inside(self) -> None:
        """Show what the app has of the host: one directory."""
        self.timeline.section(f"What the app in the container {CONTAINER4} has of the host")
        for kind in ("mnt", "net"):
            app, daemon = (Path(f"/proc/{each.pid}/ns/{kind}") for each in (self.shop.app, self.shop.daemon))
            require(app.readlink() != daemon.readlink(), f"the app has a namespace of its own: {kind}")
            self.note("app", f"its namespace {app.readlink()} is not the daemon's, {daemon.readlink()}")
        state = "/run/shop/state"
        said = self.shop.run_inside(sys.executable, "-c", LOOK, RUNTIME, CONTROL, state).splitlines()
        for line in said:
            self.note("app", line)
        expected = [
            "in /run: appguard",
            f"in {RUNTIME}: bans bans.seq events.sock",
            "a file of its own there: Read-only file system",
            f"{CONTROL}: not there",
            f"{state}: not there",
        ]
        require(said == expected, f"the app sees {expected}")

    def guess_through_the_port(self, source: str, host: str, banned: str) -> float:
        """Guess through the published port, and see new and established connections dropped by the host."""
        visitor = Visitor(self.attacker, host, source)
        self.timeline.section(
            f"{source} guesses through the published port [{host}]:80 -> [{BEHIND[host]}]:8000, forging X-Forwarded-For"
        )
        with KeptConnection(visitor) as kept:
            status = kept.ask()
            require(status == 200, f"the attacker's first connection is answered with 200, not {status}")
            self.note("attacker", "a connection of before is open: GET / is answered with 200")
            banned_at = self.guess(
                visitor,
                banned,
                lambda number: visitor.log_in("alice", f"guess{number}", FORGED),
                self.shop.container,
                BEHIND[host],
            )
            status = kept.ask(SILENCE)
            require(status == 0, f"the connection of before gets no answer; it got {status}")
            self.note("attacker", f"GET / on the connection of before: no answer within {SILENCE:g} s")
        self.require_silence("attacker", "a new connection", visitor)
        return banned_at

    def ask_beside(self) -> None:
        """See that the next address of the attacker's network is served, and the next one of the banned /64 not."""
        self.timeline.section("The attackers' neighbours")
        status = Visitor(self.attacker, SERVER4, NEIGHBOUR4).outcome()
        require(status == 200, f"{NEIGHBOUR4} is served, not answered with {status}")
        self.note("honest", f"{NEIGHBOUR4}, next to the banned address: GET / is answered with 200")
        self.require_silence(
            "attacker",
            f"a new connection from {NEIGHBOUR6}, the same /64",
            Visitor(self.attacker, SERVER6, NEIGHBOUR6),
        )

    def ask_inside(self) -> None:
        """Show that the app refuses the banned too: by the files in the directory it shares with the host."""
        self.timeline.section(
            f"The app itself knows the bans, from {RUNTIME}/bans (asked in the container, past the host)"
        )
        local = Visitor(self.shop.container, "127.0.0.1", port=8000)
        for client, expected in ((ATTACKER4, 403), (NEIGHBOUR6, 403), (HONEST4, 200)):
            answer = local.ask("GET", "/", headers={"X-Forwarded-For": client})
            require(answer.status == expected, f"the app answers {client} with {expected}, not {answer.status}")
            said = f": {answer.text.strip()}" if expected == 403 else ""
            self.note("app", f"a request forwarded for {client} is answered with {answer.status}{said}")

    def reach_out(self) -> None:
        """Reach the banned address from the container."""
        self.timeline.section("The container can still reach the banned address")
        with self.attacker, socket.create_server((ATTACKER4, 8080)) as listener:
            connection = self.shop.container.connect(ATTACKER4, 8080, within=2)
            accepted, source = listener.accept()
        with connection, accepted:
            accepted.sendall(b"hello")
            require(connection.recv(5) == b"hello", f"{ATTACKER4} answers the container")
        self.note("app", f"connected to {ATTACKER4}:8080, where it looks like {source[0]}, and read its answer")

    def show_kernel(self) -> None:
        """Show where the two tables of the host take hold of a packet: the bans go first."""
        self.timeline.section("What the host's kernel holds")
        for name in ("appguard", "docker"):
            table = self.server.run("nft", "list", "table", "inet", name)
            hook = next(line.strip() for line in table.splitlines() if "hook prerouting" in line)
            self.note("kernel", f"table inet {name}: {hook.partition(';')[0]}")
        self.show_counters("login")

    def run(self) -> None:
        """Go through all sections."""
        self.introduce("Who runs what on the host", (self.shop.app, self.shop.daemon), "only CAP_NET_ADMIN")
        self.look_inside()
        banned_at = self.guess_through_the_port(ATTACKER4, SERVER4, ATTACKER4)
        self.guess_through_the_port(ATTACKER6, SERVER6, BANNED6)
        self.ask_beside()
        self.ask_inside()
        self.reach_out()
        self.show_kernel()
        self.timeline.section("appguard status login")
        self.judge_status([ATTACKER4, BANNED6])
        self.wait_for_the_end(Visitor(self.attacker, SERVER4, ATTACKER4), banned_at)
        self.judge_honest()

    def hints(self) -> Sequence[str]:
        """Give commands to try where everything stays up."""
        return (
            f"ip netns exec attacker curl -m 1 -d user=alice -d password=guess http://{SERVER4}/login",
            f"ip netns exec honest   curl -d user=alice -d password=wonderland http://{SERVER4}/login",
            f"nsenter --target {self.shop.app.pid} --mount --net ls -l /run/appguard",
            "appguard status login;  ip netns exec server nft list ruleset",
        )
