"""The plain demonstration: attackers guess at the example shop on a server, and its kernel drops their packets."""

import socket
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
    PROBED,
    SCANNER4,
    HonestClient,
    Sections,
)
from scripts.demos.timeline import Timeline, require
from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.lab import wait_until
from tests.shop import Shop
from tests.visitor import SILENCE, Visitor

PLACES = (
    Place("attacker", (f"{ATTACKER4}/25", f"{ATTACKER6}/64", f"{NEIGHBOUR6}/64")),
    Place("scanner", (f"{SCANNER4}/25",)),
    Place("honest", (f"{HONEST4}/24", f"{HONEST6}/64")),
)


@contextmanager
def staged(
    timeline: Timeline, *, app: str = "fastapi", store: str = "local", bantime: float = BANTIME
) -> Generator["OneServer"]:
    """Build the machines and the shop, and give the demonstration."""
    with (
        Internet(PLACES) as internet,
        Shop(internet.server, Path("/run/shop"), bantime=f"{bantime:g}s", app=app, store=store) as shop,
    ):
        yield OneServer(internet, shop, timeline, bantime)


class OneServer(Sections[Shop]):
    """From a failed login in the app to a drop in the kernel, on one server."""

    def __init__(self, internet: Internet, shop: Shop, timeline: Timeline, bantime: float = BANTIME) -> None:
        super().__init__(shop, HonestClient(internet.machines["honest"]), timeline, bantime)
        self.server = internet.server
        self.attacker = internet.machines["attacker"]
        self.scanner = internet.machines["scanner"]

    def guess_over_ipv4(self) -> float:
        """Guess at the login form, pretending to be the honest client; then nothing answers any more."""
        visitor = Visitor(self.attacker, SERVER4, ATTACKER4)
        self.timeline.section(
            f"{ATTACKER4} guesses alice's password at POST /login, with the forged header X-Forwarded-For: {HONEST4}"
        )
        banned_at = self.guess(visitor, ATTACKER4, lambda number: visitor.log_in("alice", f"guess{number}", FORGED))
        self.require_silence("attacker", "a new connection", visitor)
        return banned_at

    def guess_over_ipv6(self) -> None:
        """Guess at HTTP Basic over IPv6; then the whole /64 gets no answer."""
        visitor = Visitor(self.attacker, SERVER6, ATTACKER6)
        self.timeline.section(f"{ATTACKER6} guesses with HTTP Basic at GET /private")
        self.guess(visitor, BANNED6, lambda number: visitor.open_private("alice", f"guess{number}"))
        neighbour = Visitor(self.attacker, SERVER6, NEIGHBOUR6)
        self.require_silence("attacker", f"a new connection from {NEIGHBOUR6}, the same /64", neighbour)

    def scan(self) -> None:
        """Ask for what is not there, until the daemon has read enough of it in nginx's log."""
        self.timeline.section(f"{SCANNER4} looks for holes: the daemon reads nginx's access log")
        seen = len(self.shop.daemon.lines())
        visitor = Visitor(self.scanner, SERVER4, SCANNER4)
        statuses = [visitor.ask("GET", f"/wp-admin/{number}.php").status for number in range(PROBED)]
        require(statuses == [404] * PROBED, f"{PROBED} requests are answered with 404")
        self.note("scanner", f"{PROBED} requests such as GET /wp-admin/1.php: 404 each")
        self.shop.daemon.wait_for(f"[probe] Ban {SCANNER4}", after=seen)
        wait_until(lambda: visitor.outcome(SILENCE) == 0, 5, "the scanner gets no answer any more")
        self.require_silence("scanner", "a new connection", visitor)
        self.note_daemon(seen)

    def show_kernel(self) -> None:
        """Show what nftables holds and counts."""
        self.timeline.section("What the kernel holds")
        table = self.server.run("nft", "list", "table", "inet", "appguard")
        self.show_counters("login", "probe")
        for banned in (ATTACKER4, SCANNER4, BANNED6.removesuffix("/64")):
            element = next((part.strip() for part in table.replace(",", "\n").splitlines() if f"{banned} " in part), "")
            require("expires" in element, f"nftables holds {banned} and when it ends")
            self.note("kernel", element.removeprefix("elements = { ").removesuffix(" }"))

    def reach_out(self) -> None:
        """Reach the banned addresses from the server: only what they begin is dropped."""
        self.timeline.section("The server can still reach the banned addresses")
        for address in (ATTACKER4, ATTACKER6):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with self.attacker, socket.create_server((address, 8080), family=family) as listener:
                with self.server:
                    connection = socket.create_connection((address, 8080), timeout=2)
                accepted, _ = listener.accept()
            with connection, accepted:
                accepted.sendall(b"hello")
                require(connection.recv(5) == b"hello", f"{address} answers the server")
            self.note("server", f"connected to [{address}]:8080 and read its answer")

    def run(self) -> None:
        """Go through all sections."""
        parts = (self.shop.nginx, self.shop.app, self.shop.daemon)
        self.introduce("Who runs what on the server 192.0.2.10, 2001:db8:0:1::10", parts, "only CAP_NET_ADMIN")
        banned_at = self.guess_over_ipv4()
        self.guess_over_ipv6()
        self.scan()
        self.show_kernel()
        self.reach_out()
        self.timeline.section("appguard status login")
        self.judge_status([ATTACKER4, BANNED6])
        self.wait_for_the_end(Visitor(self.attacker, SERVER4, ATTACKER4), banned_at)
        self.judge_honest()

    def hints(self) -> Sequence[str]:
        """Give commands to try where everything stays up."""
        return (
            f"ip netns exec attacker curl -m 1 -d user=alice -d password=guess http://{SERVER4}/login",
            f"ip netns exec attacker curl -m 1 -u alice:guess 'http://[{SERVER6}]/private'",
            f"ip netns exec honest   curl -d user=alice -d password=wonderland http://{SERVER4}/login",
            "appguard status login;  appguard list;  ip netns exec server nft list table inet appguard",
        )
