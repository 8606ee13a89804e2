"""The demonstration with a load balancer in front: app and nginx shut out whom the kernel cannot see."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from scripts.demos.sections import (
    ATTACKER4,
    ATTACKER6,
    BANNED6,
    BANTIME,
    HONEST4,
    HONEST6,
    MAXRETRY,
    NEIGHBOUR6,
    PROBED,
    SCANNER4,
    HonestClient,
    Sections,
)
from scripts.demos.timeline import Timeline, require
from tests.balanced_shop import BALANCER4, BALANCER6, PLACE, BalancedShop
from tests.internet import SERVER4, Internet, Place
from tests.lab import wait_until
from tests.visitor import Answer, Visitor

CROWD = tuple(f"203.0.113.{host}" for host in range(21, 33))
PLACES = (
    PLACE,
    Place("attacker", (f"{ATTACKER4}/25", f"{ATTACKER6}/64", f"{NEIGHBOUR6}/64", *(f"{each}/25" for each in CROWD))),
    Place("scanner", (f"{SCANNER4}/25",)),
    Place("honest", (f"{HONEST4}/25", f"{HONEST6}/64")),
)
FORGERIES = (
    {"X-Forwarded-For": HONEST4},
    {"X-Forwarded-For": f"{HONEST4}, {BALANCER4}"},
    {"X-Forwarded-For": BALANCER4, "X-Real-IP": HONEST4},
    {"Forwarded": f"for={HONEST4}", "X-Forwarded-For": f"{HONEST6}, {HONEST4}, 127.0.0.1"},
)
LATE = 5.0  # seconds: nginx knows no end of a ban, so the daemon takes it out, and two reloads are 2 s apart


@contextmanager
def staged(timeline: Timeline, *, bantime: float = BANTIME) -> Generator["BehindBalancer"]:
    """Build the machines and the shop, and give the demonstration."""
    with Internet(PLACES) as internet, BalancedShop(internet, Path("/run/shop"), bantime=f"{bantime:g}s") as shop:
        yield BehindBalancer(internet, shop, timeline, bantime)


class BehindBalancer(Sections[BalancedShop]):
    """From a failed login in the app to a refusal by app and nginx, and never of the balancer."""

    def __init__(self, internet: Internet, shop: BalancedShop, timeline: Timeline, bantime: float = BANTIME) -> None:
        super().__init__(shop, HonestClient(internet.machines["honest"], BALANCER4, BALANCER6), timeline, bantime)
        self.server = internet.server
        self.machines = internet.machines

    def guess_through_the_balancer(self, source: str, host: str, banned: str) -> float:
        """Guess through the balancer with forged headers; give the time of the ban."""
        self.timeline.section(f"{source} guesses through the balancer, and forges headers to have others banned")
        visitor = Visitor(self.machines["attacker"], host, source)
        seen = len(self.shop.daemon.lines())
        for number, forged in zip(range(1, MAXRETRY + 1), cycle(FORGERIES), strict=False):
            answer = visitor.log_in("alice", f"guess{number}", forged)
            require(answer.status == 401, f"guess {number} is answered with 401, not {answer.status}")
            told = ", ".join(f"{name}: {value}" for name, value in forged.items())
            self.note("attacker", f"guess {number} of {MAXRETRY}: 401  ({told})", answer.received)
        ban = self.shop.daemon.wait_for(f"[login] Ban {banned}", after=seen)
        self.see_refusals(visitor, ban.time)
        self.note_daemon(seen)
        return ban.time

    def see_refusals(self, visitor: Visitor, banned_at: float) -> None:
        """See the app refuse, then nginx, and nobody serve."""
        wait_until(lambda: visitor.outcome() == 403, 5, "app or nginx refuses")
        answers = [refused(visitor)]

        def is_refused_by_nginx() -> bool:
            answers.append(refused(visitor))
            return is_by_nginx(answers[-1])

        wait_until(is_refused_by_nginx, 5, "nginx refuses")
        self.note_refusal(answers[0], banned_at)
        if not is_by_nginx(answers[0]):
            self.note_refusal(answers[-1], banned_at)
        self.note("attacker", f"{len(answers)} requests refused, and none served in between", answers[-1].received)

    def note_refusal(self, answer: Answer, banned_at: float) -> None:
        """Note by whom a request was refused first."""
        after = f"{(answer.received - banned_at) * 1e3:.0f} ms after the ban"
        if is_by_nginx(answer):
            self.note("nginx", f"403 by nginx, {after}: the app is not asked any more", answer.received)
        else:
            self.note("app", f"403 by the app, {after}: {answer.text.strip()}", answer.received)

    def ask_the_app(self) -> None:
        """Ask the app on the server itself, as nginx does, so that nginx refuses nothing."""
        self.timeline.section("The app refuses too (asked on the server, past nginx)")
        local = Visitor(self.server, "127.0.0.1", port=8000)
        for client, expected in ((ATTACKER4, 403), (NEIGHBOUR6, 403), (HONEST4, 200)):
            answer = local.ask("GET", "/", headers={"X-Forwarded-For": f"{client}, {BALANCER4}"})
            require(answer.status == expected, f"the app answers {client} with {expected}, not {answer.status}")
            self.note("app", f"a request forwarded for {client}, {BALANCER4} is answered with {answer.status}")

    def attack_in_a_crowd(self) -> None:
        """Let many clients fail through the balancer, which stays free."""
        failures = len(CROWD) * MAXRETRY
        self.timeline.section(f"{len(CROWD)} clients guess through the balancer, and the balancer is not banned")
        seen = len(self.shop.daemon.lines())
        for source in CROWD:
            visitor = Visitor(self.machines["attacker"], BALANCER4, source)
            statuses = [visitor.log_in("alice", f"guess{number}").status for number in range(MAXRETRY)]
            require(statuses == [401] * MAXRETRY, f"{source} is answered with 401, not {statuses}")
        self.note("crowd", f"{failures} failed logins, {MAXRETRY} from each of {CROWD[0]} ... {CROWD[-1]}")
        for source in CROWD:
            self.shop.daemon.wait_for(f"[login] Ban {source}", after=seen)
        self.note("daemon", f"[login] Ban ... {len(CROWD)} times, each of these addresses")
        wait_until(lambda: all(f"{source}/32 1;" in self.shop.bans.read_text() for source in CROWD), 5, "nginx is told")
        code, said = self.shop.attempt("ban", BALANCER4)
        require(code == 3, f"`appguard ban {BALANCER4}` is refused with exit code 3, not {code}")
        self.note("server", f"appguard ban {BALANCER4}: {said.strip()}")

    def scan(self) -> None:
        """Ask for what is not there; nginx's log names the client and the balancer."""
        self.timeline.section(f"{SCANNER4} looks for holes through the balancer: the daemon reads nginx's JSON log")
        seen = len(self.shop.daemon.lines())
        visitor = Visitor(self.machines["scanner"], BALANCER4, SCANNER4)
        statuses = [visitor.ask("GET", f"/wp-admin/{number}.php").status for number in range(PROBED)]
        require(statuses == [404] * PROBED, f"{PROBED} requests are answered with 404")
        self.note("scanner", f"{PROBED} requests such as GET /wp-admin/1.php: 404 each")
        self.shop.daemon.wait_for(f"[probe] Ban {SCANNER4}", after=seen)
        wait_until(lambda: is_by_nginx(visitor.ask("GET", "/")), 5, "nginx refuses the scanner")
        self.note("nginx", "a new request: 403 by nginx")
        self.note_daemon(seen)

    def show_nginx(self) -> None:
        """Show what nginx includes: the banned, and those who are always let in."""
        self.timeline.section(f"What nginx includes: {self.shop.bans}")
        lines = self.shop.bans.read_text().splitlines()
        for address, prefix in ((BALANCER4, 32), (BALANCER6, 128)):
            require(f"{address}/{prefix} 0;" in lines, f"{address} is let in")
            self.note("nginx", f"{address}/{prefix} 0;")
        for banned in (f"{ATTACKER4}/32", BANNED6, f"{SCANNER4}/32"):
            require(f"{banned} 1;" in lines, f"{banned} is refused")
            self.note("nginx", f"{banned} 1;")

    def show_status(self) -> None:
        """Show the daemon's own account: whom it has banned, and who enforces that."""
        self.timeline.section("appguard status; appguard status login")
        whole = self.shop.command("status")
        print(whole, end="")
        jail = self.judge_status([ATTACKER4, BANNED6, *CROWD])
        self.require_status_says_who_enforces(whole, jail)
        bans = json.loads(self.shop.command("list", "--json"))["bans"]
        strayed = [ban["network"] for ban in bans if not {BALANCER4, BALANCER6}.intersection(ban["via"])]
        require(not strayed, f"each of {len(bans)} bans says that its packets came from the balancer, not {strayed}")
        self.note("daemon", f"appguard list --json: each of {len(bans)} bans has the balancer in `via`")

    def require_status_says_who_enforces(self, whole: str, jail: str) -> None:
        """Require that `appguard status` says who enforces the bans: the one place where its words are checked."""
        fields = fields_of(whole) | fields_of(jail)
        require(fields["Firewall"].startswith("nginx_deny, enforcing, "), "status says that nginx enforces")
        require(fields["Enforced by"].startswith("nginx_deny"), "status says that nginx enforces the jail's bans")
        for balancer in (BALANCER4, BALANCER6):
            words = f" by nginx and app only: the packets come from {balancer}, not from the client"
            require(words in whole, f"status says that the kernel does not see whom {balancer} forwards")
            require(words in jail, f"status says the same of the jail's bans that came through {balancer}")

    def run(self) -> None:
        """Go through all sections."""
        parts = (self.shop.balancer, self.shop.nginx, self.shop.app, self.shop.daemon)
        title = f"Who runs what: the balancer {BALANCER4}, {BALANCER6} in front of the server {SERVER4}"
        self.introduce(title, parts, "no capability")
        banned_at = self.guess_through_the_balancer(ATTACKER4, BALANCER4, ATTACKER4)
        self.guess_through_the_balancer(ATTACKER6, BALANCER6, BANNED6)
        self.ask_the_app()
        self.attack_in_a_crowd()
        self.scan()
        self.show_nginx()
        self.show_status()
        self.wait_for_the_end(Visitor(self.machines["attacker"], BALANCER4, ATTACKER4), banned_at, LATE)
        self.judge_honest()

    def hints(self) -> Sequence[str]:
        """Give commands to try where everything stays up."""
        return (
            f"ip netns exec attacker curl -d user=alice -d password=guess http://{BALANCER4}/login",
            f"ip netns exec honest   curl -d user=alice -d password=wonderland http://{BALANCER4}/login",
            f"appguard status login;  appguard list;  appguard ban {BALANCER4};  cat {self.shop.bans}",
        )


def refused(visitor: Visitor) -> Answer:
    """Ask for the page and require that it is refused."""
    answer = visitor.ask("GET", "/")
    require(answer.status == 403, f"the banned are answered with 403, not {answer.status}")
    return answer


def is_by_nginx(answer: Answer) -> bool:
    """Say whether nginx refused, and not the app, whose refusal has a reference to quote."""
    return answer.status == 403 and "nginx" in answer.text


def fields_of(text: str) -> dict[str, str]:
    """Give what stands behind each name in what `appguard status` says."""
    pairs = (line.lstrip("|`- ").partition(":\t") for line in text.splitlines())
    return {name: value for name, tab, value in pairs if tab}
