"""What a daemon stands on: its log keeps room for what matters."""

import logging
import threading

import pytest

from appguard.event_log import BACKLOG_MOST
from appguard.footing import StderrHandler
from tests.lab import wait_until


def test_what_is_found_leaves_room_for_the_bans(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody reads the log, a flood of `Found` is dropped and counted, and each `Ban` behind it is written."""
    written: list[bytes] = []
    may_go_on = threading.Event()

    def write(line: bytes) -> None:
        may_go_on.wait(10)
        written.append(line)

    monkeypatch.setattr("appguard.footing.write_stderr", write)
    handler = StderrHandler()
    log = logging.Logger("daemon")
    log.addHandler(handler)
    for number in range(2 * BACKLOG_MOST):
        log.info("Found %d", number)
    for number in range(2 * BACKLOG_MOST):
        log.warning("Ban %d", number)
    may_go_on.set()
    wait_until(lambda: written[-1:] == [b"Ban %d\n" % (2 * BACKLOG_MOST - 1)], 10, lambda: str(written[-3:]))
    assert sum(line.startswith(b"Ban") for line in written) == 2 * BACKLOG_MOST
    assert BACKLOG_MOST <= sum(line.startswith(b"Found") for line in written) < 2 * BACKLOG_MOST
