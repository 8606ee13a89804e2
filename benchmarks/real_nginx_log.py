"""How fast does the daemon count and ban from nginx's own log, and are its bans those that awk finds in it?

A real nginx writes both of its logs under wrk and curl: many clients, more than a third of the requests failures. One
daemon reads along, and one without memory reads the finished log from its beginning. Prints a table and writes JSON;
ends with an error if a client was banned that awk does not find, was not banned that it finds, or was banned twice.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from tests.daemon import running_daemon
from tests.traffic import AWK, Traffic, Watching, replay_seconds

RESULT = Path(__file__).parent / "results/real_nginx_log.json"
ROOT = Path("/run/real-nginx-log")


def measure(root: Path, form: str, lines: int) -> dict[str, float]:
    """Make the traffic, count it live and replayed, and give the figures of this form of log."""
    root.mkdir(parents=True)
    traffic = Traffic(root / "nginx")
    traffic.log(form).touch()
    live = Watching(root / "live", traffic.log(form), form)
    with traffic.nginx.running(), running_daemon(live.place) as daemon:
        begin = time.monotonic()
        traffic.drive(lines)
        written = time.monotonic()
        expected = traffic.count(form)
        live.must_find(expected, daemon, deadline=600)
        read = time.monotonic()
    replayed = replay_seconds(traffic, root / "replay", form)
    begin_awk = time.monotonic()
    traffic.count(form)
    return {
        "lines": expected.lines,
        "failures": expected.failures,
        "banned": len(expected.banned),
        "traffic_seconds": written - begin,
        "live_seconds_behind_the_traffic": read - written,
        "replay_seconds": replayed,
        "replay_lines_per_second": expected.lines / replayed,
        "awk_seconds": time.monotonic() - begin_awk,
    }


def main() -> None:
    """Measure both forms."""
    parser = argparse.ArgumentParser(description="Count and ban from nginx's own log.")
    parser.add_argument("--lines", type=int, default=100_000, metavar="N")
    lines = parser.parse_args().lines
    found: dict[str, dict[str, float]] = {}
    for form in AWK:
        try:
            found[form] = measure(ROOT / form, form, lines)
        finally:
            shutil.rmtree(ROOT, ignore_errors=True)
    for name in found["nginx"]:
        print(f"{name.replace('_', ' '):<34}" + "".join(f"{figures[name]:>14,.1f}" for figures in found.values()))
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count(), "nginx": nginx}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "forms": found}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
