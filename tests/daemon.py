"""A real daemon for tests: its directories, its settings, its process, and the CLI to ask it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appguard.address import parse_address
from appguard.ban import Ban, Fact
from appguard.event import LOGIN_FAIL, Event
from appguard.state import Batch, State
from tests.lab import Process, User, wait_until
from tests.netns import banned, has_table

DAEMON = User(4711, capabilities=("net_admin",))
APP = User(33)
# Runs the command with a wall clock that is off; whatever asks for the time gets it, for nothing is imported before.
SKEWED = """
import sys, time
real, path = time.time, sys.argv.pop(1)
def skewed():
    with open(path) as file:
        return real() + float(file.read() or 0)
time.time = skewed
from appguard.cli import main
sys.exit(main())
"""
NGINX_404 = '{} - - [{}] "GET /wp-login.php HTTP/1.1" 404 153 "-" "curl/7.88.1"\n'


class Place:
    """The directories of one daemon under `root`, owned by its user.

    The clock of its host is off by `skew` seconds; with None it is right and cannot be set.
    """

    def __init__(self, root: Path, user: User | None = DAEMON, skew: float | None = None) -> None:
        self.user = user
        self.skew = 0.0
        self._skew_file = root / "skew"
        if skew is not None:
            self.set_clock(skew)
        self.runtime = root / "run"
        self.control = root / "run-control" / "control.sock"
        self.state = root / "state"
        self.logs = root / "log"
        self.config = root / "appguard.toml"
        for directory in (self.runtime, self.control.parent, self.state, self.logs):
            directory.mkdir()
            if user is not None:
                subprocess.run(["chown", str(user.uid), str(directory)], check=True)
        self.access_log = self.logs / "access.log"

    def configure(self, jails: str, more: str = "") -> None:
        """Write the settings: `more` first, then the jails."""
        self.config.write_text(
            f'runtime_directory = "{self.runtime}"\nstate_directory = "{self.state}"\n{more}\n{jails}\n'
        )

    def command(self, verb: str = "daemon") -> list[str]:
        """Give the command that runs the daemon, or the bouncer of its host."""
        options = ["--config", str(self.config)]
        if self._skew_file.exists():
            return [sys.executable, "-c", SKEWED, str(self._skew_file), verb, *options]
        return [sys.executable, "-m", "appguard", verb, *options]

    def set_clock(self, skew: float) -> None:
        """Set the clock of the daemon's host, which may run, so many seconds ahead."""
        self.skew = skew
        new = self._skew_file.with_suffix(".new")
        new.write_text(str(skew))
        new.replace(self._skew_file)

    def start(self, *, is_up: bool = True) -> Process:
        """Start the daemon and wait until it is up."""
        process = Process("daemon", self.command(), user=self.user)
        if is_up:
            process.wait_for("AppGuard daemon is up")
            wait_until(self._is_asked, 10, process.output)
        return process

    def _is_asked(self) -> bool:
        """Say whether the control socket takes connections; there is a moment between its file and that."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.control)) == 0

    def run(self, *verb: str) -> subprocess.CompletedProcess[str]:
        """Run one verb of the CLI as root."""
        command = [sys.executable, "-m", "appguard", *verb, "--socket", str(self.control)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def ask(self, *verb: str) -> Any:
        """Run one verb of the CLI with --json and give what it says."""
        done = self.run(*verb, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def banned(self) -> list[str]:
        """Give the networks that are banned."""
        return sorted(ban["network"] for ban in self.ask("list")["bans"])

    def append(self, address: str, times: int = 1) -> None:
        """Write nginx lines of a prober to the access log, as nginx does: one write per line."""
        stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(time.time() + self.skew))
        for _ in range(times):
            with self.access_log.open("a") as log:
                log.write(NGINX_404.format(address, stamp))

    def remember(self, bans: Iterable[Ban], **settings: str) -> None:
        """Give the daemon, which does not run, bans and settings of an earlier life."""
        self.state.chmod(0o700)
        os.chown(self.state, os.geteuid(), -1)
        state = State(self.state)
        state.open()
        state.save(Batch(facts=[Fact(ban.network, version, ban) for version, ban in enumerate(bans, 1)]))
        for name, value in settings.items():
            state.set_setting(name, value)
        state.close()
        if self.user is not None:
            subprocess.run(["chown", "-R", str(self.user.uid), str(self.state)], check=True)


def in_kernel() -> dict[str, int]:
    """Give the networks the kernel shuts out and the seconds left; nothing before there is a table."""
    return banned() if has_table() else {}


@contextmanager
def running_daemon(place: Place) -> Generator[Process]:
    """Run the daemon for the length of the block."""
    process = place.start()
    try:
        yield process
    finally:
        process.stop()


def login_failure(address: str, **details: Any) -> Event:
    """Make the event of a failed login now."""
    return Event(LOGIN_FAIL, time.time(), parse_address(address), app="shop", **details)


def web_jail(place: Place, settings: Mapping[str, object] | None = None) -> str:
    """Give the settings of a jail that bans probers of the access log."""
    chosen = {"events": ["guard_probe"], "maxretry": 3, "findtime": "10m", "bantime": "10m"} | dict(settings or {})
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
    return f'[jails.probes]\nsource = "{place.access_log}"\nfilter = "nginx"\n{lines}\n'


LOGIN_JAIL = '[jails.login]\nsource = "events"\nusers = ["33"]\nmaxretry = 3\nfindtime = "10m"\nbantime = "10m"\n'
