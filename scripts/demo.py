"""The demonstration: attackers guess passwords in the example shop, and the kernel drops their packets.

Runs in the lab, with the small internet and the shop of `tests/`. Everything printed was observed; what was expected
and not observed ends the demonstration with exit code 1.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.lab import wait_until
from tests.machine import Machine
from tests.shop import EXAMPLES, STORES, Answer, Shop, Visitor, guess_until_dropped

BANTIME = 15.0
MAXRETRY = 5
PROBED = 30  # as the example's jail `probe`
ATTACKER4, ATTACKER6, NEIGHBOUR6 = "203.0.113.5", "2001:db8:bad:1::5", "2001:db8:bad:1::abcd"
BANNED6 = "2001:db8:bad:1::/64"
SCANNER4 = "203.0.113.200"
HONEST4, HONEST6 = "198.51.100.7", "2001:db8:900d::7"
PLACES = (
    Place("attacker", (f"{ATTACKER4}/25", f"{ATTACKER6}/64", f"{NEIGHBOUR6}/64")),
    Place("scanner", (f"{SCANNER4}/25",)),
    Place("honest", (f"{HONEST4}/24", f"{HONEST6}/64")),
)
COLOURS = {"attacker": 31, "scanner": 31, "daemon": 33, "kernel": 35, "honest": 32, "server": 36}


def require(condition: object, what: str) -> None:
    """End the demonstration if something was not observed."""
    if not condition:
        raise AssertionError(what)


class Timeline:
    """Prints what was observed, in the order it happened, with seconds since the start."""

    def __init__(self) -> None:
        self._start = monotonic()
        self._notes: list[tuple[float, str, str]] = []
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def note(self, who: str, text: str, time: float | None = None) -> None:
        """Keep an observation for the end of the section."""
        self._notes.append((monotonic() if time is None else time, who, text))

    def section(self, title: str) -> None:
        """Print the notes so far and begin another section."""
        for time, who, text in sorted(self._notes, key=lambda note: note[0]):
            print(f"  {time - self._start:8.4f}  {self._painted(COLOURS[who], f'{who:<8}')}  {text}")
        self._notes.clear()
        print(f"\n{self._painted(1, title)}", flush=True)

    def elapsed(self) -> float:
        """Give the seconds since the start."""
        return monotonic() - self._start

    def _painted(self, colour: int, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured else text


class HonestClient:
    """Somebody who uses the shop all the time, over both versions of IP, in a thread of its own."""

    def __init__(self, machine: Machine) -> None:
        self.answers: list[Answer] = []
        self.failures: list[OSError] = []
        self._visitors = (Visitor(machine, SERVER4), Visitor(machine, SERVER6))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._browse)

    def _browse(self) -> None:
        for visitor in cycle(self._visitors):
            try:
                self.answers.append(visitor.ask("GET", "/"))
            except OSError as error:
                self.failures.append(error)
            if self._ended.wait(0.05):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def verdict(self) -> str:
        """Say how it went; raise AssertionError if a single request was not served."""
        bad = [answer.status for answer in self.answers if answer.status != 200]
        require(not bad and not self.failures, f"the honest client is served: it got {bad} {self.failures}")
        require(len(self.answers) >= 20, "the honest client makes at least 20 requests")
        slowest = max(answer.received - answer.sent for answer in self.answers)
        return f"all of {len(self.answers)} requests served with 200, the slowest in {slowest * 1e3:.0f} ms"


class Demo:
    """The sections of the demonstration; each observes, requires and prints."""

    def __init__(self, internet: Internet, shop: Shop, honest: HonestClient, timeline: Timeline) -> None:
        self.server = internet.server
        self.attacker = internet.machines["attacker"]
        self.scanner = internet.machines["scanner"]
        self.shop = shop
        self.honest = honest
        self.timeline = timeline
        self.note = timeline.note

    def introduce(self) -> None:
        """Show who runs what, as the kernel sees it."""
        self.timeline.section("Who runs what on the server 192.0.2.10, 2001:db8:0:1::10")
        for process in (self.shop.nginx, self.shop.app, self.shop.daemon):
            for pid in (process.pid, *children(process.pid)):
                self.note(
                    "server", f"pid {pid:<5} uid {status_of(pid, 'Uid'):<6} {process.name:<7} {capabilities(pid)}"
                )
        if self.shop.users.daemon is None or self.shop.users.app is None:
            self.note(
                "server", "this lab has one user only: who may do what is NOT shown. Run as root, or install uidmap"
            )
            return
        require(status_of(self.shop.app.pid, "Uid") == str(self.shop.users.app.uid), "the app is www-data")
        require(
            status_of(self.shop.daemon.pid, "Uid") == str(self.shop.users.daemon.uid), "the daemon has its own user"
        )
        require(capabilities(self.shop.daemon.pid) == "only CAP_NET_ADMIN", "the daemon has one capability")

    def guess(self, title: str, visitor: Visitor, banned: str, attempt: Callable[[int], Answer]) -> float:
        """Guess passwords until the kernel drops the guesser's packets; give the time of the ban."""
        self.timeline.section(title)
        seen = len(self.shop.daemon.lines())
        drop = guess_until_dropped(visitor, self.server, [partial(attempt, number) for number in range(MAXRETRY)])
        for number, answer in enumerate(drop.answers, 1):
            self.note("attacker", f"guess {number} of {MAXRETRY}: {answer.status}", answer.received)
        ban = self.shop.daemon.wait_for(f"[login] Ban {banned}", after=seen)
        self.note_daemon(seen)
        self.note(
            "kernel",
            f"first packet dropped: {drop.after_answer * 1e3:.1f} ms after the last 401 had come, "
            f"{drop.after_guess * 1e3:.1f} ms after that guess was sent (one packet in {drop.spacing * 1e3:.1f} ms)",
            drop.dropped,
        )
        return ban.time

    def note_daemon(self, seen: int) -> None:
        """Note what the daemon has logged since; of many `Found` in a row the first and the number."""
        lines = self.shop.daemon.lines()[seen:]
        found = [line for line in lines if " Found " in line.text]
        for line in lines:
            if line not in found or len(found) <= MAXRETRY:
                self.note("daemon", message(line.text), line.time)
        if len(found) > MAXRETRY:
            self.note("daemon", f"{message(found[0].text)}  ... {len(found)} times", found[0].time)

    def require_silence(self, who: str, what: str, visitor: Visitor) -> None:
        """Require that nobody answers: not even with a refusal, which would come from the app and not the kernel."""
        status = visitor.outcome()
        require(status == 0, f"{what} of the {who} gets no answer; it got {status}")
        self.note(who, f"{what}: no answer within {visitor.patience:g} s")

    def guess_over_ipv4(self) -> float:
        """Guess at the login form, pretending to be the honest client; then nothing answers any more."""
        visitor = Visitor(self.attacker, SERVER4, ATTACKER4, patience=0.5)
        forged = {"X-Forwarded-For": HONEST4}
        banned_at = self.guess(
            f"{ATTACKER4} guesses alice's password at POST /login, with the forged header X-Forwarded-For: {HONEST4}",
            visitor,
            ATTACKER4,
            lambda number: visitor.log_in("alice", f"guess{number}", forged),
        )
        self.require_silence("attacker", "a new connection", visitor)
        return banned_at

    def guess_over_ipv6(self) -> None:
        """Guess at HTTP Basic over IPv6; then the whole /64 gets no answer."""
        visitor = Visitor(self.attacker, SERVER6, ATTACKER6, patience=0.5)
        self.guess(
            f"{ATTACKER6} guesses with HTTP Basic at GET /private",
            visitor,
            BANNED6,
            lambda number: visitor.open_private("alice", f"guess{number}"),
        )
        neighbour = Visitor(self.attacker, SERVER6, NEIGHBOUR6, patience=0.5)
        self.require_silence("attacker", f"a new connection from {NEIGHBOUR6}, the same /64", neighbour)

    def scan(self) -> None:
        """Ask for what is not there, until the daemon has read enough of it in nginx's log."""
        self.timeline.section(f"{SCANNER4} looks for holes: the daemon reads nginx's access log")
        seen = len(self.shop.daemon.lines())
        visitor = Visitor(self.scanner, SERVER4, SCANNER4, patience=0.5)
        statuses = [visitor.ask("GET", f"/wp-admin/{number}.php").status for number in range(PROBED)]
        require(statuses == [404] * PROBED, f"{PROBED} requests are answered with 404")
        self.note("scanner", f"{PROBED} requests such as GET /wp-admin/1.php: 404 each")
        self.shop.daemon.wait_for(f"[probe] Ban {SCANNER4}", after=seen)
        wait_until(lambda: visitor.outcome() == 0, 5, "the scanner gets no answer any more")
        self.require_silence("scanner", "a new connection", visitor)
        self.note_daemon(seen)

    def show_kernel(self) -> None:
        """Show what nftables holds and counts."""
        self.timeline.section("What the kernel holds")
        table = self.server.run("nft", "list", "table", "inet", "appguard")
        lines = [line.strip() for line in table.splitlines()]
        counted = int(lines[lines.index("counter dropped {") + 1].split()[1])
        require(counted > 0, "nftables counts dropped packets")
        self.note("kernel", f"nft list counter inet appguard dropped: {counted} packets")
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

    def show_status(self) -> None:
        """Show the daemon's own account."""
        self.timeline.section("appguard status login")
        text = self.shop.command("status", "login")
        print(text, end="")
        banned = next(line.split("\t")[1].split() for line in text.splitlines() if "Banned IP list" in line)
        require(sorted(banned) == [BANNED6, ATTACKER4], "the attackers are banned, and nobody by a forged header")

    def wait_for_the_end(self, banned_at: float) -> None:
        """See the ban end at its time, in the kernel and in the daemon."""
        self.timeline.section(f"The ban of {ATTACKER4} ends after {BANTIME:g} seconds")
        visitor = Visitor(self.attacker, SERVER4, ATTACKER4, patience=0.2)
        require(visitor.outcome() == 0, "the attacker is still banned")
        wait_until(lambda: visitor.outcome() == 200, BANTIME + 5, "the attacker is served again")
        lasted = monotonic() - banned_at
        require(BANTIME - 1 <= lasted <= BANTIME + 1.5, f"the ban lasted {BANTIME:g} s, not {lasted:.1f} s")
        self.note("attacker", f"GET / is answered with 200 again, {lasted:.1f} s after the ban")
        unban = self.shop.daemon.wait_for(f"[login] Unban {ATTACKER4}")
        self.note("daemon", message(unban.text), unban.time)

    def judge_honest(self) -> None:
        """Show that the honest client noticed nothing."""
        self.timeline.section("The honest client, all the while")
        self.note("honest", f"{HONEST4} and {HONEST6}: {self.honest.verdict()}")

    def run(self) -> None:
        """Go through all sections."""
        self.introduce()
        banned_at = self.guess_over_ipv4()
        self.guess_over_ipv6()
        self.scan()
        self.show_kernel()
        self.reach_out()
        self.show_status()
        self.wait_for_the_end(banned_at)
        self.judge_honest()


