"""A thread's turn, which others hold, and which nothing loses."""

import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from threading import Event, Thread

import pytest

from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
from appguard.stores.memory_counters import MemoryCounters
from appguard.turn import Turn

Counters = MemoryCounters | LocalCounters
WIDE = [Limit("1000000000/hour", name=f"limit {number}") for number in range(3)]


@pytest.fixture
def hasty() -> Generator[None]:
    """Let threads be interrupted as often as they can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Late(TimeoutError):
    """What the handler of a signal raises, as apps do that limit the time of a request. It is an `OSError`."""


@pytest.fixture
def late() -> Generator[None]:
    """Let an alarm raise `Late`."""

    def raise_late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, raise_late)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["memory", "local"])
def counters(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Counters]:
    """Give counters whose threads take turns."""
    found = MemoryCounters() if request.param == "memory" else LocalCounters("shop", tmp_path / "counters")
    yield found
    if isinstance(found, LocalCounters):
        found.close_table()


@pytest.mark.usefixtures("hasty")
def test_one_thread_at_a_time_has_the_turn() -> None:
    """What two threads would spoil if they did it at once is whole afterwards."""
    turn, inside, most, done = Turn(), [0], [0], [0]

    def once() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        before = done[0]
        sum(range(10))
        done[0] = before + 1
        inside[0] -= 1

    def work() -> None:
        for _ in range(2_000):
            turn.do(once)

    threads = [Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [12_000] and most == [1] and len(turn) == 2


def test_a_thread_waits_until_the_turn_is_put_back() -> None:
    """However long that takes; and whoever waits does not keep the processor busy."""
    turn, is_over, used = Turn(), Event(), list[float]()
    holder = Thread(target=turn.do, args=(is_over.wait,))
    holder.start()

    def work() -> None:
        begun = time.thread_time()
        turn.do(lambda: used.append(time.thread_time() - begun))

    thread = Thread(target=work)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive() and not used
    is_over.set()
    thread.join(10)
    holder.join(10)
    assert used and used[0] < 0.15 and len(turn) == 2


def test_the_turn_is_put_back_by_who_fails() -> None:
    """A failure inside leaves it to the next; what is asked and answered is handed on."""
    turn = Turn()
    with pytest.raises(ZeroDivisionError):
        turn.do(divmod, 1, 0)
    assert turn.do(divmod, 7, 4) == (1, 3)
    assert len(turn) == 2


class Kept(list[Hit]):
    """Hits that are read only once they may be: who reads them keeps the turn until then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read, self.may_be_read = Event(), Event()

    def __iter__(self) -> Iterator[Hit]:
        self.is_read.set()
        self.may_be_read.wait(10)
        return iter(())


@pytest.mark.parametrize("limits", [1, 3])
def test_a_request_that_waited_is_counted_when_its_turn_came(limits: int) -> None:
    """Not at the time before, or the time of a counter would step back behind requests that were counted meanwhile."""
    now, kept, times = [0.0], Kept(), list[float]()
    counters = MemoryCounters(lambda: now[0])
    hits = [Hit(f"203.0.113.5 {limit}", limit) for limit in WIDE[:limits]]
    holder = Thread(target=counters.give_back, args=(kept, 0.0))
    holder.start()
    assert kept.is_read.wait(10)
    waiting = Thread(target=lambda: times.append(counters.check(hits).time))
    waiting.start()
    time.sleep(0.05)
    now[0] = 7.0
    kept.may_be_read.set()
    for thread in (holder, waiting):
        thread.join(10)
    assert times == [7.0]


def storm(ask: Callable[[], object], alarms: int) -> int:
    """Ask again and again while alarms come at all sorts of moments; give how many came."""
    came = 0
    for number in range(alarms):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 40))
            for _ in range(1_000):
                ask()
        except Late:
            came += 1
    return came


def must_be_free(counters: Counters, hits: Sequence[Hit], directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Raise AssertionError unless another thread may count, and at once another process if it shares the table."""
    other = LocalCounters("shop", directory / "counters")
    for each in (counters, other):
        asked = Thread(target=each.check, args=(hits,), daemon=True)
        asked.start()
        asked.join(10)
        assert not asked.is_alive()
    other.close_table()
    assert not caplog.records


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("what", ["one limit", "three limits", "give back", "reset"])
def test_no_exception_of_a_signal_handler_loses_the_turn(
    counters: Counters, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is raised, others are counted afterwards."""
    hits = [Hit(f"203.0.113.5 {limit}", limit) for limit in WIDE]
    one, then = hits[:1], counters.check(hits).time
    asks: dict[str, Callable[[], object]] = {
        "one limit": lambda: counters.check(one),
        "three limits": lambda: counters.check(hits),
        "give back": lambda: counters.give_back(one, then),
        "reset": lambda: counters.reset("203.0.113.5"),
    }
    assert storm(asks[what], 3_000) == 3_000
    must_be_free(counters, hits, tmp_path, caplog)


@pytest.mark.usefixtures("late", "hasty")
@pytest.mark.parametrize("limits", [1, 3])
def test_nor_one_that_comes_while_a_thread_waits(
    counters: Counters, limits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The turn is another's most of the time, and is taken after a wait."""
    hits = [Hit(f"203.0.113.5 {limit}", limit) for limit in WIDE[:limits]]
    is_over = Event()

    def work() -> None:
        while not is_over.is_set():
            counters.check(hits)

    other = Thread(target=work)
    other.start()
    try:
        assert storm(lambda: counters.check(hits), 1_000) == 1_000
    finally:
        is_over.set()
        other.join(10)
    assert not other.is_alive()
    must_be_free(counters, hits, tmp_path, caplog)
