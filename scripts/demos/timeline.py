"""What all demonstrations print with: observations in the order they happened, and the facts the kernel tells."""

import os
import sys
from pathlib import Path
from time import monotonic

COLOURS = {
    **dict.fromkeys(("attacker", "scanner", "crowd"), 31),
    **{"honest": 32, "daemon": 33, "app": 34, "server": 36},
    **dict.fromkeys(("kernel", "nginx"), 35),
}


def require(condition: object, what: str) -> None:
    """End the demonstration if something was not observed."""
    if not condition:
        raise AssertionError(what)


class Timeline:
    """Prints what was observed, in the order it happened, with seconds since the start."""

    def __init__(self) -> None:
        self._start = monotonic()
        self._notes: list[tuple[float, str, str]] = []
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def note(self, who: str, text: str, time: float | None = None) -> None:
        """Keep an observation for the end of the section."""
        self._notes.append((monotonic() if time is None else time, who, text))

    def section(self, title: str) -> None:
        """Print the notes so far and begin another section."""
        for time, who, text in sorted(self._notes, key=lambda note: note[0]):
            print(f"  {time - self._start:8.4f}  {self._painted(COLOURS[who], f'{who:<8}')}  {text}")
        self._notes.clear()
        print(f"\n{self._painted(1, title)}", flush=True)

    def elapsed(self) -> float:
        """Give the seconds since the start."""
        return monotonic() - self._start

    def _painted(self, colour: int, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured else text


def children(pid: int) -> list[int]:
    """Give the children of a process that work: of uvicorn, not its resource tracker."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in pids if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def status_of(pid: int, key: str) -> str:
    """Give the first value of a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


def capabilities(pid: int) -> str:
    """Say which capabilities a process has."""
    effective = int(status_of(pid, "CapEff"), 16)
    net_admin = 1 << 12
    return {0: "no capability", net_admin: "only CAP_NET_ADMIN"}.get(effective, "all capabilities")


def message(line: str) -> str:
    """Cut time and level off a line of the daemon's log."""
    return line.split(maxsplit=3)[3]