def children(pid: int) -> list[int]:
    """Give the children of a process that work: of uvicorn, not its resource tracker."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in pids if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def status_of(pid: int, key: str) -> str:
    """Give the first value of a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


def capabilities(pid: int) -> str:
    """Say which capabilities a process has."""
    effective = int(status_of(pid, "CapEff"), 16)
    net_admin = 1 << 12
    return {0: "no capability", net_admin: "only CAP_NET_ADMIN"}.get(effective, "all capabilities")


def message(line: str) -> str:
    """Cut time and level off a line of the daemon's log."""
    return line.split(maxsplit=3)[3]


def keep() -> None:
    """Stay up until the user has seen enough: in a shell, or without a terminal until a signal."""
    print(
        f"Everything stays up. Try, as often as you like (a ban lasts {BANTIME:g} s):\n"
        f"  ip netns exec attacker curl -m 1 -d user=alice -d password=guess http://{SERVER4}/login\n"
        f"  ip netns exec attacker curl -m 1 -u alice:guess 'http://[{SERVER6}]/private'\n"
        f"  ip netns exec honest   curl -d user=alice -d password=wonderland http://{SERVER4}/login\n"
        "  appguard status login;  appguard list;  ip netns exec server nft list table inet appguard"
    )
    if sys.stdin.isatty():
        print("This is a shell inside the lab; leave it with exit.", flush=True)
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "lab# "}
        subprocess.run(["bash", "--norc"], env=environment, check=False)
    else:
        print("There is no terminal: stop it with SIGINT or SIGTERM.", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)


