"""The example shop with all of AppGuard, running for real on the server of a small internet.

nginx -> uvicorn or gunicorn with two workers as www-data -> the daemon as a user of its own with CAP_NET_ADMIN and
nothing else -> nftables: from the example's own files, of which only the places of log and state and the length of a
ban are changed. With `store="redis"` app and daemon share a Redis of the shop's own.
Where the lab has one user only (it was entered without root and without subordinate user ids), all run as that one.
"""

import os
import pwd
import re
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from grp import getgrnam
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from tests.internet import SERVER4
from tests.lab import Process, User, has_user, is_listening, running, wait_until
from tests.machine import Machine
from tests.probes import Probes

CHECKOUT = Path(__file__).parents[1]
EXAMPLES = {name: CHECKOUT / f"examples/{name}_app" for name in ("fastapi", "flask", "django")}
STORES = ("local", "redis")
REDIS = "redis://127.0.0.1:6379/0"
RUNTIME = Path("/run/appguard")
CONTROL = Path("/run/appguard-control")
LOG = "/var/log/nginx/shop.access.log"
COMMAND = Path(sys.executable).with_name("appguard")
DAEMON_UID = 61001
WORKERS = 2
NGINX = """
daemon off;
{process}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    client_body_temp_path {directory}/nginx/body;
    proxy_temp_path {directory}/nginx/proxy;
    fastcgi_temp_path {directory}/nginx/fastcgi;
    uwsgi_temp_path {directory}/nginx/uwsgi;
    scgi_temp_path {directory}/nginx/scgi;
    include {directory}/nginx-site.conf;
}}
"""


NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a visitor got, and the monotonic times its request was sent and the answer had come."""

    status: int
    text: str
    sent: float
    received: float


class Visitor:
    """Somebody with a browser on a machine; each request is a connection of its own, from `source` if it is given.

    `patience` is how many seconds to wait for the server.
    """

    def __init__(self, machine: Machine, host: str, source: str = "", patience: float = 1.0) -> None:
        self.machine = machine
        self.host = host
        self.source = source
        self.patience = patience

    def ask(self, method: str, path: str, body: str = "", headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        """Send a request; raise OSError if nobody answers."""
        connection = HTTPConnection(self.host, 80, timeout=self.patience, source_address=(self.source, 0))
        with self.machine:
            connection.connect()
        try:
            sent = monotonic()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(response.status, text, sent, monotonic())
        finally:
            connection.close()

    def log_in(self, user: str, password: str, headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        """Log in with the form."""
        form = urlencode({"user": user, "password": password})
        return self.ask("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded", **headers})

    def open_private(self, user: str, password: str) -> Answer:
        """Ask for the private page with HTTP Basic."""
        credentials = b64encode(f"{user}:{password}".encode()).decode()
        return self.ask("GET", "/private", headers={"Authorization": f"Basic {credentials}"})

    def outcome(self) -> int:
        """Ask for the page and give the status of the answer, 0 if there is none."""
        try:
            return self.ask("GET", "/").status
        except TimeoutError:
            return 0


@dataclass(frozen=True, slots=True)
class Users:
    """Whom app and daemon run as; None is the lab's own root."""

    app: User | None
    daemon: User | None


def users() -> Users:
    """Give the users of a Debian host, if this lab has them."""
    if not has_user(DAEMON_UID):
        return Users(None, None)
    web = pwd.getpwnam("www-data")
    daemon = User(DAEMON_UID, groups=(getgrnam("adm").gr_gid,), capabilities=("net_admin",))
    return Users(User(web.pw_uid, web.pw_gid), daemon)


