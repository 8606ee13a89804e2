"""Is a ban lost when the daemon is killed at 200 random points, or seen late by an app? Some ten minutes."""

import argparse
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.daemon import Place, web_jail
from tests.killing import Kill, victims

LATE_MOST = 1.0  # seconds after which an app may see a ban for the first time, whatever happened
KILLS_OF_ONE = 20  # then another daemon begins, without bans


def kills(points: int, seed: int) -> Generator[Kill]:
    """Kill one daemon after another."""
    for first in range(0, points, KILLS_OF_ONE):
        with TemporaryDirectory() as directory:
            place = Place(Path(directory), None)
            place.configure(web_jail(place, {"bantime": -1, "bans_per_minute": 1_000_000}))
            with victims(place, seed + first) as those:
                for _ in range(min(KILLS_OF_ONE, points - first)):
                    yield those.kill()


def main() -> None:
    """Kill, and print what was lost; exit with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    committed = lost = unseen = 0
    latest = 0.0
    for number, kill in enumerate(kills(arguments.points, arguments.seed), 1):
        committed += kill.new
        lost += len(kill.lost)
        unseen += len(kill.unseen)
        latest = max(latest, kill.late)
        print(
            f"{number} kills, {committed} bans, {lost} lost, {unseen} unseen, the last seen after {latest:.2f} s",
            flush=True,
        )
    raise SystemExit(lost > 0 or unseen > 0 or latest > LATE_MOST)


if __name__ == "__main__":
    main()
