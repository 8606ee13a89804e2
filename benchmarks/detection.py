"""How many log lines a second does detection read, and how many times that of fail2ban and sshguard's parser?

From the file to the ban set on one core, without the firewall, the daemon's state and its log, in CPU seconds, the
median of several runs. fail2ban-regex reads the beginning of the same log in the same run, without and with its date
pattern given; what it takes for one line is subtracted. That both find as many lines is checked on that beginning. A
private fail2ban-server decides about the same lines with the same regex, its date pattern given.
"""

import argparse
import gc
import json
import logging
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appguard.address import Grouping, NetworkSet
from appguard.banning import Banning
from appguard.config_jails import JailConfig, read_jail
from appguard.footing import settle_memory
from appguard.host import read_host_facts
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.members import filter_of, wanted_kinds, wanted_statuses
from appguard.pipeline import Outcome, Pipeline, Route
from appguard.sources.base import Chunk
from appguard.sources.generation import Generation
from appguard.sources.pace import Pace
from appguard.stores.memory import MemoryBanSet
from benchmarks.fail2ban_server import LAST, MAXRETRY, server_seconds
from benchmarks.synthetic_logs import BEGIN, write

RESULT = Path(__file__).parent / "results/detection.json"
FAIL2BAN = "/usr/bin/fail2ban-regex"
SSHGUARD = "/usr/libexec/sshguard/sshg-parser"
LINES_A_SECOND = 500  # of the time that the logs tell
COMPARED = 20_000  # lines that the others read
SELECTIVE = ("probing", "basic-auth", "limit-req", "sensitive-files")
NGINX = r'^<HOST> - \S+ \[\] "[^"]*" (?:40[01345]|429|444|503) ', "%d/%b/%Y:%H:%M:%S %z"
EVENTS = (
    r'^\{"time":"[^"]*","event":"authn_login_fail","source_ip":"<HOST>"',
    "%Y-%m-%dT%H:%M:%S.%fZ",
)
SSHD = (
    r"^ \S+ sshd\[\d+\]: (?:Failed password for (?:invalid user )?\S+|Invalid user \S+) from <HOST> port \d+",
    "%b %d %H:%M:%S",
)
LAST_LINES = {
    "nginx": ("%d/%b/%Y:%H:%M:%S +0000", '{who} - - [{stamp}] "POST /login HTTP/1.1" 401 153 "-" "-"\n'),
    "events": ("%Y-%m-%dT%H:%M:%S.000000Z", '{{"time":"{stamp}","event":"authn_login_fail","source_ip":"{who}"}}\n'),
    "sshd": ("%b %d %H:%M:%S", "{stamp} vm1 sshd[7]: Failed password for root from {who} port 7 ssh2\n"),
}  # by which fail2ban-server is seen to have come to the end


@dataclass(frozen=True)
class Row:
    """One thing measured: a log, the ready jails that read it, and what fail2ban looks for: a regex and a date."""

    name: str
    kind: str
    hostile: float
    lines: int
    jails: Sequence[str]
    fail2ban: tuple[str, str]
    is_fresh: bool = False
    is_never_short: bool = False  # attackers are banned first, and a short log is little but that
    finds_the_same: bool = True
    filter: str = ""


ROWS = (
    Row("nginx 1 %, selective jails", "nginx", 0.01, 500_000, SELECTIVE, NGINX),
    Row("nginx 1 %, DoS jail too", "nginx", 0.01, 200_000, (*SELECTIVE, "dos"), NGINX, finds_the_same=False),
    Row("nginx 100 %, repeat offenders", "nginx", 1.0, 500_000, SELECTIVE, NGINX, is_never_short=True),
    Row("nginx 100 %, fresh addresses", "nginx", 1.0, 200_000, SELECTIVE, NGINX, is_fresh=True),
    Row("nginx 100 %, half IPv6", "nginx half IPv6", 1.0, 500_000, SELECTIVE, NGINX, is_never_short=True),
    Row("events 1 %", "events", 0.01, 500_000, ("slow-brute-force",), EVENTS, filter="appguard"),
    Row(
        "events 100 %, repeat offenders",
        "events",
        1.0,
        500_000,
        ("slow-brute-force",),
        EVENTS,
        is_never_short=True,
        filter="appguard",
    ),
    Row("events 100 %, fresh", "events", 1.0, 200_000, ("slow-brute-force",), EVENTS, is_fresh=True, filter="appguard"),
    Row("sshd 10 %", "sshd", 0.1, 200_000, ("sshd",), SSHD),
    Row("sshd 100 %", "sshd", 1.0, 100_000, ("sshd",), SSHD),
)


