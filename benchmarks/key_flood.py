"""What becomes of the memory store when a million strangers come, and of the client that is over its limit?

In this process, without a server: one client uses up its limit, then a million others (as many IPv6 /64s as one host
with a /44 has) send one request each. Prints what a check costs at the beginning and in the flood, how much memory is
held, and whether the offender was ever let in again. Writes JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path

from appguard.limit import Hit, Limit
from appguard.stores.memory import MemoryStore
from appguard.stores.memory_counters import KEYS_MOST

RESULT = Path(__file__).parent / "results/key_flood.json"
LIMIT = Limit("100/hour")


def stranger(number: int) -> list[Hit]:
    """Give the hit of one of many."""
    return [Hit(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64 {LIMIT}", LIMIT)]


def flood(store: MemoryStore, offender: list[Hit], begin: int, end: int) -> tuple[float, int]:
    """Let strangers come; give the microseconds of a check, and how often the offender was let in."""
    hits = [stranger(number) for number in range(begin, end)]
    begun = time.perf_counter()
    for hit in hits:
        store.check(hit)
    spent = 1e6 * (time.perf_counter() - begun) / len(hits)
    return spent, sum(store.check(offender).refused is None for _ in range(10))


def resident() -> int:
    """Give the bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strangers", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    before, store = resident(), MemoryStore()
    offender = [Hit(f"203.0.113.5 {LIMIT}", LIMIT)]
    for _ in range(100):
        store.check(offender)
    first, forgotten = flood(store, offender, 0, 10_000)
    steps = range(10_000, arguments.strangers, 50_000)
    spent = [flood(store, offender, begin, begin + 50_000) for begin in steps]
    forgotten += sum(times for _, times in spent)
    row: dict[str, object] = {
        "strangers": arguments.strangers,
        "keys_most": KEYS_MOST,
        "us_first": first,
        "us_flood": min(microseconds for microseconds, _ in spent),
        "megabytes_more": (resident() - before) / 1e6,
        "offender_let_in": forgotten,
    }
    for name, value in row.items():
        print(f"  {name:<18} {value:>14,.2f}")
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
