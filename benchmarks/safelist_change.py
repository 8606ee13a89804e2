"""How long does the daemon's other work wait when the safelist changes while very many addresses are banned?

A daemon runs with its bans in the lab's kernel, and the safelist is changed by the command, so that all bans are judged
and given to the kernel anew. Prints the longest turn of the event loop in processor time, beside that of an idle one,
and writes JSON.
"""

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory

from appguard.ban import Ban
from appguard.config import daemon_config
from appguard.daemon import Daemon
from appguard.footing import settle_memory
from tests.daemon import Place, in_kernel, web_jail

RESULT = Path(__file__).parent / "results/safelist_change.json"
TARGET = 50.0  # milliseconds
WATCHED = 3.0  # seconds
CHANGES = ("add", "198.51.100.7"), ("add", "198.51.100.8"), ("add", "11.0.3.0/24"), ("remove", "11.0.3.0/24")
WHY = "--reason", "benchmark"


async def longest_turn(place: Place, verb: Sequence[str]) -> float:
    """Give the milliseconds of processor time of the longest turn while a verb of the command is carried out."""
    until, longest = time.monotonic() + WATCHED, 0.0
    asked = asyncio.ensure_future(asyncio.to_thread(place.run, *verb))
    while time.monotonic() < until or not asked.done():
        began = time.thread_time()
        await asyncio.sleep(0.001)
        longest = max(longest, time.thread_time() - began)
    done = asked.result()
    assert done.returncode == 0, done.stderr
    return longest * 1000


async def measured(place: Place, bans: int) -> dict[str, float]:
    """Run a daemon that has so many bans; give the longest turn by what was asked of it."""
    running = asyncio.ensure_future(Daemon(daemon_config(place.config)).run())
    while len(await asyncio.to_thread(in_kernel)) < bans:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(1)
    await asyncio.sleep(WATCHED)
    found = {"status": await longest_turn(place, ("status",))}
    for change in CHANGES:
        found[" ".join(change)] = await longest_turn(place, ("safelist", *change, *(WHY if change[0] == "add" else ())))
    running.cancel()
    await asyncio.wait([running])
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bans", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    settle_memory()
    with TemporaryDirectory() as directory:
        place = Place(Path(directory), None)
        place.configure(web_jail(place, {"bantime": "1h"}))
        now = time.time()
        networks = (IPv4Network((0x0B000000 + number, 32)) for number in range(arguments.bans))
        place.remember([Ban(network, "nginx", now, now + 36_000, automatic=True) for network in networks])
        found = asyncio.run(measured(place, arguments.bans))
    idle = found["status"]
    for what, longest in found.items():
        print(f"  {what:<24} {longest:8.1f} ms   {longest / idle:6.1f} times idle   target {TARGET:g}")
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"bans": arguments.bans, "target": TARGET, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
