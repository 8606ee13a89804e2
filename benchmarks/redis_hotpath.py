"""What does AppGuard leave of an app's requests a second behind a real server, counting in Redis or on this host?

wrk with 64 connections asks, in short turns, all sites in order and back again so that all see the same machine, and
each round of processes started anew, because two of the same app differ by a twentieth from their start on. FastAPI on
uvicorn as `uvicorn[standard]` runs it, on uvloop and httptools: bare, with three limits counted in a Redis of its own
and told in the answers, and with every request refused; the first two on asyncio and h11 too. Flask on gunicorn with
four workers, as they are by default and with two threads each on connections that stay open: bare, and counting in the
table of `local://`, told, and once not told. Of each the median of its ratios to the bare app of the same round counts,
and the CPU time per request of the server's processes. Then it asks Redis how many commands the refused requests cost,
and checks that the workers let in exactly the amount.

What the three limits add to the CPU time of a request is too little to be seen well between two processes. So some more
processes serve the bare and the guarded app by turns of half a second, and the mean difference is told with its
standard error. Last, in this process: the CPU time of the call to the store alone, with 64 callers at once. Prints a
table and writes JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from appguard import AppGuard
from appguard.limit import Hit, Limit
from appguard.stores.redis import RedisStore
from benchmarks.middleware_cost import bare, receive, scope, send
from tests.lab import Process, free_port, running, wait_until
from tests.redis_server import RedisServer, redis_server

RESULT = Path(__file__).parent / "results/redis_hotpath.json"
CONNECTIONS = 64
EXACT = 1_000  # what the four workers may let in together
TICKS = os.sysconf("SC_CLK_TCK")
APPS = """
import json
import os
import random
import time
from pathlib import Path
from fastapi import FastAPI
from flask import Flask
from appguard import AppGuard, Limit
from appguard.wsgi import AppGuard as WsgiAppGuard

store = os.environ.get("STORE", "memory://")
options = {"store": store, "event_log": str(Path(__file__).with_name("events"))}
limits = [Limit("1000000000/minute", name=name) for name in ("minute", "second", "third")]

bare = FastAPI()

@bare.get("/")
async def home():
    return {"hello": "world"}

passed = AppGuard(bare, name="passed", limits=limits, **options)
refused = AppGuard(bare, name="refused", limits=["1/hour"], **options)

class Turns:
    # Serves each of some apps for a while, in an order drawn anew each time; at /turns it tells what each has cost.
    def __init__(self, *apps):
        self.apps, self.costs, self.to_come = apps, [[0.0, 0] for _ in apps], []
        self.turn, self.begun, self.cpu, self.requests = 0, 0.0, 0.0, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            if scope["path"] == "/turns":
                self.begun = 0.0  # what has been counted of this turn is dropped
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": json.dumps(self.costs).encode()})
                return
            now = time.monotonic()
            if now > self.begun + 0.5:
                self.end_turn(now)
            self.requests += 1
        await self.apps[self.turn](scope, receive, send)

    def end_turn(self, now):
        cpu = time.process_time()
        if now < self.begun + 0.55:  # else nobody has asked meanwhile
            cost = self.costs[self.turn]
            cost[0] += cpu - self.cpu
            cost[1] += self.requests
        if not self.to_come:
            self.to_come = random.sample(range(len(self.apps)), len(self.apps))
        self.turn, self.begun, self.cpu, self.requests = self.to_come.pop(), now, cpu, 0

turns = Turns(bare, passed)

