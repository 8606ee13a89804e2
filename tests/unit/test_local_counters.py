"""Counters shared by the processes of an app: the verdicts of the pure model, exact whatever happens to a process."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appguard.limit import Hit, Limit
from appguard.rate import SlidingWindow, parse_rate
from appguard.stores.counter_table import WAYS, open_table
from appguard.stores.local_counters import LocalCounters
from appguard.stores.memory_counters import MemoryCounters
from appguard.stores.table_lock import SEATS
from tests.counting import remaining
from tests.forked import Child, forked
from tests.lab import wait_until

UNIT = 1 / 1024  # times in whole units are exact floats
FIVE = Limit("5/minute")
LIMITS = (Limit("1/second"), Limit("5/second"), Limit("7/3 seconds"), Limit("12/minute"))
fresh = count()

# One process of an app: for each line (clients' limits, time) it answers what the counters say.
WORKER = """
import json, sys
from pathlib import Path
from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
now = [0.0]
counters = LocalCounters("shop", Path(sys.argv[1]), lambda: now[0])
for line in sys.stdin:
    now[0], hits = json.loads(line)
    verdict = counters.check([Hit(key, Limit(rate)) for key, rate in hits])
    print(json.dumps([verdict.refused and verdict.refused.key, verdict.wait]), flush=True)
"""
# One that counts as fast as it can, in two threads, and appends a byte for each request admitted.
HAMMER = """
import os, sys, threading
from pathlib import Path
from appguard.limit import Hit, Limit
from appguard.stores.local_counters import LocalCounters
counters = LocalCounters("shop", Path(sys.argv[1]))
hit = [Hit("203.0.113.5 " + sys.argv[3], Limit(sys.argv[3]))]
admitted = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
def work():
    for _ in range(int(sys.argv[4])):
        if counters.check(hit).refused is None:
            os.write(admitted, b"+")
threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


class Worker:
    """A process that counts in a table, at times it is told."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def check(self, hits: Sequence[Hit], now: float) -> tuple[str | None, float]:
        """Give the key refused and the wait."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([now, [[hit.key, hit.rate.text] for hit in hits]]) + "\n")
        self._process.stdin.flush()
        refused, wait = json.loads(self._process.stdout.readline())
        return refused, wait

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


@contextmanager
def three_workers(directory: Path) -> Generator[Sequence[Worker]]:
    """Give three processes of one app."""
    with ExitStack() as stack:
        made = [Worker(directory) for _ in range(3)]
        for worker in made:
            stack.callback(worker.close)
        yield made


def hits_of(keys: Sequence[tuple[int, int]], example: int) -> list[Hit]:
    """Make hits of clients nobody has seen before this example."""
    return [Hit(f"{example}.{client} {LIMITS[limit]}", LIMITS[limit]) for client, limit in keys]


# Bursts apart by about a tenth of a window, by about a window, or by anything.
gaps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 110), st.integers(900, 1030), st.integers(0, 4000), st.sampled_from([102, 103, 1024])),
        st.integers(1, 6),
    ),
    max_size=40,
).map(lambda bursts: [gap for first, size in bursts for gap in [first, *[0] * (size - 1)]])
requests = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 110), st.integers(900, 1030), st.integers(0, 70_000)),  # units since the last one
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=3, unique=True),
        st.integers(0, 2),  # the process asked
    ),
    max_size=60,
)


def test_table_counts_as_the_pure_model(tmp_path: Path) -> None:
    """One key under one limit, at any times: every wait is, to the last bit, what `SlidingWindow` gives."""
    now = [0.0]
    counters = LocalCounters("shop", tmp_path / "counters", lambda: now[0])

    @settings(max_examples=300)
    @given(amount=st.integers(1, 25), gaps=gaps)
    def agree(amount: int, gaps: list[int]) -> None:
        limit, key = Limit(f"{amount}/second"), f"client{next(fresh)} x"
        model = SlidingWindow(parse_rate(limit.rate))
        for gap in gaps:
            now[0] += gap * UNIT
            wait = model.wait(now[0])
            if wait == 0.0:
                model.add(now[0])
            assert counters.check([Hit(key, limit)]).wait == wait

    agree()
    counters.close_table()


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 30), st.sampled_from([0, 102, 103, 400, 1023, 1024])),
        st.integers(0, 3),  # the cost; 0 takes the oldest request back
        st.booleans(),  # which handle of the table
    ),
    min_size=20,
    max_size=80,
)