class Engine:
    """What the daemon makes of a log, from the file to the ban set."""

    def __init__(self, configs: Sequence[JailConfig]) -> None:
        self._now = float(BEGIN)
        kinds, statuses = wanted_kinds(configs), wanted_statuses(configs)
        windows = {each.jail.name: JailWindow(each.jail, Grouping()) for each in configs}
        routes = [
            Route(filter_of(each, kinds[each.filter], statuses.get(each.filter, ())), windows[each.jail.name])
            for each in configs
        ]
        self.pipeline = Pipeline({"log": routes}, NetworkSet())
        self._bans = MemoryBanSet(lambda: self._now)
        self._banning = Banning(windows, self._bans, Judge(read_host_facts()), lambda: self._now, lambda _: None)
        self._cursor = 0

    def read(self, log: Path) -> None:
        """Read a log from its beginning to its end."""
        generation, pace = Generation(os.open(log, os.O_RDONLY)), Pace()
        while True:
            began = time.monotonic()
            reading = generation.read(pace.bytes)
            if not reading:
                break
            generation.place = reading.place
            self._take(self.pipeline.feed("log", Chunk(str(log), reading.lines), self._now))
            self._now = BEGIN + self.pipeline.lines / LINES_A_SECOND
            pace.took(time.monotonic() - began)
            pace.end_round(has_more=True)
        generation.close()

    def _take(self, outcome: Outcome) -> None:
        self._banning.take(outcome)
        changes = self._bans.follow(self._cursor)
        if changes is not None and changes.facts:
            self._cursor = changes.cursor
            self.pipeline.learn(changes.facts)

    @property
    def found(self) -> int:
        """Give the lines that told of something, those of banned addresses included."""
        return self.pipeline.matched + self.pipeline.passed_over


def engine_of(row: Row, log: Path) -> Engine:
    """Make the engine of a row."""
    own = {"filter": row.filter} if row.filter else {}
    return Engine([read_jail(name, {"use": name, "source": str(log), **own}, "benchmark") for name in row.jails])


def cpu(act: Callable[[], object]) -> float:
    """Give the CPU seconds that something takes, children included."""

    def spent() -> float:
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in used)

    before = spent()
    act()
    return spent() - before


def own_seconds(row: Row, log: Path, runs: int) -> float:
    """Give the CPU seconds in which a log is read, the median of some runs."""

    def once() -> float:
        gc.collect()  # what an earlier run has left is no part of this one
        engine = engine_of(row, log)
        began = time.process_time()
        engine.read(log)
        return time.process_time() - began

    return statistics.median(once() for _ in range(runs))


def fail2ban(log: Path, regex: str, date: str = "") -> tuple[float, int]:
    """Give the CPU seconds that fail2ban-regex takes for a log, and how many lines it finds."""
    arguments = [FAIL2BAN, *(["-d", date] if date else []), str(log), regex]
    said = ""

    def run() -> None:
        nonlocal said
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=os.environ | {"TZ": "UTC"})
        said = done.stdout

    seconds = cpu(run)
    found = re.search(r"^Lines: .*? (\d+) matched", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"fail2ban-regex says no number of lines: {said[-500:]}")
    return seconds, int(found[1])


def sshguard(log: Path) -> tuple[float, int]:
    """Give the CPU seconds that sshguard's parser takes for a log, and how many attacks it finds."""
    attacks = 0

    def run() -> None:
        nonlocal attacks
        with log.open("rb") as lines:
            attacks = subprocess.run([SSHGUARD], stdin=lines, capture_output=True, check=False).stdout.count(b"\n")

    return cpu(run), attacks


