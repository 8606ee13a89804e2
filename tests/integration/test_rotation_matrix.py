"""Every kind of rotation under write load, while the real daemon is killed at random points: each line counts once."""

import json
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.daemon import Place
from tests.lab import Process, wait_until
from tests.rotation import ROTATIONS, Rotated, address_of

pytestmark = pytest.mark.lab
KILLS = 5
TURNS = 8  # rotations from one daemon that is up to the next: no more in all than it can be behind, or nearly
UNREAD = 2.0  # seconds the daemon may at most be behind on a busy machine
SLOW = 40.0  # seconds a busy machine may take to bring back ten thousand keys, or to read any of what is left
LATE = ("late", "enoent")
GLOBS = {"dated": "app-*.log", "late": "*.log"}


class Matrix:
    """One log for each way of rotation, each with a jail of its own, in one daemon."""

    def __init__(self, root: Path) -> None:
        self.place = Place(root, user=None)
        self._daemons: list[Process] = []
        self.down: list[tuple[float, float]] = []  # from when to when there was no daemon for sure
        self.logs = {name: Rotated(self._directory(name), rotate) for name, rotate in ROTATIONS.items()}
        for name in LATE:  # the directory is there, or not even that
            self.logs[name] = Rotated(self.place.logs / name, ROTATIONS["rename_create"], begin=False)
        self._directory("late")
        self.place.configure("".join(map(self._jail, self.logs)), '[firewall]\nkind = "dry_run"\n')

    def _directory(self, name: str) -> Path:
        directory = self.place.logs / name
        directory.mkdir()
        return directory

    def _jail(self, name: str) -> str:
        source = self.place.logs / name / GLOBS.get(name, "app.log")
        return f'[jails.{name}]\nsource = "{source}"\nfilter = "appguard"\nmaxretry = 100\nfindtime = "1d"\n'

    def torment(self, chance: random.Random) -> None:
        """Start the daemon and kill it, again and again; in between the late logs begin, and rotate at once."""
        waiting, killed_at, is_up = threading.Event(), time.monotonic(), True
        for kill in range(KILLS):
            is_up = kill <= len(LATE) or not is_up or chance.random() < 0.5
            daemon = self._start()
            if is_up:
                self._await_up(daemon)
                self._go_on(LATE[kill - 1 : kill] if kill else ())
                self.down.append((killed_at, time.monotonic()))
                killed_at = float("inf")
            waiting.wait(chance.uniform(0, 1))
            daemon.send(signal.SIGKILL)
            killed_at = min(killed_at, time.monotonic())
            daemon.stop()
            waiting.wait(chance.uniform(0, 0.6))
        self.down.append((killed_at, float("inf")))

    def _start(self) -> Process:
        self._daemons.append(self.place.start(is_up=False))
        return self._daemons[-1]

    def _await_up(self, daemon: Process) -> None:
        daemon.wait_for("AppGuard daemon is up", SLOW)
        wait_until(lambda: self.place.run("status").returncode == 0, SLOW, daemon.output)

    def stop(self) -> None:
        """End whatever runs."""
        for log in self.logs.values():
            log.stop()
        for daemon in self._daemons:
            daemon.stop()

    def _go_on(self, late: Sequence[str]) -> None:
        """Begin a late log, and let all rotate that have begun."""
        for name in late:
            self.logs[name].begin()
        for log in self.logs.values():
            if log.has_begun:
                log.allow(TURNS)

    def _totals(self) -> dict[str, int]:
        return {jail["name"]: jail["total_failed"] for jail in self.place.ask("status")["jails"]}

    def settle(self) -> Mapping[str, Counter[int]]:
        """Let the daemon read all that is left; give how often it counted each line, by kind of rotation."""
        daemon = self._start()
        self._await_up(daemon)
        while not self._is_read():
            wait_until(partial(self._has_moved, self._totals()), SLOW, self._progress)
        daemon.stop()
        with closing(sqlite3.connect(self.place.state / "state.db")) as state:
            rows: list[tuple[str, str, str]] = state.execute("SELECT jail, key, failures FROM failure").fetchall()
        numbers = {address_of(number): number for log in self.logs.values() for number in log.written}
        counted = {name: Counter[int]() for name in self.logs}
        for jail, key, failures in rows:
            counted[jail][numbers[key]] = sum(count for _, count, *_ in json.loads(failures))
        return counted

    def _has_moved(self, before: Mapping[str, int]) -> bool:
        return self._totals() != before or self._is_read()

    def _is_read(self) -> bool:
        totals = self._totals()
        enough = all(totals[name] >= len(log.on_disk()) for name, log in self.logs.items() if name != "retarget")
        return enough and not any(source["behind"] for source in self.place.ask("status")["sources"])

    def _progress(self) -> str:
        totals = self._totals()
        lines = [
            f"{name}: {totals[name]} counted, {len(log.on_disk())} on the disk, {len(log.written)} written"
            for name, log in self.logs.items()
        ]
        sources = [str(source) for source in self.place.ask("status")["sources"]]
        return "\n".join([*lines, *sources, self.said()])

    def said(self) -> str:
        """Give what the daemons said of lines they may have missed."""
        return "\n".join(line.text for daemon in self._daemons for line in daemon.lines() if "missed" in line.text)


@pytest.fixture
def matrix(open_tmp_path: Path) -> Iterator[Matrix]:
    """Give logs that are written and rotated, until the test has stopped them."""
    found = Matrix(open_tmp_path)
    yield found
    found.stop()


def test_each_line_counts_once(matrix: Matrix) -> None:
    """No line counts twice; what a file still holds counts; what is lost was nowhere to be read any more.

    Of a file that was deleted unread the daemon says so; what copytruncate may lose is said in docs/sources.md.
    """
    matrix.torment(random.Random())
    for log in matrix.logs.values():
        log.stop()
    counted = matrix.settle()
    for name, log in matrix.logs.items():
        assert log.rotations > 5 and len(log.written) > 500, name
        twice = [number for number, count in counted[name].items() if count != 1]
        assert not twice, f"{name}: {twice} counted twice"
        lost = log.written - set(counted[name])
        if name == "copytruncate":  # what was appended between copy and truncation
            assert not lost & log.on_disk(), name
            assert len(lost) <= log.rotations
        elif name == "delete_create":
            assert_perished(log, lost, matrix.down)
            assert not lost or f"{str(log.path)!r}: the file read before is gone" in matrix.said()
        elif name == "retarget":
            assert_never_seen(log, lost, matrix.down)
        else:
            assert not lost, f"{name}: {sorted(lost)} of {len(log.written)}"


def assert_perished(log: Rotated, lost: set[int], down: list[tuple[float, float]]) -> None:
    """Assert that lost lines are the ends of files that were deleted while there was no daemon, or just before."""
    for generation in log.generations:
        missing = lost & set(generation.lines)
        if missing:
            assert any(begin - UNREAD <= generation.gone_at <= end + UNREAD for begin, end in down), generation
            assert sorted(missing) == generation.lines[-len(missing) :]


def assert_never_seen(log: Rotated, lost: set[int], down: list[tuple[float, float]]) -> None:
    """Assert that lost lines are of files that the symlink led to only while there was no daemon."""
    for generation in log.generations:
        if lost & set(generation.lines):
            assert any(
                begin - UNREAD <= generation.begun_at and generation.gone_at <= end + UNREAD for begin, end in down
            )
            assert lost >= set(generation.lines)
