"""What the demonstrations have in common: the guesses, the ban's end, and the honest client all the while.

A demonstration observes, requires and prints in sections. Everything printed was observed; what was expected and not
observed is an AssertionError.
"""

import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from time import monotonic
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from scripts.demos.timeline import Timeline, capabilities, children, message, require, status_of
from tests.internet import SERVER4, SERVER6
from tests.lab import Process, wait_until
from tests.machine import Machine
from tests.shop import Shop
from tests.visitor import SILENCE, Answer, Visitor, guess_until_dropped

BANTIME = 15.0
MAXRETRY = 5
PROBED = 30  # as the example's jail `probe`
ATTACKER4, ATTACKER6, NEIGHBOUR6 = "203.0.113.5", "2001:db8:bad:1::5", "2001:db8:bad:1::abcd"
BANNED6 = "2001:db8:bad:1::/64"
SCANNER4 = "203.0.113.200"
HONEST4, HONEST6 = "198.51.100.7", "2001:db8:900d::7"
FORGED = {"X-Forwarded-For": HONEST4}

S = TypeVar("S", bound=Shop)


class HonestClient:
    """Somebody who uses the shop all the time, over both versions of IP, in a thread of its own."""

    def __init__(self, machine: Machine, address4: str = SERVER4, address6: str = SERVER6) -> None:
        self.answers: list[Answer] = []
        self.failures: list[OSError] = []
        self._visitors = (Visitor(machine, address4), Visitor(machine, address6))
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


class Demonstration(Protocol):
    """What `scripts/demo` does with each."""

    def show(self) -> None:
        """Go through all sections; raise AssertionError if something is not observed."""
        ...

    def hints(self) -> Sequence[str]:
        """Give commands to try where everything stays up."""
        ...


class Sections(ABC, Generic[S]):
    """The sections that demonstrations with a shop share."""

    def __init__(self, shop: S, honest: HonestClient, timeline: Timeline, bantime: float = BANTIME) -> None:
        self.shop = shop
        self.honest = honest
        self.timeline = timeline
        self.note = timeline.note
        self.bantime = bantime

    @abstractmethod
    def run(self) -> None:
        """Go through all sections."""

    def show(self) -> None:
        """Go through all sections while the honest client uses the shop."""
        try:
            with self.honest:
                self.run()
        except (AssertionError, OSError, subprocess.CalledProcessError):
            self.timeline.section("The daemon said")
            print(self.shop.daemon.output())
            raise

    def introduce(self, title: str, processes: Sequence[Process], daemon_may: str) -> None:
        """Show who runs what, as the kernel sees it."""
        self.timeline.section(title)
        for process in processes:
            for pid in (process.pid, *children(process.pid)):
                self.note(
                    "server", f"pid {pid:<5} uid {status_of(pid, 'Uid'):<6} {process.name:<8} {capabilities(pid)}"
                )
        users = self.shop.users
        if users.daemon is None or users.app is None:
            self.note(
                "server", "this lab has one user only: who may do what is NOT shown. Run as root, or install uidmap"
            )
            return
        app, daemon = self.shop.app.pid, self.shop.daemon.pid
        require(status_of(app, "Uid") == str(users.app.uid), f"the app is user {users.app.uid}")
        require(capabilities(app) == "no capability", "the app has no capability")
        require(status_of(daemon, "Uid") == str(users.daemon.uid), "the daemon has its own user")
        require(capabilities(daemon) == daemon_may, f"the daemon has {daemon_may}")

    def show_counters(self, *jails: str) -> None:
        """Show how many packets the kernel dropped for the bans of each jail."""
        for jail in jails:
            counter = self.shop.server.run("nft", "list", "counter", "inet", "appguard", f"jail_{jail}")
            counted = int(counter.split("packets")[1].split()[0])
            require(counted > 0, f"nftables counts packets dropped for the jail {jail}")
            self.note("kernel", f"nft list counter inet appguard jail_{jail}: {counted} packets")

    def guess(
        self,
        visitor: Visitor,
        banned: str,
        attempt: Callable[[int], Answer],
        server: Machine | None = None,
        behind: str = "",
    ) -> float:
        """Guess passwords until the kernel drops the guesser's packets; give the time of the ban.

        `server` and `behind` are who has the address that is guessed at, if it is translated.
        """
        seen = len(self.shop.daemon.lines())
        attempts = [partial(attempt, number) for number in range(MAXRETRY)]
        drop = guess_until_dropped(visitor, server or self.shop.server, attempts, behind=behind)
        for number, answer in enumerate(drop.answers, 1):
            self.note("attacker", f"guess {number} of {MAXRETRY}: {answer.status}", answer.received)
        ban = self.shop.daemon.wait_for(f"[login] Ban {banned}", after=seen)
        self.note_daemon(seen)
        order = "after" if drop.after_answer >= 0 else "before"  # the ban may be quicker than the answer
        self.note(
            "kernel",
            f"first packet dropped: {abs(drop.after_answer) * 1e3:.1f} ms {order} the last 401 had come, "
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
        status = visitor.outcome(SILENCE)
        require(status == 0, f"{what} of the {who} gets no answer; it got {status}")
        self.note(who, f"{what}: no answer within {SILENCE:g} s")

    def judge_status(self, expected: Sequence[str]) -> str:
        """Show what the daemon says of the jail `login`, and require whom it has banned; give what it says."""
        text = self.shop.command("status", "login")
        print(text, end="")
        banned = next(line.split("\t")[1].split() for line in text.splitlines() if "Banned IP list" in line)
        require(sorted(banned) == sorted(expected), f"banned are the attackers, and nobody else: {' '.join(banned)}")
        return text

    def wait_for_the_end(self, visitor: Visitor, banned_at: float, late: float = 1.5) -> None:
        """See the ban of a visitor end at its time, or `late` by so much, and the daemon say so."""
        self.timeline.section(f"The ban of {visitor.source} ends after {self.bantime:g} seconds")
        require(visitor.outcome(SILENCE) != 200, "the attacker is still banned")
        wait_until(lambda: visitor.outcome(SILENCE) == 200, self.bantime + 5, "the attacker is served again")
        lasted = monotonic() - banned_at
        least, most = self.bantime - 1, self.bantime + late
        require(least <= lasted <= most, f"the ban lasted {self.bantime:g} s, not {lasted:.1f} s")
        self.note("attacker", f"GET / is answered with 200 again, {lasted:.1f} s after the ban")
        unban = self.shop.daemon.wait_for(f"[login] Unban {visitor.source}")
        self.note("daemon", message(unban.text), unban.time)

    def judge_honest(self) -> None:
        """Show that the honest client noticed nothing."""
        self.timeline.section("The honest client, all the while")
        self.note("honest", f"{HONEST4} and {HONEST6}: {self.honest.verdict()}")