def test_table_tells_and_takes_back_as_the_pure_model(tmp_path: Path) -> None:
    """What is left, and in how many seconds there is more, is what `SlidingWindow` says, by any process's hands."""
    now = [0.0]
    handles = [LocalCounters("shop", tmp_path / "counters", lambda: now[0]) for _ in range(2)]

    @settings(max_examples=200)
    @given(amount=st.integers(5, 50), steps=steps)
    def agree(amount: int, steps: list[tuple[int, int, bool]]) -> None:
        limit, key = Limit(f"{amount}/second"), f"client{next(fresh)} x"
        model, counted = SlidingWindow(parse_rate(limit.rate)), list[tuple[float, Hit]]()
        for counters in handles:
            counters.check([Hit(f"{key} opened", limit)])
        for gap, cost, other in steps:
            now[0] += gap * UNIT
            if not cost and counted:
                at, hit = counted.pop(0)
                handles[other].give_back([hit], at)
                model.give_back(at, now[0], hit.cost)
            elif cost:
                hit = Hit(key, limit, cost)
                verdict, left = handles[other].check([hit]), model.take(now[0], cost)
                assert verdict.least == (None if left is None else (0, *left))
                if left is not None:
                    counted.append((verdict.time, hit))

    agree()


@pytest.mark.parametrize("gaps", [(0,), (51,), (102,), (103,), (50, 53), (1, 102), (1023,), (1024,)])
def test_steady_flow_counts_as_the_pure_model(tmp_path: Path, gaps: tuple[int, ...]) -> None:
    """A flow that goes on for many windows, with as many runs as there may be, gets the waits of `SlidingWindow`."""
    now = [0.0]
    counters = LocalCounters("shop", tmp_path / "counters", lambda: now[0])
    for amount in (1, 3, 10, 21, 22, 25):
        limit = Limit(f"{amount}/second")
        model = SlidingWindow(parse_rate(limit.rate))
        for gap in islice(cycle(gaps), 200):
            now[0] += gap * UNIT
            wait = model.wait(now[0])
            if wait == 0.0:
                model.add(now[0])
            assert counters.check([Hit(f"client {amount}", limit)]).wait == wait
    counters.close_table()


def test_processes_together_say_what_one_would(tmp_path: Path) -> None:
    """Requests spread over three processes get the verdicts, to the last bit of the wait, that one would give."""
    with three_workers(tmp_path / "counters") as workers:

        @settings(max_examples=100)
        @given(requests=requests)
        def agree(requests: list[tuple[int, list[tuple[int, int]], int]]) -> None:
            example, now = next(fresh), 1000.0
            model = MemoryCounters(lambda: now)
            for gap, keys, process in requests:
                now += gap * UNIT
                hits = hits_of(keys, example)
                expected = model.check(hits)
                refused = expected.refused and expected.refused.key
                assert workers[process].check(hits, now) == (refused, expected.wait)

        agree()


@contextmanager
def hammers(number: int, directory: Path, rate: str, times: int) -> Generator[list[subprocess.Popen[bytes]]]:
    """Run processes that count one client as fast as they can; none is left at the end."""
    admitted = directory / "admitted"
    admitted.touch()
    command = [sys.executable, "-c", HAMMER, str(directory / "counters"), str(admitted), rate, str(times)]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("taken", [0, SEATS - 4, SEATS - 1])
