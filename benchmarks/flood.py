"""Does the daemon lose or double lines of a log written faster than it reads, through rotations, and does it recover?

A program writes numbered lines at a given rate for a while and rotates the log by renaming; one line in a hundred is a
failure of an address of its own. Then the daemon reads what is left. Prints lag and memory as they go, and writes JSON;
ends with an error if a line was lost or counted twice, or the memory went over its ceiling.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path

from tests.flood import MEMORY_MOST, Flood

RESULT = Path(__file__).parent / "results/flood.json"
ROOT = Path("/var/tmp/appguard-flood")  # not a file system in memory


def main() -> int:
    """Measure one flood."""
    parser = argparse.ArgumentParser(description="Flood a watched log through rotations.")
    parser.add_argument("--rate", type=int, default=200_000, metavar="LINES", help="lines a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rotations", type=int, default=8)
    given = parser.parse_args()
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    ROOT.chmod(0o755)
    try:
        found = Flood(ROOT, given.rate, given.seconds, given.rotations).run(patience=1800, tell=print)
    finally:
        shutil.rmtree(ROOT, ignore_errors=True)
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<34}{value:>14,.{0 if value == int(value) else 1}f}")
    print(f"{'memory ceiling megabytes':<34}{MEMORY_MOST / 2**20:>14,.0f}")
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "flood": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")
    is_exact = not found["lost"] and not found["doubled"] and found["lines_read"] == found["lines"]
    return int(not is_exact or found["memory_peak_megabytes"] * 2**20 > MEMORY_MOST)


if __name__ == "__main__":
    sys.exit(main())
