"""What a good client still gets while a banned one hammers: dropped in the kernel, denied by nginx, 403 by the app.

The example shop (nginx, uvicorn with two workers, daemon) with its limits taken out, on a small internet with two
clients. The attacker hammers before he is banned and goes on after it; the good client's requests per second then are
compared with those while nobody else asks, measured just before. All run on this one machine, wrk included, so what
the attacker's wrk itself costs is in the ratio. Prints a table and writes JSON.
"""

import argparse
import json
import os
import platform
import re
import shutil
from pathlib import Path

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
WAYS = {"kernel drop": 0, "nginx deny": 403, "app 403": 403}  # what the attacker gets, 0 for nothing


class OpenShop(Shop):
    """The shop without limits; nginx may be told to deny an address."""

    def __init__(self, server: Machine, way: str) -> None:
        super().__init__(server, Path("/run/shop"), firewall="nftables" if way == "kernel drop" else "dry_run")
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

    def ban(self) -> None:
        """Shut the attacker out."""
        if self.way == "nginx deny":
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
        client.wait(seconds + 10)
        said = client.output()
    assert "Non-2xx" not in said, said
    rate, p99 = re.search(r"Requests/sec:\s+([0-9.]+)", said), re.search(r"99%\s+([0-9.]+)(us|ms|s)", said)
    assert rate, said
    assert p99, said
    return {"per_second": float(rate[1]), "p99_ms": float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]}


def measure(internet: Internet, way: str, seconds: int) -> dict[str, dict[str, float]]:
    """Measure one way, without an attacker and with one."""
    good, attacker = internet.machines["good"], internet.machines["attacker"]
    with OpenShop(internet.server, way) as shop:
        served(good, 1)
        alone = served(good, seconds)
        with running(wrk(attacker, 3 * seconds + 20, 64)) as hammer:
            visitor = Visitor(attacker, SERVER4, ADDRESS)
            shop.ban()
            wait_until(lambda: visitor.outcome(SILENCE) == WAYS[way], 10, f"{way}: the attacker is not shut out")
            beside = served(good, seconds)
            assert hammer.status is None, hammer.output()
            assert visitor.outcome(SILENCE) == WAYS[way]
    return {"alone": alone, "beside": beside}


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description="Measure a good client beside a banned one that hammers.")
    parser.add_argument("--seconds", type=int, default=4, choices=range(1, 61), metavar="S")
    seconds = parser.parse_args().seconds
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'the attacker gets':<20} alone req/s   beside req/s   ratio   p99 alone / beside, ms")
    with Internet([ATTACKER, GOOD]) as internet:
        for way in WAYS:
            each = found[way] = measure(internet, way, seconds)
            alone, beside = each["alone"], each["beside"]
            each["ratio"] = {"of_requests": beside["per_second"] / alone["per_second"]}
            rates = f"{alone['per_second']:11.0f} {beside['per_second']:14.0f} {each['ratio']['of_requests']:7.2f}"
            print(f"{way:<20} {rates} {alone['p99_ms']:10.1f} / {beside['p99_ms']:.1f}")
    print(f"target: kernel drop >= {TARGET}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "target": TARGET, "ways": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