def show(timeline: Timeline, *, app: str, store: str, stay: bool) -> None:
    """Build the machines and the shop, go through all sections, and stay up afterwards if asked to."""
    with (
        Internet(PLACES) as internet,
        Shop(internet.server, Path("/run/shop"), bantime=f"{BANTIME:g}s", app=app, store=store) as shop,
    ):
        try:
            with HonestClient(internet.machines["honest"]) as honest:
                Demo(internet, shop, honest, timeline).run()
        except (AssertionError, OSError):
            timeline.section("The daemon said")
            print(shop.daemon.output())
            raise
        timeline.section(f"Each step was observed, in {timeline.elapsed():.0f} seconds.")
        if stay:
            keep()


def main() -> int:
    """Run the demonstration; give its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="A failed login becomes a kernel drop.")
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, to try it by hand")
    parser.add_argument("--app", choices=EXAMPLES, default="fastapi", help="the framework of the example shop")
    parser.add_argument("--store", choices=STORES, default="local", help="where bans and counters are kept")
    options = parser.parse_args()
    timeline = Timeline()
    timeline.section(
        "AppGuard in a lab: real nginx, app, daemon and nftables; nothing of this machine's network changes"
    )
    try:
        show(timeline, app=options.app, store=options.store, stay=options.keep)
    except (AssertionError, OSError, subprocess.CalledProcessError) as error:
        print(f"\nNOT OBSERVED: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
