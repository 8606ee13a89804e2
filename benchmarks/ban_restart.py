"""How long after a restart does the kernel hold all bans of before, and how long do new attackers wait meanwhile?

The whole daemon from its start on, or daemon and bouncer apart, started together; with a kernel that holds nothing, as
after a boot, and with one that still holds all bans. Prints a line for each and how it compares to the first, and
writes JSON.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from appguard.firewalls.netlink import keeping
from appguard.firewalls.nft_messages import second_table, table_identity
from appguard.firewalls.nftables import TABLE
from benchmarks.ban_latency import OLD, bans, summary, text
from tests.daemon import DAEMON, Place, web_jail
from tests.lab import Process, User, wait_until
from tests.netns import holds, run

RESULT = Path(__file__).parent / "results/ban_restart.json"
SECOND = second_table(TABLE)
LONGEST = 600.0  # seconds, that a million may take
SAMPLE = 999  # of so many bans one is looked for
APART = '[firewall]\nkind = "apart"\n'
WITHOUT_RIGHTS, BOUNCER = User(4711), User(4712, groups=(4711, 0), capabilities=("net_admin",))
TARGET = "protected after 2 s, and new attackers meanwhile banned within 50 ms, with 100 000 bans"
KINDS: Mapping[str, tuple[bool, bool]] = {  # whether the kernel holds all, and whether the bouncer is apart
    "cold": (False, False),
    "warm": (True, False),
    "apart_cold": (False, True),
    "apart_warm": (True, True),
}


def restart(number: int, *, warm: bool, apart: bool = False) -> dict[str, float]:
    """Measure the whole daemon from its start to a kernel that holds all its bans of before, while attackers come.

    `warm`: the kernel still holds them. `apart`: daemon and bouncer are two processes, started together. Attackers come
    one after the other, each with one line in a log, from the first that is banned on: before, the program is loading.
    """
    with TemporaryDirectory() as name, TemporaryDirectory() as compiled, keeping():
        Path(name).chmod(0o755)
        Path(compiled).chmod(0o777)
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
        place = Place(Path(name), WITHOUT_RIGHTS if apart else DAEMON)
        place.configure(web_jail(place, {"maxretry": 1, "bantime": "1h"}), APART if apart else "")
        place.remember(bans(number))
        daemon, *others = started(place, apart=apart)  # once before: so its modules are compiled
        wait_until(lambda: holds(text(0, OLD)), LONGEST, daemon.output)
        daemon.wait_for("AppGuard daemon is up", LONGEST)
        stop(daemon, *others)
        if not warm:
            run("nft", "flush ruleset")
        began = time.perf_counter()
        daemon, *others = started(place, apart=apart)
        try:
            latencies, protected, spent = attack(place, [daemon, *others], number, began)
            daemon.wait_for("AppGuard daemon is up", LONGEST)
            restored = time.perf_counter() - began
        finally:
            stop(daemon, *others)
        assert all(holds(text(each, OLD)) for each in range(0, number, SAMPLE))
    run("nft", "flush ruleset")
    found = {"protected_s": protected, "protected_cpu_s": spent, "restored_s": restored, "attackers": len(latencies)}
    found |= summary(latencies)
    who, kernel = "daemon and bouncer apart" if apart else "the daemon", "holds them" if warm else "empty"
    print(
        f"restart of {who} with {number} bans, kernel {kernel}: protected after {protected:.2f} s "
        f"({spent:.2f} s of CPU), all restored after {restored:.2f} s; {len(latencies)} new attackers meanwhile: "
        f"median {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, max {found['max_ms']:.1f} ms"
    )
    return found


def started(place: Place, *, apart: bool) -> list[Process]:
    """Start the daemon and, if it is to be apart, the bouncer."""
    if not apart:
        return [place.start(is_up=False)]
    command = [sys.executable, "-m", "appguard", "bouncer", "--config", str(place.config)]
    return [place.start(is_up=False), Process("bouncer", command, user=BOUNCER)]


def stop(*processes: Process) -> None:
    """Stop all."""
    for process in processes:
        process.stop()


Attack = tuple[list[float], float, float]  # their milliseconds, when the kernel held all, and CPU seconds until then


def spent_by(processes: Sequence[Process]) -> float:
    """Give the seconds of CPU that processes have taken."""
    found = 0.0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def attack(place: Place, processes: Sequence[Process], bans_before: int, began: float) -> Attack:
    """Have new attackers come until all bans are back."""
    latencies: list[float] = []
    protected = spent = 0.0
    daemon = processes[0]
    for number in count():
        if not protected and all(is_held(text(each, OLD)) for each in range(0, bans_before, SAMPLE)):
            protected, spent = time.perf_counter() - began, spent_by(processes)
        if "AppGuard daemon is up" in daemon.output() and protected and table_identity(SECOND) is None:
            return latencies[1:], protected, spent
        written = time.perf_counter()
        place.append(text(number))
        wait_until(lambda: is_held(text(number)), LONGEST, daemon.output)  # noqa: B023 - it is over before the next
        latencies.append(1000 * (time.perf_counter() - written))
    raise AssertionError


def is_held(address: str) -> bool:
    """Say whether the kernel shuts an address out, by the table or by the second one while that is made anew."""
    return holds(address) or holds(address, SECOND)


def main() -> None:
    """Measure restarts of all kinds, or of one."""
    parser = argparse.ArgumentParser(description="Measure restarts.")
    parser.add_argument("--bans", type=int, default=100_000, metavar="N")
    parser.add_argument("--only", choices=KINDS, help="measure one of them")
    asked = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for kind, (warm, apart) in KINDS.items():
        if asked.only in (None, kind):
            found[kind] = each = restart(asked.bans, warm=warm, apart=apart)
            first = next(iter(found.values()))
            print(f"  {each['protected_s'] / first['protected_s']:.2f} of the first's time until protected")
    print(f"target: {TARGET}")
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": machine, "target": TARGET, "restarts": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