def test_no_request_is_lost(tmp_path: Path, taken: int) -> None:
    """Of processes that count one client as fast as they can each knows of all requests, also of the others'.

    So it is where some of them, or all, find no seat at the lock, because others have taken them.
    """
    tables = [open_table("shop", tmp_path / "counters", 1.0) for _ in range(taken)]
    assert all(table.lock.quick for table in tables)
    each, limit = 5_000, Limit("1000000/hour")
    hit = Hit(f"203.0.113.5 {limit}", limit)
    counters = LocalCounters("shop", tmp_path / "counters")

    def work() -> object:
        for _ in range(each):
            counters.check([hit])
        return "done"

    with ExitStack() as stack:
        children = [stack.enter_context(forked(work)) for _ in range(4)]
        assert [child.answer() for child in children] == ["done"] * 4
    assert remaining(counters.check([hit])) == 1_000_000 - 4 * each - 1
    counters.close_table()
    for table in tables:
        table.close()


def test_limit_is_exact_between_processes_and_threads(tmp_path: Path) -> None:
    """Four processes of two threads, all counting one client at once, admit together exactly its amount."""
    with hammers(4, tmp_path, "1000/hour", 1_000) as processes:
        assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "admitted").stat().st_size == 1000


class Stopping:
    """A cost of one that stops the process when it is counted: the lock is held then, taken the quick way."""

    def __radd__(self, other: int) -> int:
        os.kill(os.getpid(), signal.SIGSTOP)
        return other + 1


@contextmanager
def stopped_with_lock(directory: Path, way: str, inherited: LocalCounters | None = None) -> Generator[Child]:
    """Give a process that has taken the lock of the table the quick way, or the slow one, and was stopped then.

    It opens the table for itself, or uses counters it has from its parent.
    """

    def act() -> object:
        if way == "quick":
            counters, limit = inherited or LocalCounters("shop", directory), Limit("100/hour")
            assert counters.check([Hit("192.0.2.1 x", limit)]).refused is None
            counters.check([Hit("192.0.2.1 x", limit, cast("int", Stopping()))])
        else:
            table = open_table("shop", directory, 1.0)
            table.lock.do(1.0, lambda: os.kill(os.getpid(), signal.SIGSTOP))
        return "went on"

    with forked(act) as child:
        wait_until(lambda: is_stopped(child.pid), 5, "the child did not stop")
        yield child