class Shop:
    """nginx, the app and the daemon. Use it as a context; `directory` and what is in it is made and removed."""

    daemon: Process
    app: Process
    nginx: Process

    def __init__(
        self,
        server: Machine,
        directory: Path,
        *,
        bantime: str = "1h",
        firewall: str = "nftables",
        app: str = "fastapi",
        store: str = "local",
    ) -> None:
        self.server = server
        self._example = EXAMPLES[app]
        self._store = store
        self.users = users()
        self._firewall = firewall
        self._directory = directory
        self._bantime = bantime
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self._make_directories()
            self._write_settings()
            if self._store == "redis":
                self._start_redis()
            self.start_daemon()
            self._start_app()
            self._start_nginx()
            visitor = Visitor(self.server, SERVER4)
            wait_until(lambda: visitor.outcome() == 200, 10, self._complaint)
        except BaseException:  # whatever it was, what has been started is stopped
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        while self._running:
            self._running.pop().stop()
        for path in (RUNTIME, CONTROL, self._directory):
            shutil.rmtree(path, ignore_errors=True)

    def _complaint(self) -> str:
        return "\n".join(("the shop answers", *(f"{one.name}: {one.output()}" for one in self._running)))

    def _make_directories(self) -> None:
        """Make what packages and systemd make on a host, with the same owners and rights."""
        _make(self._directory, None, 0o755)
        _make(self._directory / "nginx", self.users.app, 0o700)
        _make(self._directory / "log", None, 0o755)
        _make(self._directory / "state", self.users.daemon, 0o700)
        _make(RUNTIME, self.users.daemon, 0o755)
        _make(CONTROL, self.users.daemon, 0o750)
        log = self._directory / "log/access.log"
        log.touch(0o640)
        if self.users.app:
            shutil.chown(log, self.users.app.uid, "adm")

    def _write_settings(self) -> None:
        log = f"{self._directory}/log/access.log"
        store = f'store = "{REDIS}"\n' if self._store == "redis" else ""
        settings = _changed((self._example / "appguard.toml").read_text(), re.escape(LOG), log)
        settings = _changed(settings, r'(?m)^bantime = "[^"]*"', f'bantime = "{self._bantime}"')
        settings = _changed(settings, 'kind = "nftables"', f'kind = "{self._firewall}"')
        (self._directory / "appguard.toml").write_text(
            f'state_directory = "{self._directory}/state"\n{store}{settings}'
        )
        site = _changed((self._example / "nginx-site.conf").read_text(), re.escape(LOG), log)
        (self._directory / "nginx-site.conf").write_text(site)
        process = "user www-data;" if self.users.app else "user root root; master_process off;"
        (self._directory / "nginx.conf").write_text(NGINX.format(directory=self._directory, process=process))

    def start_daemon(self) -> None:
        """Start the daemon and wait until it enforces."""
        command: list[str | Path] = [COMMAND, "daemon", "--config", self._directory / "appguard.toml"]
        with self.server:
            self.daemon = self._started(Process("daemon", command, user=self.users.daemon))
        self.daemon.wait_for("daemon is up")
        if self._firewall == "nftables":
            wait_until(lambda: "appguard" in self.server.run("nft", "list", "tables"), 10, "the daemon made its table")

    def _start_redis(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
        with self.server:
            redis = self._started(Process("redis", command))
        redis.wait_for("Ready to accept connections")

    def _start_app(self) -> None:
        environment = {"APPGUARD_STORE": REDIS} if self._store == "redis" else {}
        if self._example == EXAMPLES["fastapi"]:
            options = ["--workers", str(WORKERS), "--port", "8000", "--no-proxy-headers", "--no-access-log"]
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "uvicorn",
                "--app-dir",
                self._example,
                *options,
                "app:app",
            ]
            started = "startup complete"
        else:
            options = ["--workers", str(WORKERS), "--bind", "127.0.0.1:8000", "--no-control-socket"]
            name = "app:app"
            if self._example == EXAMPLES["django"]:
                name = "app:application"
                environment["SHOP_DATABASE"] = str(self._directory / "nginx/shop.sqlite3")  # where www-data may write
                prepare = Process(
                    "prepare", [sys.executable, self._example / "app.py"], user=self.users.app, environment=environment
                )
                with running(prepare):
                    assert prepare.wait(60) == 0, prepare.output()
            command = [sys.executable, "-m", "gunicorn", "--chdir", self._example, *options, name]
            started = "Booting worker"
        with self.server:
            self.app = self._started(
                Process("app", command, user=self.users.app, environment=environment, directory=CHECKOUT)
            )
        wait_until(lambda: self.app.output().count(started) == WORKERS, 20, self._complaint)

    def _start_nginx(self) -> None:
        command: list[str | Path] = [
            "nginx",
            "-e",
            "stderr",
            "-p",
            self._directory,
            "-c",
            self._directory / "nginx.conf",
        ]
        with self.server:
            self.nginx = self._started(Process("nginx", command))
            wait_until(lambda: is_listening(80, SERVER4), 10, self._complaint)

    def _started(self, process: Process) -> Process:
        self._running.append(process)
        return process

    def command(self, *arguments: str) -> str:
        """Run `appguard` as root and give its output."""
        return self.server.run(str(COMMAND), *arguments)


@dataclass(frozen=True, slots=True)
class Drop:
    """How a series of failed logins ended: the answers, and when the first packet dropped by the kernel was sent."""

    answers: tuple[Answer, ...]
    dropped: float
    spacing: float

    @property
    def after_answer(self) -> float:
        """Give the seconds from the last 401 having come to the first dropped packet."""
        return self.dropped - self.answers[-1].received

    @property
    def after_guess(self) -> float:
        """Give the seconds from the last guess having been sent to the first dropped packet."""
        return self.dropped - self.answers[-1].sent


def guess_until_dropped(visitor: Visitor, server: Machine, attempts: Iterable[Callable[[], Answer]]) -> Drop:
    """Make failing attempts, each answered with 401, and wait until the kernel drops the visitor's packets."""
    with Probes(visitor.machine, visitor.source, server, visitor.host) as probes:
        answers = tuple(attempt() for attempt in attempts)
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {401}, f"every guess is answered with 401, not {statuses}"
        return Drop(answers, probes.first_dropped(5.0), probes.spacing())


def _make(path: Path, owner: User | None, mode: int) -> None:
    path.mkdir(mode=mode)
    path.chmod(mode)
    if owner:
        os.chown(path, owner.uid, owner.uid if owner.gid is None else owner.gid)


def _changed(text: str, pattern: str, new: str) -> str:
    """Replace what the example's file must hold."""
    changed, count = re.subn(pattern, new, text)
    assert count, f"{pattern} is not in the example any more"
    return changed
