"""What do visitors meet while Redis is refused, hung, killed, flushed or failed over, and how soon is it used again?

A FastAPI app on uvicorn, wrk with four connections for six seconds; Redis is away from the first to the third second.
"Needs no Redis" is the slowest request of a fifth connection to an exempt path: what the machine itself makes requests
wait. "In the app" is the slowest request there but for the two longest turns of the loop meanwhile, and "loop held" the
longest turn but for the time in which the app had no processor. Prints a table and writes JSON.
"""

import argparse
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.redis_down import Outage, outage

RESULT = Path(__file__).parent / "results/redis_down.json"
FATES = ("up", "refused", "hung", "killed", "flushed", "sentinel", "cluster")
HEAD = (
    *("requests", "failures", "median ms", "slowest ms", "needs no Redis", "in the app", "loop held"),
    *("attacks let in", "counts again after s"),
)


def run(fate: str) -> Outage:
    """Measure one outage."""
    with TemporaryDirectory() as directory:
        return outage(Path(directory), fate)


def report(outages: Mapping[str, Outage]) -> None:
    """Print the table."""
    print(" " * 8, "  ".join(HEAD))
    for fate, seen in outages.items():
        attacks = f"{seen.attacks_let_in} of {seen.attacks}"
        times = f"{seen.median_ms:9.1f}  {seen.slowest_ms:10.1f}  {seen.noise_ms:14.1f}"
        times += f"  {seen.waited_ms:10.1f}  {seen.held_ms:9.1f}"
        print(f"{fate:<8} {seen.requests:8}  {seen.failures:8}  {times}  {attacks:>14}  {seen.recovery:20.2f}")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fates", nargs="*", choices=[*FATES, []], metavar="FATE", help=f"of {', '.join(FATES)}")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    outages = {fate: run(fate) for fate in arguments.fates or FATES}
    report(outages)
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    rows = {fate: asdict(seen) for fate, seen in outages.items()}
    arguments.output.write_text(json.dumps({"host": host, "outages": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
