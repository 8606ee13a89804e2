"""What does the slowest line cost? Lines of up to 8 KiB made to be slow, on our own filters and all of fail2ban's.

Each line is a sample that a filter reads, with a piece of it or of what regexes repeat again and again; its cost is
processor time, the least of some tries, none of a line seen before. Ends with an error if one costs more than 5 ms.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from appguard.filters.base import Filter
from appguard.filters.data_file import DataFilter
from appguard.filters.expression import LINE_SECONDS
from appguard.filters.open import FILTERS, open_filter
from appguard.filters.patience import Patience
from appguard.filters.regex import RegexFilter
from appguard.filters.samples import read_samples
from appguard.sources.base import LINE_MOST
from tests.compat.fail2ban_samples import find_layout, records
from tests.compat.test_fail2ban_cost import PIECES, filters

RESULT = Path(__file__).parent / "results/line_cost.json"
LINES = Path(__file__).parent.parent / "tests/lines"
LENGTHS = (200, 900, 2500, LINE_MOST)
TRIES = 5


def samples() -> Iterator[tuple[str, Filter, Sequence[bytes]]]:
    """Give each filter with lines that it knows."""
    for file in sorted(LINES.glob("*.txt")):
        read = read_samples(file)
        yield f"ours: {file.stem}", read.filter, [each.line for each in read.samples]
    known: dict[str, list[bytes]] = {}
    for record in records(find_layout()):
        known.setdefault(record.filter, []).append(record.line)
    for each in filters():
        yield f"fail2ban: {each.name}", each, known.get(each.name, [b"Nov 20 09:00:00 h x[1]: from 203.0.113.5"])


def made(lines: Sequence[bytes], chance: random.Random, count: int) -> Iterator[bytes]:
    """Give lines that may be slow."""
    for _ in range(count):
        line = chance.choice(lines)
        at = chance.randrange(len(line) + 1)
        piece = chance.choice((*PIECES, b" " + chance.choice(line.split() or [b"a"]), line[at : at + 3] or b" "))
        length = chance.choice(LENGTHS)
        yield (line[:at] + piece * (length // len(piece)) + line[at:])[:LINE_MOST]


def cost(chosen: Filter, line: bytes) -> float:
    """Give the least seconds of processor time that a line took."""
    best = float("inf")
    for number in range(TRIES):
        if isinstance(chosen, RegexFilter | DataFilter):
            chosen.patience = Patience(chosen.name)  # many slow lines would otherwise be given up sooner
        begin = time.process_time()
        chosen.match(line[: LINE_MOST - 3] + b"%d!" % number, 0.0)
        best = min(best, time.process_time() - begin)
        if best < LINE_SECONDS / 4:
            break
    return best


def main() -> None:
    """Measure all filters."""
    parser = argparse.ArgumentParser(description="Find the slowest line of each filter.")
    parser.add_argument("--lines", type=int, default=60, metavar="N", help="of each filter")
    chosen = parser.parse_args()
    assert {f"ours: {name}" for name in FILTERS} <= {name for name, _, _ in samples()}
    logging.getLogger("appguard").setLevel(logging.ERROR)  # lines that are skipped are what is looked for
    worst: dict[str, float] = {}
    for name, each, lines in samples():
        fresh = open_filter(each.name) if each.name in FILTERS else each
        worst[name] = max(cost(fresh, line) for line in made(lines, random.Random(name), chosen.lines))
    for name in sorted(worst, key=worst.__getitem__, reverse=True)[:8]:
        print(f"{name:<32}{1000 * worst[name]:>8.2f} ms")
    print(f"{len(worst)} filters, {chosen.lines} lines each: at most {1000 * max(worst.values()):.2f} ms")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"seconds": worst}, indent=2) + "\n")
    assert max(worst.values()) < LINE_SECONDS


if __name__ == "__main__":
    main()
