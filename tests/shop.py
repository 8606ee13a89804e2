"""The example shop with all of AppGuard, running for real on the server of a small internet.

nginx -> uvicorn or gunicorn with two workers as www-data -> the daemon as a user of its own with CAP_NET_ADMIN and
nothing else -> nftables: from the example's own files, of which only the places of log and state and the length of a
ban are changed. With `store="redis"` app and daemon share a Redis of the shop's own. `tests/contained_shop.py` and
`tests/balanced_shop.py` put the same parts elsewhere.
Where the lab has one user only (it was entered without root and without subordinate user ids), all run as that one.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from grp import getgrnam
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.internet import SERVER4
from tests.lab import Process, User, has_user, is_listening, running, wait_until
from tests.machine import Machine
from tests.redis_server import PROGRAM
from tests.visitor import Visitor

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
    """nginx, the app and the daemon. Use it as a context; `directory` and what is in it is made and removed.

    What other shops do in another way: `_settings`, `_site`, `_example`, `_prepare` and `_start`.
    """

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
        self.users = users()
        self._framework = app
        self._example = EXAMPLES[app]
        self._store = store
        self._firewall = firewall
        self._directory = directory
        self._bantime = bantime
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self._make_directories()
            self._prepare()
            self._write_settings()
            self._start()
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
        self._delete_table("appguard")  # a daemon that ends leaves its bans in the kernel
        for path in (RUNTIME, CONTROL, self._directory):
            shutil.rmtree(path, ignore_errors=True)

    def _delete_table(self, name: str) -> None:
        with self.server:
            subprocess.run(["nft", "delete", "table", "inet", name], stderr=subprocess.DEVNULL, check=False)

    def _complaint(self) -> str:
        return "\n".join(("the shop answers", *(f"{one.name}: {one.output()}" for one in self._running)))

    def _make_directories(self) -> None:
        """Make what packages and systemd make on a host, with the same owners and rights."""
        make(self._directory, None, 0o755)
        make(self._directory / "nginx", self.users.app, 0o700)
        make(self._directory / "log", None, 0o755)
        make(self._directory / "state", self.users.daemon, 0o700)
        make(RUNTIME, self.users.daemon, 0o755)
        make(CONTROL, self.users.daemon, 0o750)
        log = self._directory / "log/access.log"
        log.touch(0o640)
        if self.users.app:
            shutil.chown(log, self.users.app.uid, "adm")

    def _prepare(self) -> None:
        """Make what else there must be before the settings are written."""

    def _write_settings(self) -> None:
        (self._directory / "appguard.toml").write_text(self._settings())
        (self._directory / "nginx-site.conf").write_text(self._site())
        text = NGINX.format(directory=self._directory, process=self._nginx_user())
        (self._directory / "nginx.conf").write_text(text)

    def _nginx_user(self) -> str:
        return "user www-data;" if self.users.app else ""

    def _settings(self) -> str:
        """Give the daemon's settings: the example's, changed."""
        found = changed((self._example / "appguard.toml").read_text(), re.escape(LOG), self._log)
        found = changed(found, r'(?m)^bantime = "[^"]*"', f'bantime = "{self._bantime}"')
        found = changed(found, 'kind = "nftables"', f'kind = "{self._firewall}"')
        if self.users.app is None:
            found = changed(found, 'users = \\["www-data"\\]', 'users = ["0"]')
        store = f'store = "{REDIS}"\n' if self._store == "redis" else ""
        return f'state_directory = "{self._directory}/state"\n{store}{found}'

    def _site(self) -> str:
        """Give what nginx has in `http`: the example's, changed."""
        return changed((self._example / "nginx-site.conf").read_text(), re.escape(LOG), self._log)

    @property
    def _log(self) -> str:
        return f"{self._directory}/log/access.log"

    def _start(self) -> None:
        """Start all parts in their order."""
        if self._store == "redis":
            self._start_redis()
        self.start_daemon()
        self._start_app()
        self._start_nginx()

    def start_daemon(self) -> None:
        """Start the daemon and wait until it enforces."""
        command: list[str | Path] = [COMMAND, "daemon", "--config", self._directory / "appguard.toml"]
        with self.server:
            self.daemon = self._started(Process("daemon", command, user=self.users.daemon))
        self.daemon.wait_for("daemon is up")
        if self._firewall == "nftables":
            wait_until(lambda: "appguard" in self.server.run("nft", "list", "tables"), 10, "the daemon made its table")

    def _start_redis(self) -> None:
        command = [PROGRAM, "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
        with self.server:
            redis = self._started(Process("redis", command))
        redis.wait_for("Ready to accept connections")

    def _start_app(self) -> None:
        environment = {"APPGUARD_STORE": REDIS} if self._store == "redis" else {}
        if self._framework == "fastapi":
            command, started = uvicorn(self._example, "127.0.0.1"), "startup complete"
        elif self._framework == "django":
            environment["SHOP_DATABASE"] = str(self._directory / "nginx/shop.sqlite3")  # where www-data may write
            prepare: list[str | Path] = [sys.executable, self._example / "app.py"]
            with running(Process("prepare", prepare, user=self.users.app, environment=environment)) as preparing:
                assert preparing.wait(60) == 0, preparing.output()
            command, started = gunicorn(self._example, "app:application"), "Booting worker"
        else:
            command, started = gunicorn(self._example, "app:app"), "Booting worker"
        with self.server:
            self.app = self._started(
                Process("app", command, user=self.users.app, environment=environment, directory=CHECKOUT)
            )
        self._wait_for_workers(started)

    def _wait_for_workers(self, started: str) -> None:
        wait_until(lambda: self.app.output().count(started) == WORKERS, 20, self._complaint)

    def _start_nginx(self) -> None:
        self.nginx = self._run_nginx("nginx", self.server, self._directory, SERVER4)

    def _run_nginx(self, name: str, machine: Machine, directory: Path, address: str) -> Process:
        """Run nginx with the settings of a directory, until it listens on an address.

        Where there is one user only, nginx must not take itself for root, who would have to become another: it runs in
        a user namespace in which that one user has another number.
        """
        become = () if self.users.app else ("unshare", "--user", "--map-user=33", "--map-group=33")
        if become:
            machine.set("ipv4/ip_unprivileged_port_start", 0)
        with machine:
            process = self._started(Process(name, [*become, *nginx(directory)]))
            wait_until(lambda: is_listening(80, address), 10, self._complaint)
        return process

    def _started(self, process: Process) -> Process:
        self._running.append(process)
        return process

    def command(self, *arguments: str) -> str:
        """Run `appguard` as root and give its output."""
        return self.server.run(str(COMMAND), *arguments)

    def attempt(self, *arguments: str) -> tuple[int, str]:
        """Run `appguard` as root and give its exit code and what it says of errors."""
        with self.server:
            done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr


def uvicorn(example: Path, host: str) -> Sequence[str | Path]:
    """Give the command that runs an ASGI example."""
    options = ["--workers", str(WORKERS), "--host", host, "--port", "8000", "--no-proxy-headers", "--no-access-log"]
    return [sys.executable, "-m", "uvicorn", "--app-dir", example, *options, "app:app"]


def gunicorn(example: Path, name: str) -> Sequence[str | Path]:
    """Give the command that runs a WSGI example."""
    options = ["--workers", str(WORKERS), "--bind", "127.0.0.1:8000", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", "--chdir", example, *options, name]


def nginx(directory: Path) -> Sequence[str | Path]:
    """Give the command that runs nginx with the settings of a directory."""
    return ["nginx", "-e", "stderr", "-p", directory, "-c", directory / "nginx.conf"]


def make(path: Path, owner: User | None, mode: int) -> None:
    """Make a directory with an owner and rights."""
    path.mkdir(mode=mode)
    path.chmod(mode)
    if owner:
        os.chown(path, owner.uid, owner.uid if owner.gid is None else owner.gid)


def changed(text: str, pattern: str, new: str) -> str:
    """Replace what the example's file must hold."""
    changed, count = re.subn(pattern, new, text)
    assert count, f"{pattern} is not in the example any more"
    return changed
