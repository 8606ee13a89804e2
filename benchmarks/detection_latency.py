"""How long from a line appended to a watched log to the jail's decision, idle and in a flood, beside fail2ban?

The line is a new client's second failure of two. The decision is the line `Ban` in the server's log, which both write
to a pipe, so that writing and reading it is counted too. In the flood another process appends lines to the same file,
of which one in a hundred is a failure that counts and bans nobody. Neither server has a firewall to wait for. fail2ban
has its pyinotify backend, the format of the date, and a directory, socket and database of its own; beside its decision
stands when it found the failure. What nobody can be quicker than on this machine now, `tail -F | grep` shows. Prints a
table and ratios, and writes JSON.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import pyinotify

from tests.daemon import NGINX_404, Place, running_daemon, web_jail
from tests.lab import Process, running, wait_until

RESULT = Path(__file__).parent / "results/detection_latency.json"
TARGETS = "p99 < 2 ms idle, < 20 ms in the flood"
QUICK, SLOW = (0.005, 0.035), (0.2, 1.0)  # seconds between lines; fail2ban looks for decisions each 0.2 to 0.8 s
SAID = {"ban": re.compile(r"\[probes\] Ban (\S+)"), "found": re.compile(r"\[probes\] Found (\S+)")}
SAID["printed"] = re.compile(r"^(\S+) - - ")
PATIENCE = 30.0  # seconds; a decision that takes longer counts as so long
WRITER = """
import os, sys, time
path, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
log = os.open(path, os.O_WRONLY | os.O_APPEND)
number, turn, began = 0, max(1, rate // 1000), time.monotonic()
def line(n, stamp):
    is_failure = n % 100 == 0
    number, net, status = (n // 100, 20, 404) if is_failure else (n, 198, 200)
    client = f"{net}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return f'{client} - - [{stamp}] "GET /a.css HTTP/1.1" {status} 1234 "-" "Mozilla/5.0 Firefox/145.0"\\n'
print("begun", flush=True)
while number < rate * seconds:
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    os.write(log, "".join(line(n, stamp) for n in range(number, number + turn)).encode())
    number += turn
    time.sleep(max(0, began + number / rate - time.monotonic()))
print("lines a second:", number / (time.monotonic() - began), flush=True)
"""
FAIL2BAN = """
[Definition]
loglevel = INFO
logtarget = STDOUT
syslogsocket = auto
socket = {0}/fail2ban.sock
pidfile = {0}/fail2ban.pid
dbfile = {0}/fail2ban.sqlite3
dbpurgeage = 1d
dbmaxmatches = 10
"""
JAIL = """
[probes]
enabled = true
backend = pyinotify
filter = probes
logpath = {}
maxretry = 2
findtime = 600
bantime = 600
usedns = no
action =
"""
FILTER = r"""
[Definition]
failregex = ^<HOST> - \S+ \[\] "[^"]*" 404\b
datepattern = %%d/%%b/%%Y:%%H:%%M:%%S %%z
"""


@contextmanager
def appguard(root: Path, log: Path) -> Generator[Process]:
    """Run the daemon on a log."""
    place = Place(root, user=None)
    place.access_log = log
    jail = web_jail(place, {"maxretry": 2, "bans_per_minute": 1_000_000})
    place.configure(jail, '[firewall]\nkind = "dry_run"\n')
    with running_daemon(place) as daemon:
        yield daemon


@contextmanager
def fail2ban(root: Path, log: Path) -> Generator[Process]:
    """Run a fail2ban-server of its own on a log."""
    for name in ("filter.d", "action.d"):
        (root / name).mkdir()
    (root / "fail2ban.conf").write_text(FAIL2BAN.format(root))
    (root / "jail.conf").write_text(JAIL.format(log))
    (root / "filter.d/probes.conf").write_text(FILTER)
    shutil.copy(pyinotify.__file__, root)  # it is one file, and Debian's Python need not have it
    files = ("-c", root, "-s", root / "fail2ban.sock", "-p", root / "fail2ban.pid")
    command = ("fail2ban-server", "-f", "-x", *files, "start")
    server = Process("fail2ban", command, environment={"PYTHONPATH": str(root), "TZ": "UTC"})
    try:
        server.wait_for("Jail 'probes' started")
        yield server
    finally:
        server.stop()


@contextmanager
def tail(_: Path, log: Path) -> Generator[Process]:
    """Let two programs in C do the least."""
    with running(Process("tail", ["sh", "-c", 'tail -n 0 -F "$0" | grep --line-buffered " 404 "', log])) as both:

        def is_heard() -> bool:
            log.write_text(NGINX_404.format("192.0.2.1", "-"))
            return "192.0.2.1" in both.output()

        wait_until(is_heard, PATIENCE, "tail watches")
        log.write_text("")
        yield both


@dataclass(frozen=True)
class Server:
    """What is measured: how it is run, what it says, how far apart lines are, and its share of the trials."""

    run: Callable[[Path, Path], AbstractContextManager[Process]]
    words: tuple[str, ...]
    gap: tuple[float, float]
    share: float = 1.0


SERVERS = {
    "tail | grep": Server(tail, ("printed",), QUICK),
    "appguard": Server(appguard, ("ban",), QUICK),
    "fail2ban": Server(fail2ban, ("ban", "found"), SLOW, 0.02),
}


class Trials:
    """Clients that fail twice, one after the other, in the log that a server watches."""

    def __init__(self, server: Process, log: Path, net: int) -> None:
        self._server = server
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)
        self._net = net
        self._written: dict[str, float] = {}

    def run(self, number: int, gap: tuple[float, float]) -> None:
        """Write the lines of so many clients."""
        chance = random.Random(number)
        for each in range(number):
            address = f"9.{self._net}.{each >> 8}.{each & 255}"
            stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
            line = NGINX_404.format(address, stamp).encode()
            self._written[address] = time.monotonic()
            os.write(self._log, line * 2)
            time.sleep(chance.uniform(*gap))

    def milliseconds(self, word: str) -> list[float]:
        """Give how long each took until the server's log said this of it, once all are there or waited for."""
        end = time.monotonic() + PATIENCE
        wait_until(lambda: len(self._said(word)) >= len(self._written) or time.monotonic() > end, 2 * PATIENCE, word)
        said = self._said(word)
        return [1000 * (said.get(address, at + PATIENCE) - at) for address, at in self._written.items()]

    def _said(self, word: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in self._server.lines():
            said = SAID[word].search(line.text)
            if said and said[1] in self._written:
                found[said[1]] = line.time  # what is said of both lines counts the second time
        return found


def measure(name: str, trials: int, rate: int) -> dict[str, dict[str, float]]:
    """Measure one server, idle and in the flood."""
    found: dict[str, dict[str, float]] = {}
    server = SERVERS[name]
    trials = max(10, round(trials * server.share))
    with TemporaryDirectory(dir="/var/tmp") as directory:
        log = Path(directory) / "access.log"
        log.touch()
        root = Path(directory) / "server"
        root.mkdir()
        with server.run(root, log) as process:
            idle = Trials(process, log, 1)
            idle.run(trials, server.gap)
            found |= results("idle", idle, server.words)
            seconds = trials * sum(server.gap) / 2 + 2
            writer = Process("writer", [sys.executable, "-c", WRITER, str(log), str(rate), str(seconds)])
            try:
                writer.wait_for("begun")
                flooded = Trials(process, log, 2)
                flooded.run(trials, server.gap)
                wait_until(lambda: writer.status is not None, PATIENCE, writer.output)
                found |= results("flood", flooded, server.words)
            finally:
                writer.stop()
            found[f"flood {server.words[0]}"]["written_a_second"] = float(writer.output().split()[-1])
    return found


def results(state: str, trials: Trials, words: Sequence[str]) -> dict[str, dict[str, float]]:
    """Give the figures of some trials."""
    return {f"{state} {word}": summary(trials.milliseconds(word)) for word in words}


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Give the median, the 99th percentile and the longest."""
    p99 = quantiles(milliseconds, n=100, method="inclusive")[98]
    return {"p50_ms": median(milliseconds), "p99_ms": p99, "max_ms": max(milliseconds), "trials": len(milliseconds)}


def report(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the table."""
    print(f"line appended -> decision, milliseconds{'p50':>12}{'p99':>12}{'max':>12}{'trials':>9}")
    for name, states in found.items():
        for state, each in states.items():
            cells = f"{each['p50_ms']:12.2f}{each['p99_ms']:12.2f}{each['max_ms']:12.2f}{each['trials']:9.0f}"
            print(f"  {name:<12} {state:<24}{cells}")
    for state in ("idle ban", "flood ban"):
        ours, theirs = found["appguard"][state], found["fail2ban"][state]
        ratios = ", ".join(f"{part} {theirs[f'{part}_ms'] / ours[f'{part}_ms']:,.0f}x" for part in ("p50", "p99"))
        print(f"  {state}: AppGuard is sooner by {ratios}")
    written = (each["written_a_second"] for states in found.values() for each in states.values() if len(each) > 4)
    print(f"  the floods were {', '.join(f'{rate:,.0f}' for rate in written)} lines a second")
    print(f"  targets: {TARGETS}")


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description="Measure line appended to jail decision.")
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="fail2ban has N/50")
    parser.add_argument("--rate", type=int, default=50_000, metavar="LINES", help="of the flood, a second")
    given = parser.parse_args()
    found = {name: measure(name, given.trials, given.rate) for name in SERVERS}
    report(found)
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "latency": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
