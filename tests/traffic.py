"""Real traffic and what must come of it: nginx's own log under wrk and curl, counted by awk and by the daemon."""

import os
import subprocess
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appguard.cli.client import NotReachable, ask
from tests.daemon import Place
from tests.lab import Process, free_port, wait_until
from tests.nginx import Nginx, contrib

MAXRETRY = 5
LINES_PER_CLIENT = 7  # on average: many clients then fail about as often as a ban takes
REQUESTS = Path(__file__).with_name("requests.lua")
SITE = """
set_real_ip_from 127.0.0.1;
real_ip_header X-Forwarded-For;
server {{
    listen 127.0.0.1:{port};
    access_log {root}/log/nginx.log combined;
    access_log {root}/log/nginx-json.log appguard;
    location / {{ return 200; }}
    location = /login {{ if ($args = ok) {{ return 302; }} return 401; }}
    location /missing {{ root {root}/nothing; log_not_found off; }}
    location = /forbidden {{ deny all; }}
    location /private {{ auth_basic shop; auth_basic_user_file passwords; }}
}}
"""
# What the log says, told by awk: how many requests failed, and which clients failed often enough. In the combined form
# a quote ends a field, because nginx writes another as \\x22; in JSON `","` does, because it writes another as \\".
AWK = {
    "nginx": r"""
        BEGIN { FS = "\"" }
        {
            split($1, head, " "); split($2, request, " "); split($3, answer, " ")
            client = head[1]; status = answer[1]
            login = $1 !~ /^[^ ]+ - - \[/ || (request[1] == "POST" && request[2] ~ /^\/login($|\?)/)
        }""",
    "nginx-json": r"""
        BEGIN { FS = "\",\"" }
        {
            client = $1; sub(/.*"client":"/, "", client)
            status = $3; sub(/status":"/, "", status)
            login = $5 == "auth\":\"basic" || ($7 == "method\":\"POST" && $8 ~ /^uri":"\/login($|\?)/)
        }""",
}
AWK_COUNT = r"""
    status == 404 || status == 403 || (status == 401 && login) {
        if (split(client, group, ":") > 1) client = group[1] ":" group[2] ":" group[3] ":" group[4] "::/64"
        failures++; of[client]++
    }
    END { print NR, failures + 0; for (client in of) if (of[client] >= maxretry) print client }
"""


@dataclass(frozen=True, slots=True)
class Count:
    """What a log says: its lines, the failures among them, and who is to be banned."""

    lines: int
    failures: int
    banned: frozenset[str]


class Traffic:
    """An nginx with both logs, and those who make requests of it."""

    def __init__(self, root: Path) -> None:
        port = free_port()
        files = {"conf.d/log.conf": contrib("appguard-log.conf"), "passwords": "alice:{PLAIN}secret\n"}
        self.nginx = Nginx(
            root, port, files | {"sites-enabled/site.conf": SITE.format(port=port, root=root)}, workers=2
        )
        self._url = f"http://127.0.0.1:{port}"
        self._runs = 0

    def log(self, form: str) -> Path:
        """Give the log that the filter of this name reads."""
        return self.nginx.root / "log" / f"{form}.log"

    def drive(self, lines: int) -> None:
        """Make at least so many requests with wrk, and the odd ones with curl in their midst."""
        self._wrk(lines)
        self._curl()
        while self.count("nginx").lines < lines:
            self._wrk(lines)

    def _wrk(self, lines: int) -> None:
        self._runs += 1
        arguments = ["--", str(lines // LINES_PER_CLIENT), str(self._runs)]
        command = ["wrk", "-t2", "-c16", "-d1s", "-s", str(REQUESTS), self._url, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def _curl(self) -> None:
        """Send what wrk does not: one failure more and one less than a ban takes, and names that look like a log."""
        self._get("/missing[1-5]", "203.0.113.251")
        self._get("/missing[1-4]", "203.0.113.252")
        self._get("/[1-9]", "203.0.113.253", agent=b'" 404 1 "-" "\xff","status":"404"')
        forged = b64encode(b'203.0.113.253 - - [x] "GET / HTTP/1.1" 401:x').decode()
        self._get("/private[1-5]", "203.0.113.254", f"Authorization: Basic {forged}")
        self._get("/private[1-9]", "203.0.113.253")

    def _get(self, path: str, client: str, header: str = "X: y", agent: bytes = b"curl") -> None:
        headers = ("-H", f"X-Forwarded-For: {client}", "-H", header, "-A", os.fsdecode(agent))
        subprocess.run(["curl", "-sS", "-o", "/dev/null", *headers, f"{self._url}{path}"], check=True)

    def count(self, form: str) -> Count:
        """Count with awk what the log says."""
        command = ["awk", "-v", f"maxretry={MAXRETRY}", AWK[form] + AWK_COUNT, str(self.log(form))]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={"LC_ALL": "C"})
        first, *banned = done.stdout.splitlines()
        lines, failures = map(int, first.split())
        return Count(lines, failures, frozenset(banned))


class Watching:
    """A daemon that reads the log and would ban; it begins with no memory, in a directory of its own.

    It passes over lines of addresses that it has banned, and counts them by what they look like, unless it
    `reads_all`: then it counts by network, each address being one.
    """

    def __init__(self, root: Path, log: Path, form: str, *, reads_all: bool = False) -> None:
        self._reads_all = reads_all
        root.mkdir()
        root.chmod(0o755)
        self.place = Place(root)
        self.place.configure(
            f'[jails.web]\nsource = "{log}"\nfilter = "{form}"\nmaxretry = {MAXRETRY}\nfindtime = "1d"\nbantime = -1\n'
            'events = ["authn_login_fail", "authz_fail", "guard_probe"]\n'
            f'key = "{"/32,/64" if reads_all else "address"}"\n',
            '[firewall]\nkind = "dry_run"\n',
        )

    def must_find(self, expected: Count, daemon: Process, deadline: float = 60.0) -> None:
        """Wait until the daemon has read the whole log; raise AssertionError unless it banned exactly these, once."""

        def has_read_all() -> bool:
            try:
                status: Any = ask(self.place.control, "GET", "/v1/status")
            except NotReachable:  # it has just been started
                return False
            (source,), (jail,) = status["sources"], status["jails"]
            return bool(source["behind"] == 0 and jail["total_failed"] >= expected.failures)

        wait_until(has_read_all, deadline, lambda: f"{expected.failures} failures: {self.place.ask('status')}")
        (jail,) = self.place.ask("status")["jails"]

        def bans() -> list[str]:
            return [line.text.rpartition(" ")[2] for line in daemon.lines() if "[web] Ban " in line.text]

        wait_until(lambda: len(bans()) >= jail["total_banned"], 10, daemon.output)  # a thread writes the log
        logged = bans()
        assert jail["total_failed"] == expected.failures or (
            not self._reads_all and expected.failures < jail["total_failed"] < expected.lines
        )
        assert len(logged) == len(set(logged)) == jail["total_banned"]
        assert set(logged) == expected.banned
        assert set(self.place.banned()) == set(logged)


def replay_seconds(traffic: Traffic, root: Path, form: str) -> float:
    """Start a daemon without memory on the finished log; give the seconds until it has read and banned all."""
    expected, watching = traffic.count(form), Watching(root, traffic.log(form), form)
    begin = time.monotonic()
    daemon = watching.place.start()
    try:
        watching.must_find(expected, daemon)
        return time.monotonic() - begin
    finally:
        daemon.stop()
