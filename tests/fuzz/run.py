"""Lets atheris look for bytes that break a parser: each target in turn, a process each. See `scripts/fuzz`.

What it found is printed by atheris, with the bytes in a file; they belong into a test then.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOUND = Path("fuzz-found")  # in the working directory


def main() -> int:
    """Fuzz one target, or all; give 1 if any broke."""
    atheris: Any = importlib.import_module("atheris")  # only scripts/fuzz has it
    with atheris.instrument_imports(include=["appguard"]):
        fuzzed = importlib.import_module("tests.fuzz.targets")
        targets = fuzzed.TARGETS
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the parsers of bytes from outside.")
    parser.add_argument("target", nargs="?", choices=targets, metavar="TARGET", help=f"one of {', '.join(targets)}")
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="for each target (20)")
    given = parser.parse_args()
    if given.target is None:
        return fuzz_each(targets, given.seconds)
    FOUND.mkdir(exist_ok=True)
    with TemporaryDirectory() as corpus, targets[given.target]() as run:
        for number, piece in enumerate(fuzzed.pieces_of(given.target)):
            (Path(corpus) / str(number)).write_bytes(piece)
        options = [f"-max_total_time={given.seconds}", "-timeout=10", "-rss_limit_mb=4096", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={FOUND}/{given.target}-", corpus], run)
        atheris.Fuzz()  # ends the process
    return 0


def fuzz_each(targets: Any, seconds: int) -> int:
    """Fuzz all targets, and say how each came out."""
    broken: list[str] = []
    for name in targets:
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
        print(f"{name:<24}{runs:>12} runs  {'broken' if done.returncode else 'fine'}", flush=True)
        if done.returncode:
            broken.append(name)
            print(done.stdout[-4000:], done.stderr[-2000:], sep="\n", flush=True)
    print(f"broken: {', '.join(broken)}" if broken else "all fine")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
