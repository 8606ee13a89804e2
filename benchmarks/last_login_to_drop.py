"""How long after the last failed login does the kernel drop the attacker's first packet?

Each trial is a new attacker at a new address who guesses five times at the example shop: nginx, uvicorn with two
workers, daemon and nftables as in the demonstration. The stages are in the order they happen; the packets are probes,
one about every 0.2 ms, so an answer is late by up to that and never early. Prints a table and writes JSON.
"""

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from tests.internet import SERVER4, Internet, Place
from tests.machine import Machine
from tests.shop import Shop
from tests.visitor import Visitor, guess_until_dropped

RESULT = Path(__file__).parent / "results/last_login_to_drop.json"
MAXRETRY = 5
STAGES = {
    "answered": "last guess sent -> its 401 received",
    "decided": "last guess sent -> the daemon logs the ban",
    "dropped": "last guess sent -> first packet dropped",
    "dropped_after_answer": "last 401 received -> first packet dropped",
}


def trial(shop: Shop, attacker: Machine, address: str) -> dict[str, float]:
    """Guess from a new address until dropped; give the milliseconds of each stage."""
    visitor = Visitor(attacker, SERVER4, address)
    attempts = [partial(visitor.log_in, "alice", f"guess{number}") for number in range(MAXRETRY)]
    drop = guess_until_dropped(visitor, shop.server, attempts)
    ban = shop.daemon.wait_for(f"[login] Ban {address}")
    last = drop.answers[-1]
    seconds = (last.received - last.sent, ban.time - last.sent, drop.after_guess, drop.after_answer)
    return {stage: 1000 * value for stage, value in zip(STAGES, seconds, strict=True)}


def trials(number: int) -> Iterator[dict[str, float]]:
    """Build the shop, and give one trial after the other."""
    addresses = [f"203.0.113.{host}" for host in range(2, 2 + number)]
    attacker = Place("attacker", tuple(f"{address}/24" for address in addresses))
    with Internet([attacker]) as internet, Shop(internet.server, Path("/run/shop")) as shop:
        for address in addresses:
            yield trial(shop, internet.machines["attacker"], address)


def report(results: list[dict[str, float]]) -> Mapping[str, object]:
    """Print the table and give what is to be written."""
    print(f"{len(results)} trials, milliseconds{'':<28} median     max")
    summary: dict[str, dict[str, float]] = {}
    for stage, title in STAGES.items():
        values = [result[stage] for result in results]
        summary[stage] = {"median_ms": median(values), "max_ms": max(values)}
        print(f"  {title:<46} {median(values):8.2f} {max(values):8.2f}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    return {"host": host, "stages": STAGES, "summary": summary, "trials": results}


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description="Measure last failed login to first dropped packet.")
    parser.add_argument("--trials", type=int, default=20, choices=range(1, 200), metavar="N")
    written = report(list(trials(parser.parse_args().trials)))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(written, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
