"""A FastAPI app on uvicorn that counts in Redis, wrk in front of it, and a Redis that fails meanwhile."""

import json
import re
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from appguard.ban import Ban
from appguard.stores.redis_bans import RedisBanSet
from tests.lab import Process, free_port, is_listening, running, wait_until
from tests.redis_groups import Pair, cluster, sentinel_group
from tests.redis_server import RedisServer, redis_server

VISITOR, ATTACKER = "198.51.100.7", "203.0.113.5"
SECONDS = 6  # of load; Redis fails after one and is back after three
APP = """
import asyncio
import os
import threading
import time
from collections import deque
from fastapi import FastAPI
from appguard import AppGuard

DELAYS = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
NAP = 0.002

def delayed():
    "Seconds for which this thread could go on, ever, and had no processor: others have, of a busy machine."
    return int(os.pread(DELAYS, 64, 0).split()[1]) / 1e9

class Watch:
    "Notes how long a request waited, at most, and how long the loop had no turn, in seconds."

    waited = held = 0.0
    watching = None
    turns = deque(maxlen=1000)  # when each ended and how long it took

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if Watch.watching is None:
            Watch.watching = asyncio.create_task(self.watch_turns())
        begun = time.monotonic()
        await self.app(scope, receive, send)
        now = time.monotonic()
        if scope["type"] == "http" and now - begun > Watch.waited:
            turns = sorted([now - Watch.turns[-1][0], *(took for ended, took in Watch.turns if ended > begun)])
            Watch.waited = max(Watch.waited, now - begun - sum(turns[-2:]))

    async def watch_turns(self):
        while True:
            begun, delay = time.monotonic(), delayed()
            await asyncio.sleep(NAP)
            ended = time.monotonic()
            Watch.turns.append((ended, ended - begun))
            Watch.held = max(Watch.held, ended - begun - NAP - delayed() + delay)

app = FastAPI()
app.add_middleware(
    AppGuard, name="shop", limits=["10000000/hour"], store=os.environ["STORE"], trusted_proxies=["127.0.0.1"],
    event_log="logger", exempt_paths=["/exempt", "/watched"],
)
app.add_middleware(Watch)

@app.get("/")
@app.get("/exempt")
async def home():
    return "home"

@app.get("/watched")
async def watched():
    "Give what was noted since the last time."
    seen, Watch.waited, Watch.held = (Watch.waited, Watch.held), 0.0, 0.0
    return seen
"""
WRK_REPORT = """
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('report {"requests": %d, "failures": %d, "slowest_ms": %f, "median_ms": %f}\\n',
        summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
        latency.max / 1000, latency:percentile(50) / 1000))
end
"""


def watched(port: int) -> tuple[float, float]:
    """Give the longest wait of a request and the longest hold of the loop since the last time, in seconds."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/watched")
        waited, held = json.loads(connection.getresponse().read())
        return waited, held


@dataclass(frozen=True, slots=True)
class Outage:
    """What visitors met while Redis failed; `recovery` is the seconds until limits were counted in Redis again.

    `slowest_ms` is as wrk saw it, `noise_ms` the same of a visitor whose requests need no Redis: both hold what the
    machine makes wrk and the app wait. `waited_ms` is the longest a request was in the app but for the two longest
    turns of its loop meanwhile: when its time is over, the turn it is in must end, and the next one too. `held_ms` is
    the longest that such a turn took, but for the time in which the app had no processor.
    """

    requests: int
    failures: int
    median_ms: float
    slowest_ms: float
    noise_ms: float
    waited_ms: float
    held_ms: float
    attacks: int
    attacks_let_in: int
    recovery: float


class Attacker:
    """A banned client that asks without end, in a thread, and notes whether it is shut out."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._attack)
        self.attacks = self.let_in = 0

    def status(self) -> int:
        """Ask once; give the status of the answer."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/", headers={"X-Forwarded-For": ATTACKER})
            return connection.getresponse().status
        finally:
            connection.close()

    def _attack(self) -> None:
        while not self._is_over.wait(0.02):
            self.attacks += 1
            self.let_in += self.status() != 403

    @contextmanager
    def attacking(self) -> Generator[None]:
        """Ask for the length of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._thread.join()


@contextmanager
def site(directory: Path, uri: str) -> Generator[int]:
    """Serve the app; give its port once it enforces the attacker's ban."""
    (directory / "shop.py").write_text(APP)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--log-level=warning",
        "--no-proxy-headers",
        f"--port={port}",
        "shop:app",
    ]
    process = Process("uvicorn", command, directory=directory, environment={"STORE": uri})
    bans = RedisBanSet(uri)
    with running(process):
        try:
            bans.ban(Ban.of(ATTACKER, bantime="1h"))
            wait_until(lambda: is_listening(port), 10, process.output)
            wait_until(lambda: Attacker(port).status() == 403, 10, process.output)
            yield port
        finally:
            bans.close()


