"""A private fail2ban-server: own configuration, socket, database and log, and an action that only writes a file.

How long it takes for some lines is counted in CPU seconds, its children's included, from the moment they are appended
to its log until it has decided about the last of them, which is known by an address that nobody else has.
"""

import os
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVER = "/usr/bin/fail2ban-server"
LAST = "192.0.2.254"  # whose failures end every log
MAXRETRY = 5
PATIENCE = 120.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")

FILES = {
    "fail2ban.conf": """[Definition]
loglevel = INFO
logtarget = {here}/fail2ban.log
syslogsocket = auto
socket = {here}/fail2ban.sock
pidfile = {here}/fail2ban.pid
dbfile = {here}/fail2ban.sqlite3
dbpurgeage = 1d
dbmaxmatches = 10
""",
    "jail.conf": """[DEFAULT]
backend = polling
usedns = no
ignoreself = false
banaction = file
bantime = -1
findtime = 10y
maxretry = {maxretry}
[measured]
enabled = true
filter = measured
logpath = {here}/log
action = file
""",
    "filter.d/measured.conf": """[Definition]
failregex = {regex}
datepattern = {date}
""",
    "action.d/file.conf": """[Definition]
actionban = echo <ip> >> {here}/decided
""",
}


@contextmanager
def running(here: Path, regex: str, date: str) -> Generator[int]:
    """Run a server that watches `log` in a directory; give its process id."""
    words = {"here": str(here), "maxretry": str(MAXRETRY)}
    words |= {"regex": regex.replace("%", "%%"), "date": date.replace("%", "%%")}
    for name, text in FILES.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text.format(**words))
    (here / "log").touch()
    (here / "decided").touch()
    command = [SERVER, "-xf", "-c", str(here), "-s", f"{here}/fail2ban.sock", "-p", f"{here}/fail2ban.pid", "start"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=os.environ | {"TZ": "UTC"}) as server:
        try:
            log = here / "fail2ban.log"
            _wait(lambda: log.exists() and "Jail 'measured' started" in log.read_text(), "fail2ban-server starts")
            yield server.pid
        finally:
            server.terminate()


def server_seconds(here: Path, lines: bytes, last: Sequence[bytes], regex: str, date: str) -> float:
    """Give the CPU seconds for lines; `last` are the failures of `LAST` that end them."""
    with running(here, regex, date) as server:
        time.sleep(1.0)  # what it does first of all is not what is measured
        before = _cpu(server)
        with (here / "log").open("ab") as log:
            log.write(lines + b"".join(last))
        _wait(lambda: LAST in (here / "decided").read_text(), "fail2ban-server decides")
        return _cpu(server) - before


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _wait(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.05)
