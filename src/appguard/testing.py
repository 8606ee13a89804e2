"""For the test suites of apps that AppGuard protects: fresh memory stores, a clock to set, and the events of a test.

    def test_login_is_limited():
        with isolated() as guarded:
            client = TestClient(app, client=("203.0.113.5", 4711))  # `testclient` is no address: it is never limited
            assert [client.post("/login").status_code for _ in range(6)] == [401] * 5 + [429]
            guarded.clock.advance(60)
            assert client.post("/login").status_code == 401
        assert [event.kind for event in guarded.events] == [...]

It holds for every AppGuard of this process, made before the block or in it. Afterwards all that was counted is gone.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from appguard.around import REAL, Around, surround
from appguard.event import Event
from appguard.stores.memory import MemoryStore


@dataclass(slots=True)
class Clock:
    """A clock that stands until it is advanced; called, it gives its Unix seconds."""

    now: float = field(default_factory=time.time)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@dataclass(frozen=True, slots=True)
class Isolated:
    """The clock of an isolated block, and the events told of in it, the oldest first."""

    clock: Clock
    events: list[Event]


@contextmanager
def isolated(clock: Clock | None = None) -> Generator[Isolated]:
    """Let every AppGuard start anew with a memory store and this clock; its events are kept and written nowhere."""
    clock = clock or Clock()
    found = Isolated(clock, [])
    surround(Around(clock, clock, lambda: MemoryStore(clock, clock), found.events.append))
    try:
        yield found
    finally:
        surround(REAL)


@contextmanager
def recorded_events() -> Generator[list[Event]]:
    """Give the events of a block, with the clock running."""
    found: list[Event] = []
    surround(Around(open_store=MemoryStore, write=found.append))
    try:
        yield found
    finally:
        surround(REAL)