bare_flask = Flask("bare")
bare_flask.add_url_rule("/", "home", lambda: {"hello": "world"})
local_flask = WsgiAppGuard(bare_flask.wsgi_app, name="local", limits=limits[:1], **options)
silent_flask = WsgiAppGuard(bare_flask.wsgi_app, name="silent", limits=limits[:1], headers="none", **options)
exact_flask = WsgiAppGuard(bare_flask.wsgi_app, name="exact", limits=[os.environ.get("EXACT", "1/hour")], **options)
"""
WRK_REPORT = """
function done(summary, latency, requests)
    io.write(string.format('report {"requests": %d, "refused": %d, "microseconds": %d, "p99_ms": %f}\\n',
        summary.requests, summary.errors.status, summary.duration, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True, slots=True)
class Site:
    """An app behind a server: gunicorn if it has workers, else uvicorn, `is_plain` without what `standard` brings.

    A worker without `threads` is gunicorn's usual one: a request at a time, and a connection for each.
    """

    name: str
    app: str
    bare: str = ""  # the name of the site it is compared with
    workers: int = 0
    threads: int = 0
    is_plain: bool = False
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of a site."""

    name: str
    port: int
    process: Process


@dataclass(frozen=True, slots=True)
class Turn:
    """What was measured of a site in one turn."""

    requests: int
    refused: int
    seconds: float
    cpu_seconds: float
    p99: float  # milliseconds


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured of a site in each round."""

    rates: list[float] = field(default_factory=lambda: list[float]())
    cpu: list[float] = field(default_factory=lambda: list[float]())  # microseconds per request
    p99: list[float] = field(default_factory=lambda: list[float]())  # milliseconds

    def add(self, turns: Sequence[Turn]) -> None:
        """Note the turns of a round."""
        requests = sum(turn.requests for turn in turns)
        self.rates.append(requests / sum(turn.seconds for turn in turns))
        self.cpu.append(sum(turn.cpu_seconds for turn in turns) / requests * 1e6)
        self.p99.append(statistics.mean(turn.p99 for turn in turns))


SITES = (
    Site("uvicorn + FastAPI", "bare"),
    Site("  3 limits in Redis, told", "passed", "uvicorn + FastAPI"),
    Site("  everything refused", "refused", "uvicorn + FastAPI", refuses=True),
    Site("without uvloop, httptools", "bare", is_plain=True),
    Site("  3 limits in Redis, told, plain", "passed", "without uvloop, httptools", is_plain=True),
    Site("gunicorn + Flask, 4 workers", "bare_flask", workers=4),
    Site("  a limit in local://, told", "local_flask", "gunicorn + Flask, 4 workers", workers=4),
    Site("  the same, not told", "silent_flask", "gunicorn + Flask, 4 workers", workers=4),
    Site("with 2 threads each", "bare_flask", workers=4, threads=2),
    Site("  a limit in local://, threads", "local_flask", "with 2 threads each", workers=4, threads=2),
)
TURNS_SITE = Site("by turns", "turns")
EXACT_SITE = Site("exact", "exact_flask", workers=4, threads=2)


def children(pid: int) -> list[int]:
    """Give a process and all its descendants."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in listed for each in children(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Give the CPU time that a process and its descendants have used."""
    total = 0
    for each in children(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def answers(port: int) -> bool:
    """Say whether a server answers: gunicorn listens before its workers have begun.

    It is asked from another address than wrk's, or that would count against a limit.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=10, source_address=("127.0.0.2", 0))
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status > 0
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def served(directory: Path, site: Site, store: str) -> Generator[Server]:
    """Serve a site for the length of the block."""
    port = free_port()
    if site.workers:
        words = ["gunicorn", "--log-level=error", f"--workers={site.workers}", f"--bind=127.0.0.1:{port}"]
        words += [f"--threads={site.threads}"] if site.threads else []
        words += [f"apps:{site.app}"]
    else:
        words = [
            "uvicorn",
            "--log-level=error",
            "--no-access-log",
            "--no-proxy-headers",
            *(["--loop=asyncio", "--http=h11"] if site.is_plain else ["--loop=uvloop", "--http=httptools"]),
            f"--port={port}",
            f"apps:{site.app}",
        ]
    environment = {"STORE": store, "EXACT": f"{EXACT}/hour", "XDG_RUNTIME_DIR": str(directory)}  # where tables lie
    process = Process(site.name, [sys.executable, "-m", *words], directory=directory, environment=environment)
    with running(process):
        wait_until(lambda: answers(port), 60, process.output)
        yield Server(site.name, port, process)


def wrk(server: Server, script: Path, seconds: int, connections: int = CONNECTIONS) -> dict[str, float]:
    """Ask for a page as fast as it is answered; give wrk's report."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"-s{script}", f"http://127.0.0.1:{server.port}/"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.partition("report ")[2])
    return found


def take_turn(server: Server, script: Path, seconds: int) -> Turn:
    """Measure one turn of a server."""
    before = cpu_seconds(server.process.pid)
    report = wrk(server, script, seconds)
    used = cpu_seconds(server.process.pid) - before
    assert report["requests"], f"{server.name} does not answer:\n{server.process.output()}"
    return Turn(int(report["requests"]), int(report["refused"]), report["microseconds"] / 1e6, used, report["p99_ms"])


def script_calls(redis: RedisServer) -> int:
    """Give how many scripts the Redis has run."""
    found = re.findall(rb"cmdstat_(?:evalsha|eval):calls=(\d+)", redis.command("INFO", "commandstats"))
    return sum(map(int, found))


async def calling(call: Callable[[], Awaitable[object]], times: int) -> float:
    """Give the CPU microseconds of a call when 64 callers make it again and again, at best."""

    async def caller(number: int) -> None:
        for _ in range(number):
            await call()

    await caller(100)
    best = float("inf")
    for _ in range(10):
        begun = time.process_time()
        await asyncio.gather(*(caller(times // CONNECTIONS) for _ in range(CONNECTIONS)))
        best = min(best, (time.process_time() - begun) / times * 1e6)
    return best


async def in_process(uri: str, directory: Path, times: int = 6_400) -> dict[str, float]:
    """Give the CPU microseconds of a request under three limits in Redis: of the store call, and of the whole guard."""
    limits = [Limit("1000000000/minute", name=name) for name in ("one", "two", "three")]
    store = RedisStore(uri, "alone", directory=directory)
    hits = tuple(Hit(f"203.0.113.5 {limit.name}", limit) for limit in limits)
    guarded = AppGuard(bare, name="guarded", limits=limits, store=uri, event_log=str(directory / "events"))
    one = scope()
    try:
        call = await calling(lambda: store.check_async(hits), times)
        alone = await calling(lambda: bare(dict(one), receive, send), times)
        whole = await calling(lambda: guarded(dict(one), receive, send), times)
    finally:
        await store.close_async()
        middleware = guarded._middleware  # pyright: ignore[reportPrivateUsage]
        assert middleware is not None
        await middleware.close_async()
    return {"store_call_us": call, "guard_us": whole - alone}


def by_turns(directory: Path, redis: RedisServer, script: Path, processes: int, seconds: int) -> list[float]:
    """Give the CPU microseconds that three limits in Redis add to a request, as each of some processes has it."""
    added: list[float] = []
    for _ in range(processes):
        with served(directory, TURNS_SITE, redis.uri) as server:
            costs: list[list[tuple[float, int]]] = []
            calls: list[int] = []
            for length in (1, seconds):
                wrk(server, script, length)
                calls.append(script_calls(redis))
                with urlopen(f"http://127.0.0.1:{server.port}/turns") as answer:
                    costs.append(json.load(answer))
        used, requests = ([after[at] - before[at] for before, after in zip(*costs, strict=True)] for at in (0, 1))
        assert calls[1] - calls[0] >= 0.99 * requests[1], "not all requests under limits were counted in Redis"
        added.append((used[1] / requests[1] - used[0] / requests[0]) * 1e6)
    return added


def rows(sites: Sequence[Site], measured: Mapping[str, Rounds]) -> list[dict[str, object]]:
    """Print the table and give its rows."""
    found: list[dict[str, object]] = []
    print(f"{'':<34}{'requests/s':>12}{'of bare':>9}{'quartiles':>12}{'CPU us':>9}{'added':>8}{'p99 ms':>8}")
    for site in sites:
        rounds, bare = measured[site.name], measured[site.bare or site.name]
        ratios = [mine / its for mine, its in zip(rounds.rates, bare.rates, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, method="inclusive")
        added = statistics.median(mine - its for mine, its in zip(rounds.cpu, bare.cpu, strict=True))
        rate, cpu, p99 = (statistics.median(each) for each in (rounds.rates, rounds.cpu, rounds.p99))
        between = f"{low:.2f}-{high:.2f}"
        print(f"  {site.name:<32}{rate:12.0f}{ratio:9.3f}{between:>12}{cpu:9.1f}{added:8.1f}{p99:8.1f}")
        row = {"name": site.name, "rate": rate, "of_bare": ratio, "cpu_us": cpu, "added_us": added, "p99_ms": p99}
        found.append({**row, "rates": rounds.rates})
    return found


def measure(directory: Path, sites: Sequence[Site], rounds: int, seconds: int, processes: int) -> dict[str, object]:
    """Measure sites, print and give what was found."""
    (directory / "apps.py").write_text(APPS)
    script = directory / "report.lua"
    script.write_text(WRK_REPORT)
    local, measured = f"local://{directory}", {site.name: Rounds() for site in sites}
    refused = commands = 0
    with ExitStack() as stack:
        redis, other_redis = (stack.enter_context(redis_server(directory)) for _ in range(2))
        for _ in range(rounds):
            turns: dict[str, list[Turn]] = {site.name: [] for site in sites}
            with ExitStack() as round_:
                servers = [
                    round_.enter_context(
                        served(directory, site, local if site.workers else (other_redis if site.refuses else redis).uri)
                    )
                    for site in sites
                ]
                for server in servers:
                    wrk(server, script, 1)
                forth = [*zip(sites, servers, strict=True)]
                for site, server in [*forth, *reversed(forth)]:
                    before = script_calls(other_redis)
                    turns[site.name].append(take_turn(server, script, seconds))
                    if site.refuses:
                        refused += turns[site.name][-1].refused
                        commands += script_calls(other_redis) - before
            for name, its in turns.items():
                measured[name].add(its)
        found = rows(sites, measured)
        if refused:
            print(f"  {refused} requests refused, which cost {commands} commands of Redis (INFO commandstats)")
            stats = other_redis.command("INFO", "commandstats").decode()
            print("  " + re.sub(r"(?m)^(?!cmdstat_eval).*\n?", "", stats).strip())
        exact = stack.enter_context(served(directory, EXACT_SITE, local))
        report = wrk(exact, script, 2)
        let_in = int(report["requests"] - report["refused"])
        print(f"  four workers let in {let_in} of {int(report['requests'])} requests; the limit is {EXACT}")
        added: list[float] = []
        if any(not site.workers for site in sites):
            added = by_turns(directory, redis, script, processes, 12)
            mean, error = statistics.mean(added), statistics.stdev(added) / len(added) ** 0.5
            print(f"  by turns in one process, CPU us: 3 limits in Redis add {mean:.1f} (standard error {error:.1f})")
        own = asyncio.run(in_process(redis.uri, directory))
        print(
            f"  in process, CPU us: the whole guard {own['guard_us']:.1f}, of which the call {own['store_call_us']:.1f}"
        )
    return {"rows": found, "refused": refused, "commands": commands, "let_in": let_in, "by_turns_us": added, **own}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=("uvicorn", "gunicorn"), help="measure the sites of one only")
    parser.add_argument("--rounds", type=int, default=11, help="two at least")
    parser.add_argument("--seconds", type=int, default=1, help="of a turn, of which there are two in a round")
    parser.add_argument("--processes", type=int, default=9, help="that serve by turns, two at least")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        sites = [site for site in SITES if arguments.server in (None, "gunicorn" if site.workers else "uvicorn")]
        found = measure(Path(directory), sites, arguments.rounds, arguments.seconds, arguments.processes)
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
