"""What does a rate limiter add to a request? AppGuard beside the limiters people use with FastAPI, Flask and Django.

Each site is a process of its own that calls its app without a server, in turns with the others, so that all see the
same machine; of each the best round counts, in processor time of that process, so waiting for Redis is not in it.
Every limiter has one limit by address and, where it can, its header fields. One table for requests that pass, one for
those over the limit, with every store; a limiter that does not refuse the sixth request of five is said to fail. The
peers are installed into an environment of their own: see peers.txt.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.redis_server import redis_server

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-peers/bin/python"  # made by scripts/bench of peers.txt
RESULT = ROOT / "benchmarks/results/peers.json"
WIDE, NARROW = "100000000/minute", "5/day"
REFUSED, FAILED = (403, 429), 500

PEERS = {
    "fastapi": [
        "slowapi (ASGI)",
        "slowapi",
        "fastapi-limiter",
        "throttled-py",
        "fastapi-guard, no detection",
        "fastapi-guard",
    ],
    "flask": ["Flask-Limiter", "Flask-Limiter, moving window"],
    "django": ["django-ratelimit"],
    "django login": ["django-axes (cache)", "django-axes (database)"],
}
"""As `peer_sites.SITES` has them; this process has not what it takes to import that."""


class Site:
    """A site in a child process."""

    def __init__(self, framework: str, name: str, store: str, limit: str) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        self.name = name
        self.best = float("inf")
        self._child = subprocess.Popen(
            [PYTHON, "-m", "benchmarks.peer_sites", framework, name, store, limit],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin is not None and self._child.stdout is not None
        self._asks, self._answers = self._child.stdin, self._child.stdout
        if self._answers.readline() != "ready\n":
            raise SystemExit(f"benchmarks/peers.py: {framework}, {name}: the site was not built, see above")

    def request(self, times: int) -> tuple[float, int]:
        """Make so many requests; give the seconds of one and the status of the last."""
        print(times, file=self._asks, flush=True)
        seconds, status = self._answers.readline().split()
        return float(seconds) / times, int(status)

    def close(self) -> None:
        """End the child."""
        self._asks.close()
        self._child.wait(10)


@contextmanager
def sites(framework: str, store: str, limit: str) -> Generator[list[Site]]:
    """Build all sites of a framework."""
    with ExitStack() as stack:
        built: list[Site] = []
        for name in ["bare", "AppGuard", *PEERS[framework]]:
            built.append(Site(framework, name, store, limit))
            stack.callback(built[-1].close)
        yield built


def measure(built: list[Site], rounds: int, seconds: float, *, refused: bool) -> None:
    """Let the sites take turns; the best round of each counts."""
    times: dict[str, int] = {}
    for site in built:
        statuses = [site.request(1)[1] for _ in range(6)]  # fills memos, and uses up a limit of five
        expected = refused and site.name != "bare"
        if (statuses[-1] in REFUSED) != expected or statuses[-1] >= FAILED:
            raise SystemExit(f"benchmarks/peers.py: {site.name} answered {statuses} to six requests")
        each, _ = site.request(20)
        times[site.name] = max(20, int(seconds / each))
    for _ in range(rounds):
        for site in built:
            each, _ = site.request(times[site.name])
            site.best = min(site.best, each)


def report(built: list[Site], **of: str) -> Iterator[Mapping[str, object]]:
    """Print a table and give its rows."""
    bare, ours = (next(site.best for site in built if site.name == name) for name in ("bare", "AppGuard"))
    print(f"\n{', '.join(of.values())}\n{'':32}{'us':>10}{'added':>10}{'of bare':>10}{'of ours':>10}")
    for site in built:
        added = site.best - bare
        ratios = f"{site.best / bare:9.2f}x{site.best / ours:9.2f}x"
        print(f"  {site.name:<30}{1e6 * site.best:10.1f}{1e6 * added:+10.1f}{ratios}", flush=True)
        yield of | {"name": site.name, "us": 1e6 * site.best, "added_us": 1e6 * added}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--framework", choices=PEERS, action="append", help="all of them, unless given")
    parser.add_argument("--store", choices=["memory", "redis"], action="append", help="both, unless given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a round")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows: list[Mapping[str, object]] = []
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as redis:
        for store in arguments.store or ["memory", "redis"]:
            for framework in arguments.framework or PEERS:
                for limit, what in ((WIDE, "passed"), (NARROW, "refused")):
                    redis.command("FLUSHALL")
                    uri = redis.uri if store == "redis" else "memory://"
                    with sites(framework, uri, limit) as built:
                        measure(built, arguments.rounds, arguments.seconds, refused=limit == NARROW)
                        rows += report(built, framework=framework, store=store, what=what)
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
