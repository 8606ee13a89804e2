"""How long after a log line is written does the kernel drop the first packet? Beside fail2ban (pyinotify) and sshguard.

Each trial is a new attacker whose one failed login by SSH is written to a log, of which one failure bans in all three:
the whole daemon from its settings on, fail2ban's server with its own sshd filter and nftables action, sshguard with its
own parser and nft backend, each alone. Packets are probes, one about every 0.2 ms, so an answer is late by up to that
and never early. AppGuard is measured a second time while it puts back 10 000 bans, since somebody has just deleted its
table. The first trial of each is not counted: it is when fail2ban makes its table. Prints a table and writes JSON.
"""

import argparse
import inspect
import json
import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median, quantiles
from time import monotonic

import pyinotify

from appguard.ban import Ban
from appguard.firewalls.netlink import commit, keeping
from appguard.firewalls.nft_messages import remove_table
from tests.daemon import Place as Directories
from tests.internet import SERVER4, Internet, Place
from tests.lab import Process, running, wait_until
from tests.machine import Machine
from tests.netns import holds
from tests.probes import Probes

RESULT = Path(__file__).parent / "results/log_line_to_drop.json"
ROOT = Path("/run/bench")
ATTACKERS = "198.18"  # RFC 2544
RESTORED, OLD = 10_000, 0x0A000000
TARGET = "p50 <= 2 ms, p99 <= 10 ms, unchanged while 10 000 bans are put back"
LINE = "{} host sshd[4711]: Failed password for invalid user admin from {} port 40022 ssh2\n"
JAIL = '[jails.ssh]\nsource = "{}"\nfilter = "sshd"\nmaxretry = 1\nfindtime = "10m"\nbantime = "1h"\n'
FAIL2BAN = """[sshd]
enabled = true
filter = sshd
backend = pyinotify
logpath = {log}
maxretry = 1
findtime = 10m
bantime = 1h
action = nftables[type=allports, protocol=udp, blocktype=drop]
"""


class Bench:
    """The internet, the log, and the attackers not used yet."""

    def __init__(self, internet: Internet, trials: int) -> None:
        self.server = internet.server
        self.attacker = internet.machines["attacker"]
        self.log = ROOT / "auth.log"
        self.trials = trials
        self._numbers = iter(range(10_000))

    def address(self) -> str:
        """Give an attacker nobody has seen."""
        return address_of(next(self._numbers))

    def write(self, address: str) -> float:
        """Write the line of a failed login; give the time just before."""
        line = LINE.format(time.strftime("%b %d %H:%M:%S"), address).encode()
        with self.log.open("ab", buffering=0) as log:
            began = monotonic()
            log.write(line)
        return began

    def trial(self, before: Callable[[], None]) -> float:
        """Give the milliseconds from one line to one drop; `before` happens after the attacker was heard."""
        address = self.address()
        with Probes(self.attacker, address, self.server, SERVER4) as probes:
            before()
            began = self.write(address)
            return 1000 * (probes.first_dropped(20.0) - began)

    def measure(self, before: Callable[[], None] = lambda: None) -> list[float]:
        """Give the milliseconds of all trials but the first."""
        return [self.trial(before) for _ in range(self.trials + 1)][1:]


def address_of(number: int) -> str:
    """Give the address of an attacker."""
    return f"{ATTACKERS}.{number // 250 + 1}.{number % 250 + 1}"


def appguard(bench: Bench, bans: int = 0) -> list[float]:
    """Measure AppGuard; with `bans`, while it puts those back."""
    place = Directories(ROOT / "appguard")
    place.configure(JAIL.format(bench.log))
    place.remember(old(bans))
    with bench.server:
        daemon = place.start(is_up=False)
    with bench.server, keeping(), running(daemon):
        daemon.wait_for("AppGuard daemon is up", 60)
        if not bans:
            return bench.measure()
        ends = [str(host(each).network_address) for each in (0, bans - 1)]  # one of them is put back last

        def restoring() -> None:
            with bench.server:
                is_back = True
                while is_back:
                    wait_until(lambda: all(map(holds, ends)), 20, "all bans are back")
                    commit(remove_table("appguard"))
                    time.sleep(random.uniform(0.0, 0.02))
                    is_back = all(map(holds, ends))

        return bench.measure(restoring)


