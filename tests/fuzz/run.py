"""Lets atheris look for bytes that break a parser: each target in turn, a process each. See `scripts/fuzz`.

What it found is printed by atheris, with the bytes in a file; they belong into a test then.
"""

import argparse
import importlib
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOUND = Path("fuzz-found")  # in the working directory
WORD_MOST = 64  # bytes of a text in a dictionary
SEEDS = 500


def main() -> int:
    """Fuzz one target, or all; give 1 if any broke."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the parsers of bytes from outside.")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="its name in tests/fuzz/targets.py; default: each")
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="for each target (20)")
    given = parser.parse_args()
    if given.target is None:
        return fuzz_each(given.seconds)
    atheris: Any = importlib.import_module("atheris")  # only scripts/fuzz has it
    with atheris.instrument_imports(include=["appguard"]):
        fuzzed = importlib.import_module("tests.fuzz.targets")
    if given.target not in fuzzed.TARGETS:
        parser.error(f"{given.target!r}: expected one of {', '.join(fuzzed.TARGETS)}")
    FOUND.mkdir(exist_ok=True)
    with TemporaryDirectory() as corpus, fuzzed.TARGETS[given.target]() as run:
        words = Path(corpus) / "words"
        seeds = write_corpus(fuzzed.pieces_of(given.target), Path(corpus), words)
        options = [f"-max_total_time={given.seconds}", "-timeout=10", "-rss_limit_mb=4096", "-print_final_stats=1"]
        options += [f"-dict={words}", f"-artifact_prefix={FOUND}/{given.target}-"]
        atheris.Setup([sys.argv[0], *options, str(seeds)], run)
        atheris.Fuzz()  # ends the process
    return 0


def write_corpus(pieces: Sequence[bytes], directory: Path, words: Path) -> Path:
    """Write the texts as a dictionary, and some inputs made of them into a directory of their own; give that."""
    escaped = ("".join(f"\\x{byte:02x}" for byte in piece) for piece in pieces if len(piece) <= WORD_MOST)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    seeds, chance = directory / "seeds", random.Random(0)
    seeds.mkdir()
    for number in range(SEEDS):
        (seeds / str(number)).write_bytes(b"".join(chance.choices(pieces, k=1 + number % 12)))
    return seeds


def fuzz_each(seconds: int) -> int:
    """Fuzz all targets, and say how each came out."""
    broken: list[str] = []
    for name in importlib.import_module("tests.fuzz.targets").TARGETS:
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
