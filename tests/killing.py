"""Kills a daemon and an app's worker in the middle of their work, and says what was lost."""

import random
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from appguard.address import parse_address
from appguard.state import State
from appguard.stores.local import RECHECK, PublishedBans
from tests.daemon import Place
from tests.forked import forked
from tests.lab import Process


@dataclass(frozen=True, slots=True)
class Kill:
    """How many bans were committed when the daemon was killed, how many of them `new`, and which of all were lost.

    `unseen` are those that an app did not see at the first request after `RECHECK`; `late` is how many seconds after
    the kill that request was answered, if it came then.
    """

    committed: int
    new: int
    lost: frozenset[str]
    unseen: frozenset[str]
    late: float


class Victims:
    """A daemon that is killed again and again while it bans, and a worker that reads what it publishes."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._chance = random.Random(seed)
        self._numbers = count(1)
        self._now = 0.0
        self._reader = PublishedBans(place.runtime, monotonic=lambda: self._now)
        self._daemon: Process | None = place.start()
        self._committed: frozenset[str] = frozenset()

    def close(self) -> None:
        """End the daemon and close the files."""
        self._reader.close()
        if self._daemon is not None:
            self._daemon.stop()

    def kill(self) -> Kill:
        """Kill both at a random point, look at what they leave behind, and start the daemon again."""
        assert self._daemon is not None
        worker = PublishedBans(self._place.runtime)
        with forked(lambda: self._read(worker)):  # ends by a kill in the middle of reading
            self._ban_for(self._chance.uniform(0, 0.4))
        self._is_seen("203.0.0.1")  # as late before the kill as can be
        self._daemon.send(signal.SIGKILL)
        self._daemon.wait()
        self._daemon.stop()
        self._now += RECHECK
        asked = time.monotonic()
        self._is_seen("203.0.0.1")
        late = RECHECK + time.monotonic() - asked
        state = State(self._place.state)
        state.open()
        committed = frozenset(ban.key for ban in state.bans())
        state.close()
        unseen = frozenset(key for key in committed if not self._is_seen(key))
        self._daemon = self._place.start()
        lost = (committed | self._committed) - set(self._place.banned())
        before, self._committed = len(self._committed), committed
        return Kill(len(committed), len(committed) - before, lost, unseen, late)

    def _is_seen(self, network: str) -> bool:
        return self._reader.get(parse_address(network)) is not None

    def _ban_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            number = next(self._numbers)
            self._place.append(f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}", 3)
            if time.monotonic() >= end:
                return

    def _read(self, worker: PublishedBans) -> object:
        end = time.monotonic() + self._chance.uniform(0, 0.2)
        while time.monotonic() < end:
            worker.get(parse_address("203.0.0.1"))
        return "in the middle"


@contextmanager
def victims(place: Place, seed: int) -> Generator[Victims]:
    """Run both for the length of the block."""
    made = Victims(place, seed)
    try:
        yield made
    finally:
        made.close()