def old(number: int) -> Iterator[Ban]:
    """Give that many bans of an hour."""
    now = time.time()
    return (Ban(host(each), "ssh", now, now + 3600, automatic=True) for each in range(number))


def host(number: int) -> IPv4Network:
    """Give one address that is banned already."""
    return IPv4Network(OLD + number)


def fail2ban(bench: Bench) -> list[float]:
    """Measure fail2ban's server with its installed filter and action, and pyinotify from our own environment."""
    directory = ROOT / "fail2ban"
    directory.mkdir()
    for name in ("filter.d", "action.d"):
        (directory / name).symlink_to(f"/etc/fail2ban/{name}")
    shutil.copy("/etc/fail2ban/fail2ban.conf", directory)
    (directory / "jail.conf").write_text(FAIL2BAN.format(log=bench.log))
    source = inspect.getsourcefile(pyinotify)
    assert source
    shutil.copy(source, directory)
    files = ["-s", str(directory / "socket"), "-p", str(directory / "pid"), "--logtarget", "STDERR"]
    command = ["fail2ban-server", "-f", "-x", "-c", str(directory), *files]
    with bench.server:
        server = Process("fail2ban", command, environment={"PYTHONPATH": str(directory), "F2B_DB": "None"})
    with running(server):
        server.wait_for("Jail 'sshd' started")
        assert "pyinotify" in server.output(), server.output()
        return bench.measure()


def sshguard(bench: Bench) -> list[float]:
    """Measure sshguard as its package runs it, on our log."""
    with bench.server:
        server = Process("sshguard", ["sshguard", "-a", "10", "-p", "3600", str(bench.log)])
    with running(server), bench.server:
        wait_until(lambda: "sshguard" in bench.server.run("nft", "list", "tables"), 10, server.output)
        time.sleep(0.5)  # tail gives no sign that it follows
        return bench.measure()


CONTENDERS: Mapping[str, Callable[[Bench], Sequence[float]]] = {
    "AppGuard": appguard,
    "AppGuard, putting back 10 000": lambda bench: appguard(bench, RESTORED),
    "sshguard": sshguard,
    "fail2ban, pyinotify": fail2ban,
}


@contextmanager
def fresh(machine: Machine) -> Generator[None]:
    """Give each contender an empty directory and a kernel without rules."""
    ROOT.mkdir(mode=0o755)
    (ROOT / "auth.log").touch(mode=0o644)
    (ROOT / "appguard").mkdir()
    try:
        yield
    finally:
        machine.run("nft", "flush", "ruleset")
        shutil.rmtree(ROOT)


def main() -> None:
    """Measure all contenders."""
    parser = argparse.ArgumentParser(description="Measure log line to first dropped packet.")
    parser.add_argument("--trials", type=int, default=100, choices=range(2, 1001), metavar="N")
    parser.add_argument("--only", choices=CONTENDERS, help="measure one of them")
    asked = parser.parse_args()
    sys.setswitchinterval(0.0001)  # lest the threads of the probes wait for each other
    number = (asked.trials + 1) * len(CONTENDERS)
    attackers = Place("attacker", (f"{ATTACKERS}.255.254/16", *(f"{address_of(each)}/16" for each in range(number))))
    found: dict[str, dict[str, object]] = {}
    print(
        f"{asked.trials} trials, log line to first dropped packet, ms      p50        p99        max   p50 beside ours"
    )
    with Internet([attackers]) as internet:
        bench = Bench(internet, asked.trials)
        for name, measure in CONTENDERS.items():
            if asked.only not in (None, name):
                continue
            with fresh(internet.server):
                found[name] = each = summary(measure(bench))
            ratio = float(str(each["p50_ms"])) / float(str(next(iter(found.values()))["p50_ms"]))
            print(f"  {name:<40} {each['p50_ms']:10.2f} {each['p99_ms']:10.2f} {each['max_ms']:10.2f} {ratio:14.1f}x")
    print(f"target: {TARGET}")
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": machine, "target": TARGET, "milliseconds": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


def summary(milliseconds: Sequence[float]) -> dict[str, object]:
    """Give the median, the 99th percentile, the longest, and all."""
    p99 = quantiles(milliseconds, n=100, method="inclusive")[98]
    return {
        "p50_ms": median(milliseconds),
        "p99_ms": p99,
        "max_ms": max(milliseconds),
        "trials_ms": list(milliseconds),
    }


if __name__ == "__main__":
    main()
