"""What a good client still gets while a banned one hammers: dropped in the kernel, denied by nginx, 403 by the app.

The example shop (nginx, uvicorn with two workers, daemon) with its limits taken out, on a small internet with two
clients. The attacker has hammered with wrk before he is banned and goes on after it. Then the good client asks in short
turns, one with the attacker's wrk stopped and one with it going on, in an order that alternates, so that both see the
same machine: of each pair the ratio of requests counts, and of the ratios the median. All run on this one machine, the
attacker too. What his wrk itself takes from the good client no firewall of the server can give back: that is the first
row, where the router between them already takes his packets away; the CPU time of his wrk is beside each ratio. Prints
a table and writes JSON.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from tests.internet import SERVER4, Internet, Place
from tests.lab import Process, running, wait_until
from tests.machine import Machine
from tests.shop import EXAMPLES, Shop, changed
from tests.visitor import SILENCE, Visitor

RESULT = Path(__file__).parent / "results/good_client.json"
ATTACKER = Place("attacker", ("203.0.113.5/24",))
GOOD = Place("good", ("198.51.100.7/24",))
ADDRESS = "203.0.113.5"
TARGET = 0.9
FLOOR, KERNEL, NGINX, APP = "nothing: router drop", "kernel drop", "nginx deny", "app 403"
WAYS = {FLOOR: 0, KERNEL: 0, NGINX: 403, APP: 403}  # what the attacker gets, 0 for no answer
TICKS = os.sysconf("SC_CLK_TCK")


class OpenShop(Shop):
    """The shop without limits; nginx may be told to deny an address."""

    def __init__(self, server: Machine, way: str) -> None:
        super().__init__(server, Path("/run/shop"), firewall="nftables" if way == KERNEL else "dry_run")
        self.way = way

    def _prepare(self) -> None:
        self._example = self._directory / "example"
        shutil.copytree(EXAMPLES["fastapi"], self._example, ignore=shutil.ignore_patterns("__pycache__"))
        app = self._example / "app.py"
        app.write_text(changed(app.read_text(), r"limits=\[.*\],", "limits=[],"))

    def _site(self) -> str:
        site = super()._site()
        include = f"include {self._directory}/deny*.conf;"
        return changed(site, "location / {", f"{include}\n    location / {{")

    def ban(self, router: Machine) -> None:
        """Shut the attacker out."""
        if self.way == FLOOR:
            router.run("ip", "rule", "add", "from", ADDRESS, "blackhole")
        elif self.way == NGINX:
            (self._directory / "deny.conf").write_text(f"deny {ADDRESS};\n")
            self.server.run("kill", "-HUP", (self._directory / "nginx.pid").read_text().strip())
        else:
            self.command("ban", ADDRESS, "--for", "1h")


def wrk(machine: Machine, seconds: int, connections: int) -> Process:
    """Have a client ask as fast as it is answered."""
    with machine:
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        return Process(f"wrk of {machine.name}", ["wrk", *options, f"http://{SERVER4}/"])


def served(machine: Machine, seconds: int) -> dict[str, float]:
    """Give the requests per second that a good client has answered, and the 99th percentile in milliseconds."""
    with running(wrk(machine, seconds, 8)) as client:
        client.wait_for("Transfer/sec:", seconds + 10)  # its last line
        said = client.output()
    assert "Non-2xx" not in said, said
    rate, p99 = re.search(r"Requests/sec:\s+([0-9.]+)", said), re.search(r"99%\s+([0-9.]+)(us|ms|s)", said)
    assert rate, said
    assert p99, said
    return {"per_second": float(rate[1]), "p99_ms": float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two turns of the good client, without the attacker and beside him, and his share of one processor meanwhile."""

    alone: dict[str, float]
    beside: dict[str, float]
    attacker_cpu: float

    @property
    def ratio(self) -> float:
        """Give the share of requests that are still answered."""
        return self.beside["per_second"] / self.alone["per_second"]


def measure(internet: Internet, way: str, pairs: int, seconds: int) -> list[Pair]:
    """Measure one way in pairs of turns."""
    good, attacker = internet.machines["good"], internet.machines["attacker"]
    hammering = 2 * pairs * (seconds + 1) + 60
    with OpenShop(internet.server, way) as shop, running(wrk(attacker, hammering, 64)) as hammer:
        visitor = Visitor(attacker, SERVER4, ADDRESS)
        served(good, 1)
        shop.ban(internet.machines["router"])
        wait_until(lambda: visitor.outcome(SILENCE) == WAYS[way], 10, f"{way}: the attacker is not shut out")
        found = [pair(good, hammer, seconds, is_alone_first=bool(number % 2)) for number in range(pairs)]
        assert hammer.status is None, hammer.output()
        assert visitor.outcome(SILENCE) == WAYS[way]
    return found


def pair(good: Machine, hammer: Process, seconds: int, *, is_alone_first: bool) -> Pair:
    """Let the good client ask alone and beside the attacker."""
    turns: dict[bool, dict[str, float]] = {}
    took = 0.0
    for is_alone in (is_alone_first, not is_alone_first):
        hammer.send(signal.SIGSTOP if is_alone else signal.SIGCONT)
        before = cpu_seconds(hammer)
        turns[is_alone] = served(good, seconds)
        took += cpu_seconds(hammer) - before
    hammer.send(signal.SIGCONT)
    return Pair(turns[True], turns[False], took / seconds)


def cpu_seconds(process: Process) -> float:
    """Give the CPU time that a process and its threads have taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description="Measure a good client beside a banned one that hammers.")
    parser.add_argument("--seconds", type=int, default=1, choices=range(1, 61), metavar="S", help="of one turn")
    parser.add_argument("--pairs", type=int, default=9, choices=range(2, 101), metavar="N", help="of turns")
    asked = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    print(
        f"{'the attacker gets':<22} alone req/s   beside: median of {asked.pairs} ratios (quartiles)  his CPU  p99, ms"
    )
    for way in WAYS:
        with Internet([ATTACKER, GOOD]) as internet:
            turns = measure(internet, way, asked.pairs, asked.seconds)
        ratios = [each.ratio for each in turns]
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        alone = median(each.alone["per_second"] for each in turns)
        p99 = [
            median(each["p99_ms"] for each in side) for side in zip(*((t.alone, t.beside) for t in turns), strict=True)
        ]
        cpu = median(each.attacker_cpu for each in turns)
        found[way] = {"ratio": middle, "quartiles": [low, high], "ratios": ratios, "alone_per_second": alone}
        found[way] |= {"attacker_cpu": cpu, "p99_ms_alone": p99[0], "p99_ms_beside": p99[1]}
        cells = f"{middle:18.2f}   ({low:.2f} to {high:.2f}) {cpu:22.2f}  {p99[0]:.1f} / {p99[1]:.1f}"
        print(f"{way:<22} {alone:11.0f} {cells}")
    print(f"target: {KERNEL} >= {TARGET}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "target": TARGET, "ways": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