def is_stopped(pid: int) -> bool:
    """Say whether a process was stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("way", ["quick", "slow"])
def test_lock_of_one_who_died_with_it_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """It is so at once and again and again, and everybody goes on counting together."""
    one, other = LocalCounters("shop", tmp_path / "counters"), LocalCounters("shop", tmp_path / "counters")
    hit = [Hit("203.0.113.5 20/hour", Limit("20/hour"))]
    for number in range(10):
        if number:
            with stopped_with_lock(tmp_path / "counters", way):
                pass  # and it is killed
        assert one.check(hit).refused is None
        assert other.check(hit).refused is None
    assert one.check(hit).refused == other.check(hit).refused == hit[0]
    one.close_table()
    other.close_table()
    assert not caplog.records


def test_killed_processes_leave_the_count_right(tmp_path: Path) -> None:
    """However many are killed in the middle, no more than the amount is admitted, and at most theirs are missing."""
    amount, kills = 20_000, 0
    admitted = tmp_path / "admitted"
    for _ in range(5):
        with hammers(3, tmp_path, f"{amount}/hour", 10**9) as processes:
            enough = min(admitted.stat().st_size + 200, amount - 60)
            wait_until(lambda least=enough: admitted.stat().st_size >= least, 20, "nothing is admitted any more")  # type: ignore[misc]
            kills += len(processes)
    with hammers(1, tmp_path, f"{amount}/hour", amount) as (last,):
        assert last.wait(30) == 0
    assert amount - 2 * kills <= admitted.stat().st_size <= amount


@pytest.mark.parametrize(("way", "is_forked"), [("quick", False), ("quick", True), ("slow", False)])
def test_stopped_process_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str, is_forked: bool
) -> None:
    """While the holder of the lock is stopped others wait once, count alone and say so; then they share again.

    A forked child that uses the counters of its parent is such another process.
    """
    counters = LocalCounters("shop", tmp_path / "counters")
    hit = [Hit("203.0.113.5 5/minute", FIVE)]
    assert counters.check(hit).refused is None
    with stopped_with_lock(tmp_path / "counters", way, counters if is_forked else None) as child:
        begun = time.monotonic()
        assert [counters.check(hit).refused is None for _ in range(1_000)] == [True] * 5 + [False] * 995
        assert time.monotonic() - begun < 2  # waiting each time would be 50 s
        os.kill(child.pid, signal.SIGCONT)
        assert child.answer() == "went on"
        assert [counters.check(hit).refused is None for _ in range(5)] == [True] * 4 + [False]
    counters.close_table()
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "1000 requests were counted apart" in caplog.text


@pytest.mark.parametrize("way", ["quick", "slow"])
def test_process_that_begins_while_the_lock_is_kept_waits_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """It looks for the table every second, counts alone meanwhile, and shares it once the lock is free."""
    clock = count(0.0, 2.0)
    hit = [Hit("203.0.113.5 5/hour", Limit("5/hour"))]
    with stopped_with_lock(tmp_path / "counters", way):
        counters = LocalCounters("shop", tmp_path / "counters", lambda: next(clock))
        begun = time.monotonic()
        assert [counters.check(hit).refused is None for _ in range(100)] == [True] * 5 + [False] * 95
        assert time.monotonic() - begun < 5  # waiting each time would be 25 s
        assert len(caplog.records) == 1
    assert counters.check(hit).refused is None
    counters.close_table()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_others_count(tmp_path: Path) -> None:
    """Children forked while threads count wait for no lock, and share the count with their parent."""
    counters = LocalCounters("shop", tmp_path / "counters")
    mine = [Hit("203.0.113.5 5/minute", FIVE)]
    busy = [Hit(f"198.51.100.{number} 5/minute", FIVE) for number in range(20)]
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            counters.check(busy)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert counters.check(mine).refused is None
        for expected in [True] * 4 + [False] * 8:
            with forked(lambda: counters.check(mine).refused is None) as child:
                assert child.answer() is expected
        assert counters.check(mine).refused == mine[0]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        counters.close_table()


def test_two_stores_of_one_process_share(tmp_path: Path) -> None:
    """Two counters of one app in one process, each with its threads, admit together the amount; another app its own."""
    limit = Limit("500/hour")
    answers: list[bool] = []
    with ExitStack() as stack:
        made = [LocalCounters(app, tmp_path / "counters") for app in ("shop", "shop", "blog")]
        for counters in made:
            stack.callback(counters.close_table)

        def work(counters: LocalCounters) -> None:
            answers.extend(counters.check([Hit(f"203.0.113.5 {limit}", limit)]).refused is None for _ in range(400))

        threads = [threading.Thread(target=work, args=(counters,)) for counters in made[:2] for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(answers), sum(answers)) == (1600, 500)
        assert made[2].check([Hit(f"203.0.113.5 {limit}", limit)]).refused is None


def test_reset_is_for_all_processes(tmp_path: Path) -> None:
    """A client reset by one process has its whole amounts back in another, under every limit, and nobody else has."""
    one, other = LocalCounters("shop", tmp_path / "counters"), LocalCounters("shop", tmp_path / "counters")
    with ExitStack() as stack:
        stack.callback(one.close_table)
        stack.callback(other.close_table)
        limits = [Limit("1/minute"), Limit("1/hour")]
        mine = [Hit(f"203.0.113.5 {limit}", limit) for limit in limits]
        others = [Hit(f"203.0.113.50 {limit}", limit) for limit in limits]
        for hits in (mine, others):
            assert one.check(hits).refused is None
            assert other.check(hits).refused == hits[1]
        one.reset("203.0.113.5")
        assert [other.check([hit]).refused for hit in mine] == [None, None]
        assert [other.check([hit]).refused for hit in others] == others


def test_reset_is_heard_by_all_processes(tmp_path: Path) -> None:
    """A refusal that one process remembers ends when another one resets the client."""
    one, other = LocalCounters("shop", tmp_path / "counters"), LocalCounters("shop", tmp_path / "counters")
    for each in (one, other):
        each.check([Hit("203.0.113.5 5/minute", FIVE)])
    before = other.resets
    one.reset("203.0.113.5")
    assert other.resets != before
    for each in (one, other):
        each.close_table()


def counters_of_one_set(directory: Path, now: list[float]) -> LocalCounters:
    """Give counters with room for few, so that all keys compete."""
    return LocalCounters("shop", directory / "counters", lambda: now[0], sets=1)


def stranger(number: int, limit: Limit) -> list[Hit]:
    """Make a hit of one of many."""
    return [Hit(f"2001:db8:{number:x}::/64 {limit}", limit)]


def test_flood_makes_no_slot_forget_an_offender(tmp_path: Path) -> None:
    """However many other keys come, one that is over its limit stays refused until its window has passed."""
    now, limit = [0.0], Limit("2/minute")
    counters = counters_of_one_set(tmp_path, now)
    offender = [Hit(f"203.0.113.5 {limit}", limit)]
    for _ in range(2):
        assert counters.check(offender).refused is None
    for number in range(1_000):
        now[0] += 0.05
        assert counters.check(stranger(number, limit)).refused is None
        assert counters.check(offender).refused == offender[0]
    now[0] = 60.0
    assert counters.check(offender).refused is None
    counters.close_table()


def test_set_full_of_offenders_admits_newcomers_uncounted(tmp_path: Path) -> None:
    """Where every key is over its limit, a stranger is let in rather than an offender forgotten."""
    limit = Limit("1/minute")
    counters = counters_of_one_set(tmp_path, [0.0])
    for number in range(WAYS):
        assert counters.check(stranger(number, limit)).refused is None
    assert all(counters.check(stranger(99, limit)).refused is None for _ in range(5))
    assert all(counters.check(stranger(number, limit)).refused for number in range(WAYS))
    counters.close_table()


def test_flood_of_short_windows_leaves_long_ones(tmp_path: Path) -> None:
    """Room is made by the key that would leave first anyway: a day's count is not pushed out by those of a second."""
    now = [0.0]
    counters = counters_of_one_set(tmp_path, now)
    day, second = Limit("2/day"), Limit("100/second")
    client = [Hit(f"203.0.113.5 {day}", day)]
    assert counters.check(client).refused is None
    for number in range(200):
        now[0] += 0.01
        assert counters.check(stranger(number, second)).refused is None
    assert [counters.check(client).refused is None for _ in range(2)] == [True, False]
    counters.close_table()


def test_request_with_more_limits_than_a_set_has_room(tmp_path: Path) -> None:
    """One request under forty limits, some of them known before, is counted at most once under each."""
    limits = [Limit(f"{2 + number}/minute") for number in range(40)]
    hits = [Hit(f"203.0.113.5 {limit}", limit) for limit in limits]
    counters = counters_of_one_set(tmp_path, [0.0])
    for hit in hits[-WAYS:]:
        assert counters.check([hit]).refused is None
    assert counters.check(hits).refused is None
    for hit in hits[-WAYS - 1 :] + hits[: -WAYS - 1]:  # first the one that took the last slot
        admitted = sum(counters.check([hit]).refused is None for _ in range(50))
        most_counted = 2 if hit in hits[-WAYS:] else 1
        assert hit.rate.amount - most_counted <= admitted <= hit.rate.amount or admitted == 50  # no room: not counted
    counters.close_table()