def fail2ban_server(row: Row, log: Path) -> float:
    """Give the CPU seconds that a fail2ban-server takes until it has decided about the lines of a log."""
    form, line = LAST_LINES[row.kind.partition(" ")[0]]
    stamp = time.strftime(form, time.gmtime(BEGIN + log.read_bytes().count(b"\n") // LINES_A_SECOND))
    last = [line.format(stamp=stamp, who=LAST).encode()] * MAXRETRY
    with tempfile.TemporaryDirectory() as directory:
        return server_seconds(Path(directory), log.read_bytes(), last, *row.fail2ban)


def head(log: Path, lines: int) -> Path:
    """Give a file with the first lines of a log."""
    path = log.with_name(f"{log.name}.{lines}")
    with log.open("rb") as whole:
        path.write_bytes(b"".join(line for _, line in zip(range(lines), whole, strict=False)))
    return path


def measure(row: Row, directory: Path, runs: int, share: float) -> dict[str, float]:
    """Measure one row; give lines a second and ratios."""
    log, count = directory / "log", row.lines if row.is_never_short else int(row.lines * share)
    write(log, row.kind, count, row.hostile, fresh=row.is_fresh)
    found = {"lines": count, "lines_a_second": count / own_seconds(row, log, runs)}
    compared = min(COMPARED, count)
    first, one = head(log, compared), head(log, 1)
    checked = engine_of(row, first)
    checked.read(first)
    for name, date in (("fail2ban", ""), ("fail2ban_tuned", row.fail2ban[1])):
        both = [(fail2ban(first, row.fail2ban[0], date), fail2ban(one, row.fail2ban[0], date)) for _ in range(3)]
        seconds = statistics.median(many[0] - start[0] for many, start in both)
        found[name] = compared / seconds
        found[f"times_{name}"] = found["lines_a_second"] / found[name]
        if row.finds_the_same and both[0][0][1] != checked.found:
            raise SystemExit(f"{row.name}: fail2ban finds {both[0][0][1]} lines, AppGuard {checked.found}")
    found["fail2ban_server"] = compared / fail2ban_server(row, first)
    found["times_fail2ban_server"] = found["lines_a_second"] / found["fail2ban_server"]
    if Path(SSHGUARD).exists():
        seconds, attacks = sshguard(first)
        found |= {"sshguard_parser": compared / seconds, "sshguard_attacks": attacks}
    return found


def main() -> int:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description="Measure detection beside fail2ban-regex and sshguard's parser.")
    parser.add_argument("--quick", action="store_true", help="shorter logs but those of repeat offenders, fewer runs")
    given = parser.parse_args()
    settle_memory()
    logging.disable(logging.ERROR)
    runs, share = (3, 0.2) if given.quick else (5, 1.0)
    rows: dict[str, dict[str, float]] = {}
    print(
        f"{'lines a second':<32}{'lines':>9}{'AppGuard':>11}{'fail2ban':>10}{'times':>7}{'tuned':>10}{'times':>7}"
        f"{'server':>10}{'times':>7}{'sshguard':>10}"
    )
    with tempfile.TemporaryDirectory() as directory:
        for row in ROWS:
            found = rows[row.name] = measure(row, Path(directory), runs, share)
            own, default, tuned = found["lines_a_second"], found["fail2ban"], found["fail2ban_tuned"]
            ratios = found["times_fail2ban"], found["times_fail2ban_tuned"]
            print(
                f"{row.name:<32}{found['lines']:>9,}{own:>11,.0f}{default:>10,.0f}{ratios[0]:>7.1f}{tuned:>10,.0f}{ratios[1]:>7.1f}"
                f"{found['fail2ban_server']:>10,.0f}{found['times_fail2ban_server']:>7.1f}"
                f"{found.get('sshguard_parser', 0):>10,.0f}",
                flush=True,
            )
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "memory_peak_kilobytes": memory, "rows": rows}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
