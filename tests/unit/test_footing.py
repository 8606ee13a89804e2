"""What a daemon stands on: its log never makes it wait, keeps its order, and keeps room for what matters."""

import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from appguard.event_log import BACKLOG_MOST
from appguard.footing import StderrHandler, settle_memory
from tests.forked import forked
from tests.lab import wait_until

FOUND = 20 * BACKLOG_MOST  # more than a pipe and the backlog hold
BANS = 2 * BACKLOG_MOST
BLOCK = 1 << 20  # bytes


class Reader:
    """The reader of a pipe, who begins when told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.lines: list[bytes] = []

    def begin(self) -> None:
        """Read to the end, in a thread."""

        def read() -> None:
            with open(self.reading, "rb") as lines:  # noqa: PTH123 - a descriptor has no path
                for line in lines:
                    self.lines.append(line.rstrip())

        self._thread = threading.Thread(target=read)
        self._thread.start()

    def end(self) -> None:
        """Close the pipe."""
        os.close(self.writing)
        self._thread.join()


@pytest.fixture
def reader() -> Iterator[Reader]:
    """Give a pipe that nobody reads yet."""
    found = Reader()
    yield found
    found.end()


def logger_to(reader: Reader) -> logging.Logger:
    """Give a logger as the daemon's, to a pipe."""
    log = logging.Logger("daemon")
    log.addHandler(StderrHandler(reader.writing))
    return log


def test_a_line_is_there_when_the_call_returns(reader: Reader) -> None:
    """Where there is room no thread is started: each line is in the pipe at once, and a long one all the same later."""
    log = logger_to(reader)
    log.info("short")
    assert os.read(reader.reading, 99) == b"short\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "appguard-events"]
    log.info("x" * 8000)
    log.info("behind")
    reader.begin()
    wait_until(lambda: reader.lines == [b"x" * 8000, b"behind"], 10, lambda: str(reader.lines))


def test_what_is_found_leaves_room_for_the_bans(reader: Reader) -> None:
    """While nobody reads the log, a flood of `Found` is dropped and counted, and each `Ban` behind it is written."""
    log = logger_to(reader)
    for number in range(FOUND):
        log.info("Found %d", number)
    for number in range(BANS):
        log.warning("Ban %d", number)
    reader.begin()
    wait_until(lambda: reader.lines[-1:] == [b"Ban %d" % (BANS - 1)], 10, lambda: str(reader.lines[-3:]))
    found = [int(line.split()[1]) for line in reader.lines if line.startswith(b"Found")]
    assert found == sorted(set(found))
    assert BACKLOG_MOST <= len(found) < FOUND
    assert [line for line in reader.lines if line.startswith(b"Ban")] == [b"Ban %d" % n for n in range(BANS)]


def test_memory_of_what_is_read_is_kept() -> None:
    """In a process of its own: blocks that come and go are given memory that is there already."""

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(50):
            blocks = [b"x" * BLOCK for _ in range(3)]
            del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def settled() -> int:
        settle_memory()
        faults()
        return faults()

    with forked(settled) as child:
        assert cast("int", child.answer()) <= 3 * BLOCK // resource.getpagesize()


def test_a_python_without_ctypes_runs_a_daemon() -> None:
    """Where the C library cannot be asked to keep memory, it is not, and nothing else is amiss."""
    code = "import sys; sys.modules['ctypes'] = None; from appguard.footing import settle_memory; settle_memory()"
    subprocess.run([sys.executable, "-c", code], check=True)
