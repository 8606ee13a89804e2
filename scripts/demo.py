"""The demonstration: attackers guess passwords in the example shop, and are shut out.

Runs in the lab, with the small internet and the shops of `tests/`; what is shown stands in `demos/`. Everything printed
was observed; what was expected and not observed ends the demonstration with exit code 1.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from scripts.demos import balancer, docker_like, one_server
from scripts.demos.sections import BANTIME, Demonstration
from scripts.demos.timeline import Timeline
from tests.shop import EXAMPLES, STORES


def keep(hints: Sequence[str]) -> None:
    """Stay up until the user has seen enough: in a shell, or without a terminal until a signal."""
    print(f"Everything stays up. Try, as often as you like (a ban lasts {BANTIME:g} s):", *hints, sep="\n  ")
    if sys.stdin.isatty():
        print("This is a shell inside the lab; leave it with exit.", flush=True)
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "lab# "}
        subprocess.run(["bash", "--norc"], env=environment, check=False)
    else:
        print("There is no terminal: stop it with SIGINT or SIGTERM.", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; end with 2 if it asks for what there is not."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="A failed login becomes a kernel drop.")
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, to try it by hand")
    parser.add_argument("--app", choices=EXAMPLES, default="fastapi", help="the framework of the example shop")
    parser.add_argument("--store", choices=STORES, default="local", help="where bans and counters are kept")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--docker-like", action="store_true", help="the app in a container whose port is published")
    where.add_argument("--balancer", action="store_true", help="a load balancer in front, so that nginx enforces")
    options = parser.parse_args(arguments)
    if (options.docker_like or options.balancer) and (options.app, options.store) != ("fastapi", "local"):
        parser.error("--docker-like and --balancer are shown with --app fastapi and --store local only")
    return options


def staged(options: argparse.Namespace, timeline: Timeline) -> AbstractContextManager[Demonstration]:
    """Choose the demonstration."""
    if options.docker_like:
        return docker_like.staged(timeline)
    if options.balancer:
        return balancer.staged(timeline)
    return one_server.staged(timeline, app=options.app, store=options.store)


def show(options: argparse.Namespace, timeline: Timeline) -> None:
    """Go through all sections, and stay up afterwards if asked to."""
    with staged(options, timeline) as demo:
        demo.show()
        timeline.section(f"Each step was observed, in {timeline.elapsed():.0f} seconds.")
        if options.keep:
            keep(demo.hints())


def main() -> int:
    """Run the demonstration; give its exit code."""
    options = options_of()
    timeline = Timeline()
    timeline.section(
        "AppGuard in a lab: real nginx, app, daemon and nftables; nothing of this machine's network changes"
    )
    try:
        show(options, timeline)
    except (AssertionError, OSError, subprocess.CalledProcessError) as error:
        print(f"\nNOT OBSERVED: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
