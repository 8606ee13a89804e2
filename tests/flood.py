"""A log flooded through rotations under a real daemon: what was counted of it, how far behind it got, what it took."""

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from appguard.cli.client import ask
from appguard.status import DaemonStatus
from tests.daemon import Place, login_failure, running_daemon
from tests.lab import Process, wait_until

MEMORY_MOST = 160 * 2**20  # bytes of the daemon, whatever comes
FAILURE_EVERY = 100
WRITER = """
import os, sys, time
path, rate, seconds, rotations, every, failure = sys.argv[1], *map(float, sys.argv[2:5]), int(sys.argv[5]), sys.argv[6]
total, turn, number = int(rate * seconds), max(1, int(rate * seconds / (rotations + 1))), 0
batch = max(1, int(rate / 100))
began, turned = time.monotonic(), 0
log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
def line(n):
    if n % every:
        return b'203.0.113.9 - - "GET /static/%d.css HTTP/1.1" 200 1234 "-" "-"\\n' % n
    n //= every
    return failure.replace("203.0.113.99", f"20.{n >> 16}.{n >> 8 & 255}.{n & 255}").encode() + b"\\n"
while number < total:
    data = b"".join(map(line, range(number, min(total, number + batch))))
    while data:
        data = data[os.write(log, data):]
    number = min(total, number + batch)
    if number // turn > turned and number < total:
        turned = number // turn
        for old in range(turned - 1, 0, -1):
            os.rename(f"{path}.{old}", f"{path}.{old + 1}")
        os.rename(path, path + ".1")
        os.close(log)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    time.sleep(max(0, began + number / rate - time.monotonic()))
print("written in", time.monotonic() - began, flush=True)
"""


class Flood:
    """A flood of `rate` lines a second."""

    def __init__(self, root: Path, rate: float, seconds: float, rotations: int) -> None:
        self.place = Place(root, user=None)
        self._lines = int(rate * seconds)
        self._failures = -(-self._lines // FAILURE_EVERY)
        arguments = map(str, (self.place.access_log, rate, seconds, rotations, FAILURE_EVERY))
        self._writer = [sys.executable, "-c", WRITER, *arguments, login_failure("203.0.113.99").to_line()]
        self.place.configure(
            f'[jails.flood]\nsource = "{self.place.access_log}"\nfilter = "appguard"\n'
            'maxretry = 1000\nfindtime = "1d"\n',
            '[firewall]\nkind = "dry_run"\n',
        )

    def run(self, patience: float, tell: Callable[[str], None]) -> dict[str, float]:
        """Flood, and let the daemon recover within `patience` seconds; give the figures."""
        self.place.access_log.touch()
        with running_daemon(self.place) as daemon:
            began = time.monotonic()
            writer = Process("writer", self._writer)
            try:
                figures = self._follow(writer, daemon, patience, tell)
            finally:
                writer.stop()
            figures["recovered_after_seconds"] = time.monotonic() - began
        figures["lines_a_second"] = self._lines / figures["recovered_after_seconds"]
        return figures | self._compare()

    def _follow(
        self, writer: Process, daemon: Process, patience: float, tell: Callable[[str], None]
    ) -> dict[str, float]:
        """Watch lag and memory until all is written and read."""
        behind = lag = told = read = 0.0
        began = time.monotonic()

        def is_over() -> bool:
            nonlocal behind, lag, told, read
            (source,) = DaemonStatus.from_json(ask(self.place.control, "GET", "/v1/status")).sources
            behind, lag, read = max(behind, source.behind), max(lag, source.lag), source.lines
            now = time.monotonic() - began
            if now >= told + 2:
                told = now
                waits = f"{source.behind / 1e6:8.1f} MB behind for {source.lag:5.1f} s"
                tell(f"{now:6.1f} s: {waits}, memory {_peak(daemon) >> 20} MB")
            return writer.status is not None and not source.behind

        wait_until(is_over, patience, lambda: f"all is read: {self.place.ask('status')['sources']}")
        assert writer.stop() == 0, writer.output()  # which is all here then
        return {
            "lines": self._lines,
            "lines_read": read,
            "written_in_seconds": float(writer.output().split()[-1]),
            "written_a_second": self._lines / float(writer.output().split()[-1]),
            "most_megabytes_behind": behind / 1e6,
            "longest_lag_seconds": lag,
            "memory_peak_megabytes": _peak(daemon) / 2**20,
        }

    def _compare(self) -> dict[str, float]:
        """Say how many failures were lost and how many counted twice."""
        with closing(sqlite3.connect(self.place.state / "state.db")) as state:
            rows: list[tuple[str, str]] = state.execute("SELECT key, failures FROM failure").fetchall()
        counted = {key: sum(failure[1] for failure in json.loads(failures)) for key, failures in rows}
        expected = {f"20.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(self._failures)}
        doubled = sum(count - 1 for count in counted.values())
        return {"failures": self._failures, "lost": len(expected - set(counted)), "doubled": doubled}


def _peak(daemon: Process) -> int:
    """Give the most memory a process has had, in bytes."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
