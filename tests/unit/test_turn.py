"""A thread's turn, which others hold."""

import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from threading import Thread

import pytest

from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
from appguard.stores.memory import MemoryCounters
from appguard.turn import Turn


@pytest.fixture
def hasty() -> Generator[None]:
    """Let threads be interrupted as often as they can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_one_thread_at_a_time_has_the_turn() -> None:
    """What two threads would spoil if they did it at once is whole afterwards."""
    turn, inside, most, done = Turn(), [0], [0], [0]

    def work() -> None:
        for _ in range(2_000):
            with turn:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                before = done[0]
                sum(range(10))
                done[0] = before + 1
                inside[0] -= 1

    threads = [Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [12_000] and most == [1] and len(turn) == 1


def test_a_thread_waits_until_the_turn_is_put_back() -> None:
    """However long that takes; and whoever waits does not keep the processor busy."""
    turn = Turn()
    del turn[0]
    used: list[float] = []

    def work() -> None:
        begun = time.thread_time()
        with turn:
            used.append(time.thread_time() - begun)

    thread = Thread(target=work)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive() and not used
    turn.append(None)
    thread.join(10)
    assert used and used[0] < 0.15 and len(turn) == 1


def test_the_turn_is_put_back_by_who_fails() -> None:
    """A failure inside leaves it to the next."""
    turn = Turn()
    with pytest.raises(KeyError), turn:
        raise KeyError
    with turn:
        assert not turn
    assert len(turn) == 1


class Late(Exception):
    """What the handler of a signal raises, as apps do that limit the time of a request."""


@pytest.fixture
def late() -> Generator[None]:
    """Let an alarm raise `Late`."""

    def raise_late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, raise_late)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_no_exception_of_a_signal_handler_loses_the_turn(kind: str, tmp_path: Path) -> None:
    """Wherever in a check it is raised, others are counted afterwards."""
    counters = MemoryCounters() if kind == "memory" else LocalCounters("shop", tmp_path / "counters")
    hit = [Hit("203.0.113.5 many", Limit("1000000000/hour"))]
    raised = 0
    for number in range(5_000):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 40))
            for _ in range(1_000):
                counters.check(hit)
        except Late:
            raised += 1
    asked = Thread(target=counters.check, args=(hit,), daemon=True)
    asked.start()
    asked.join(10)
    assert raised == 5_000 and not asked.is_alive()
    if isinstance(counters, LocalCounters):
        counters.close_table()
