"""What does it cost to count a request in `local://` counters, beside `memory://` and the `limits` package?

Microseconds of one check in this process, in turns of short rounds, of each the best; then the processor time of what
two busy threads of one process do between checks, with checks and without; then checks by several processes at once,
each on a client of its own and all on the same one. Prints a table and writes JSON.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
from appguard.stores.memory_counters import MemoryCounters

RESULT = Path(__file__).parent / "results/local_counters.json"
WIDE = "1000000000/minute"
THREE = tuple(Limit(WIDE, name=f"limit {number}") for number in range(3))
CLIENTS = 1_000
PROCESSES = (1, 2, 4)
PAGES, PAGE = 3_000, 3_000  # how many, and how many numbers each adds up
WORKER = """
import sys, time
from pathlib import Path
from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
counters, hit = LocalCounters("shop", Path(sys.argv[1])), [Hit(sys.argv[2], Limit("1000000000/minute"))]
counters.check(hit)
print("ready", flush=True)
sys.stdin.readline()
end, checks = time.monotonic() + 1.0, 0
while time.monotonic() < end:
    counters.check(hit)
    checks += 1
print(checks, flush=True)
"""

Round = Callable[[int], None]


def checking(counters: MemoryCounters | LocalCounters, requests: Sequence[Sequence[Hit]]) -> Round:
    """Give a round that checks these requests in turn."""

    def checks(times: int) -> None:
        for number in range(times):
            counters.check(requests[number % len(requests)])

    return checks


def hitting(strategy: type[FixedWindowRateLimiter | SlidingWindowCounterRateLimiter]) -> Round:
    """Give a round of hits of a strategy of `limits`."""
    limiter, rate = strategy(MemoryStorage()), parse(WIDE)

    def hits(times: int) -> None:
        for _ in range(times):
            limiter.hit(rate, "203.0.113.5")

    return hits


def variants(directory: Path) -> Mapping[str, Round]:
    """Give all that is measured in this process, by name."""
    local, memory = LocalCounters("shop", directory), MemoryCounters()
    refused = LocalCounters("refusing", directory)
    one = [[Hit("203.0.113.5 one", Limit(WIDE))]]
    many = [[Hit(f"192.0.{number // 250}.{number % 250} one", Limit(WIDE))] for number in range(CLIENTS)]
    three = [[Hit(f"203.0.113.5 {limit}", limit) for limit in THREE]]
    return {
        "memory, one limit": checking(memory, one),
        "local, one limit": checking(local, one),
        "memory, one limit, 1,000 clients": checking(memory, many),
        "local, one limit, 1,000 clients": checking(local, many),
        "memory, three limits": checking(memory, three),
        "local, three limits": checking(local, three),
        "local, refused": checking(refused, [[Hit("203.0.113.5 1/day", Limit("1/day"))]]),
        "limits, fixed window": hitting(FixedWindowRateLimiter),
        "limits, sliding window counter": hitting(SlidingWindowCounterRateLimiter),
    }


def best_of(rounds: Mapping[str, Round], number: int, times: int) -> dict[str, float]:
    """Let all take turns; give the microseconds of a check in the best round of each."""
    best = dict.fromkeys(rounds, float("inf"))
    for _ in range(number):
        for name, run in rounds.items():
            begun = time.perf_counter()
            run(times)
            best[name] = min(best[name], 1e6 * (time.perf_counter() - begun) / times)
    return best


def two_threads(check: Callable[[Sequence[Hit]], object] | None, number: int) -> float:
    """Give the microseconds of processor that a page of two busy threads takes, of so many rounds the median."""
    hit = [Hit("203.0.113.5 one", Limit(WIDE))]

    def work() -> None:
        for _ in range(PAGES):
            sum(range(PAGE))
            if check is not None:
                check(hit)

    taken: list[float] = []
    for _ in range(number):
        threads = [Thread(target=work) for _ in range(2)]
        begun = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken.append(1e6 * (time.process_time() - begun) / PAGES / 2)
    return median(taken)


def together(directory: Path, clients: Sequence[str]) -> float:
    """Give the checks per second of one process per client, all at once."""
    command = [sys.executable, "-c", WORKER, str(directory)]
    started = [
        subprocess.Popen([*command, f"{client} one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for client in clients
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=60)[0]) for process in started)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--times", type=int, default=20_000, help="checks in a round")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        best = best_of(variants(Path(directory)), arguments.rounds, arguments.times)
        busy = {
            "nothing": two_threads(None, arguments.rounds),
            "memory": two_threads(MemoryCounters().check, arguments.rounds),
            "local": two_threads(LocalCounters("threads", Path(directory)).check, arguments.rounds),
        }
        same = {number: together(Path(directory), ["203.0.113.5"] * number) for number in PROCESSES}
        apart = {
            number: together(Path(directory), [f"192.0.2.{each}" for each in range(number)]) for number in PROCESSES
        }
    floor = best["memory, one limit"]
    print(f"{'microseconds per check':<36} {'':>8} {'of memory':>10}")
    for name, cost in best.items():
        print(f"  {name:<34} {cost:8.2f} {cost / floor:10.2f}")
    print("a page of two busy threads, microseconds of processor")
    for name, cost in busy.items():
        print(f"  {name:<34} {cost:8.2f} {cost / busy['nothing']:10.2f}")
    print(f"{'local, processes at once':<36} {'one client':>12} {'one each':>12}   checks per second of all")
    for number in PROCESSES:
        print(f"  {number:<34} {same[number]:12,.0f} {apart[number]:12,.0f}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    result = {
        "host": host,
        "us": best,
        "two_threads_us": busy,
        "checks_per_second": {"one client": same, "one each": apart},
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
