"""`local://` on a real server: gunicorn with four workers, a Flask app, and wrk. A limit holds for all together."""

import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Process, User, free_port, is_listening, running, wait_until

pytestmark = pytest.mark.lab

AMOUNT = 1500
WORKERS = 4
APP = User(33)
SITE = f"""
import os
from flask import Flask
from appguard.flask import AppGuard

app = Flask("shop")
AppGuard(app, limits=["{AMOUNT}/hour"], store=os.environ["STORE"], event_log="logger")
admitted = os.open("admitted", os.O_WRONLY | os.O_APPEND)

@app.get("/")
def home():
    os.write(admitted, b"%d\\n" % os.getpid())
    return "home"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A server and what its app has noted."""

    port: int
    server: Process
    directory: Path

    def admitted(self) -> Mapping[int, int]:
        """Give how many requests reached the app, by process."""
        pids = [int(line) for line in (self.directory / "admitted").read_text().split()]
        return {pid: pids.count(pid) for pid in set(pids)}

    def workers(self) -> list[int]:
        """Give the processes that serve now."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def load(self) -> Process:
        """Give a wrk that asks for the page as fast as it is answered, until it is stopped."""
        wrk = ["wrk", "-t1", "-c16", "-d120", "-H", "Connection: close", f"http://127.0.0.1:{self.port}/"]
        return Process("wrk", wrk)

    def wait_admitted(self, least: int) -> None:
        """Wait until so many requests have reached the app."""
        wait_until(lambda: sum(self.admitted().values()) >= least, 60, self.server.output)


@contextmanager
def site(directory: Path, store: str, *options: str) -> Generator[Site]:
    """Serve the app as an ordinary user."""
    port = free_port()
    (directory / "shop.py").write_text(SITE)
    (directory / "admitted").touch()
    os.chown(directory / "admitted", APP.uid, APP.uid)
    os.chown(directory, APP.uid, APP.uid)
    gunicorn = [sys.executable, "-m", "gunicorn", f"--workers={WORKERS}", "--threads=2", f"--bind=127.0.0.1:{port}"]
    command, environment = [*gunicorn, *options, "shop:app"], {"STORE": store, "HOME": str(directory)}
    with running(Process("gunicorn", command, user=APP, directory=directory, environment=environment)) as server:
        wait_until(lambda: is_listening(port), 10, server.output)
        found = Site(port, server, directory)
        wait_until(lambda: len(found.workers()) == WORKERS, 10, server.output)
        yield found


@pytest.mark.parametrize("options", [(), ("--preload",), ("--threads=1", "--max-requests=250")])
def test_limit_is_exact_over_all_workers(open_tmp_path: Path, options: tuple[str, ...]) -> None:
    """Four workers, replaced by new ones or not, admit together exactly the amount."""
    with site(open_tmp_path, "local://", *options) as shop:
        with running(shop.load()):
            shop.wait_admitted(AMOUNT)
            time.sleep(1)  # for more to come
        admitted = shop.admitted()
        assert sum(admitted.values()) == AMOUNT, shop.server.output()
        assert len(admitted) > 1
        assert "counts limits for itself" not in shop.server.output()


def test_without_sharing_each_worker_admits_the_amount(open_tmp_path: Path) -> None:
    """The load finds a limit that is not shared: with `memory://` every worker admits the whole amount."""
    with site(open_tmp_path, "memory://") as shop, running(shop.load()):
        shop.wait_admitted(2 * AMOUNT)


def test_killed_workers_do_not_widen_the_limit(open_tmp_path: Path) -> None:
    """Workers killed while wrk asks leave the limit as it is: the requests they were at are missing at most."""
    killed: set[int] = set()
    with site(open_tmp_path, "local://") as shop, running(shop.load()):
        for step in range(1, 6):
            shop.wait_admitted(step * 200)
            victim = next(pid for pid in shop.workers() if pid not in killed)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            wait_until(lambda: len({*shop.workers()} - killed) == WORKERS, 20, shop.server.output)
        shop.wait_admitted(AMOUNT - 2 * len(killed))
        time.sleep(1)  # for more to come
        assert sum(shop.admitted().values()) <= AMOUNT