class Trouble:
    """One way for a Redis to fail, and where requests are counted before and after it."""

    def __init__(self, uri: str, server: RedisServer) -> None:
        self.uri = uri
        self.server = server

    def prepare(self) -> None:
        """Do what comes before the load."""

    def begin(self) -> None:
        """Let Redis fail."""

    def end(self) -> None:
        """Let it work again, if it does not by itself."""


class Refused(Trouble):
    """Down before the load."""

    def prepare(self) -> None:
        """End the server at once."""
        self.server.kill()

    def end(self) -> None:
        """Start it again."""
        self.server.start()


class Killed(Refused):
    """Down under load."""

    def prepare(self) -> None:
        """Do nothing yet."""

    def begin(self) -> None:
        """End the server at once."""
        self.server.kill()


class Hung(Trouble):
    """Accepts and does not answer."""

    def begin(self) -> None:
        """Stop the server where it is."""
        self.server.freeze()

    def end(self) -> None:
        """Let it go on."""
        self.server.thaw()


class Flushed(Trouble):
    """Loses all it holds."""

    def begin(self) -> None:
        """Empty the server."""
        self.server.command("FLUSHALL")


class FailedOver(Trouble):
    """The master dies, and its replica takes over by itself."""

    def __init__(self, uri: str, pair: Pair) -> None:
        super().__init__(uri, pair.replica)
        self._pair = pair

    def begin(self) -> None:
        """End the master at once."""
        self._pair.master.kill()


SINGLE: dict[str, type[Trouble]] = {
    "up": Trouble,
    "refused": Refused,
    "hung": Hung,
    "killed": Killed,
    "flushed": Flushed,
}


@contextmanager
def trouble(directory: Path, fate: str) -> Generator[Trouble]:
    """Run the servers that a fate needs for the length of the block."""
    if fate == "sentinel":
        with sentinel_group(directory) as group:
            yield FailedOver(group.uri, group)
    elif fate == "cluster":
        with cluster(directory) as shards:
            yield FailedOver(shards.uri, shards.shard_of(f"appguard:l:shop:{{{VISITOR}}}:"))
    else:
        with redis_server(directory) as server:
            yield SINGLE[fate](server.uri, server)


def counted(server: RedisServer) -> int:
    """Give how many requests the server has counted since its start, by itself or for its master."""
    found = re.findall(rb"cmdstat_(?:evalsha|eval):calls=(\d+)", server.command("INFO", "commandstats"))
    return sum(map(int, found))


def come_back(failed: Trouble) -> float:
    """Let Redis work again; give the seconds until requests are counted in it."""
    failed.end()
    begun = time.monotonic()
    enough = counted(failed.server) + 20  # more than what was sent before it hung
    wait_until(lambda: counted(failed.server) >= enough, 10, "nothing is counted in Redis again")
    return time.monotonic() - begun


def wrk(url: str, connections: int, script: Path) -> Process:
    """Ask for a page as fast as it is answered, as the visitor."""
    options = ["-t1", f"-c{connections}", f"-d{SECONDS}", f"-s{script}", "-H", f"X-Forwarded-For: {VISITOR}"]
    return Process("wrk", ["wrk", *options, url])


def report_of(load: Process) -> dict[str, float]:
    """Wait for the end of a load and give what it has to report."""
    assert load.wait(SECONDS + 10) == 0
    found: dict[str, float] = json.loads(load.wait_for("report ").text.removeprefix("report "))
    return found


def outage(directory: Path, fate: str) -> Outage:
    """Let wrk ask while Redis fails in one of the ways of `trouble`."""
    script = directory / "report.lua"
    script.write_text(WRK_REPORT)
    with trouble(directory, fate) as failing, site(directory, failing.uri) as port:
        url, attacker = f"http://127.0.0.1:{port}/", Attacker(port)
        failing.prepare()
        watched(port)
        with (
            running(wrk(url, 4, script)) as limited,
            running(wrk(f"{url}exempt", 1, script)) as exempt,
            attacker.attacking(),
        ):
            time.sleep(1)
            failing.begin()
            time.sleep(2)
            recovery = come_back(failing)
            report, noise = report_of(limited), report_of(exempt)
        waited, held = watched(port)
    return Outage(
        requests=int(report["requests"]),
        failures=int(report["failures"] + noise["failures"]),
        median_ms=report["median_ms"],
        slowest_ms=report["slowest_ms"],
        noise_ms=noise["slowest_ms"],
        waited_ms=1000 * waited,
        held_ms=1000 * held,
        attacks=attacker.attacks,
        attacks_let_in=attacker.let_in,
        recovery=recovery,
    )
