"""Is a ban lost when the daemon is killed at 200 random points, or seen late by an app? Some ten minutes."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.daemon import Place, web_jail
from tests.killing import victims


def main() -> None:
    """Kill, and print what was lost; exit with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    lost: set[str] = set()
    latest = 0.0
    with TemporaryDirectory() as directory:
        place = Place(Path(directory), None)
        place.configure(web_jail(place, {"bantime": -1, "bans_per_minute": 1_000_000}))
        with victims(place, arguments.seed) as those:
            for number in range(1, arguments.points + 1):
                kill = those.kill()
                lost |= kill.lost
                latest = max(latest, kill.late)
                print(f"{number} kills, {kill.committed} bans, {len(lost)} lost, seen after {latest:.2f} s", flush=True)
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
