"""The event log's socket and standard error, which may stall: no write waits, every line arrives or is counted."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from appguard.event_log import BACKLOG_MOST, EventLog
from tests.lab import wait_until
from tests.unit.event_lines import failure, program, received, receiving, users


def test_a_socket_gets_one_datagram_for_each_event(tmp_path: Path) -> None:
    """The daemon receives each event whole and in order."""
    path = tmp_path / "events.sock"
    log = EventLog(f"unix:{path}")
    with receiving(path) as receiver:
        for number in range(3):
            log.write(failure(number))
        assert [received(receiver) for _ in range(3)] == ["0", "1", "2"]
    log.close()


def test_without_a_daemon_events_go_to_the_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its absence is one ERROR; when it comes, the next event is its own."""
    path = tmp_path / "events.sock"
    log = EventLog(f"unix:{path}")
    log.write(failure(1))
    log.write(failure(2))
    assert users(caplog.text) == ["1", "2"]
    assert caplog.text.count("cannot be written") == 1
    with receiving(path) as receiver:
        log.write(failure(3))
        assert received(receiver) == "3"
    assert log.dropped == 0
    log.close()


def test_a_restarted_daemon_gets_the_next_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new socket at the same path is found at once, and no event is lost to the old one."""
    path = tmp_path / "events.sock"
    log = EventLog(f"unix:{path}")
    with receiving(path) as receiver:
        log.write(failure(1))
        assert received(receiver) == "1"
    with receiving(path) as receiver:
        log.write(failure(2))
        assert received(receiver) == "2"
    assert users(caplog.text) == []
    log.close()


def test_a_stopped_daemon_delays_nothing_and_drops_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With nobody reading, thousands of writes return; what is delivered later and what is dropped is all there was."""
    path, total = tmp_path / "events.sock", BACKLOG_MOST * 3
    log = EventLog(f"unix:{path}")
    with receiving(path) as receiver:
        for number in range(total):
            log.write(failure(number))
        dropped = log.dropped
        assert total - dropped >= BACKLOG_MOST
        delivered = [int(received(receiver)) for _ in range(total - dropped)]
        assert delivered == sorted(set(delivered))
        wait_until(lambda: "event lines were dropped" in caplog.text, 5, "the drops were not reported")
        assert log.dropped == dropped
        log.write(failure(total))
        assert received(receiver) == str(total)
    assert f"{dropped} event lines were dropped" in caplog.text
    log.close()


def test_a_daemon_that_goes_while_it_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The waiting lines are dropped, counted, and reported; the thread ends."""
    path = tmp_path / "events.sock"
    log = EventLog(f"unix:{path}")
    with receiving(path):
        for number in range(BACKLOG_MOST + 5):
            log.write(failure(number))
    wait_until(lambda: "event lines were dropped" in caplog.text, 10, "the drops were not reported")
    assert 0 < log.dropped <= BACKLOG_MOST + 5
    wait_until(
        lambda: "appguard-events" not in [thread.name for thread in threading.enumerate()], 5, "a thread is left"
    )
    log.close()


def test_a_forked_worker_has_its_own_socket_and_backlog(tmp_path: Path) -> None:
    """A child forked while the parent's thread holds the lock of a full backlog sends its own event, and only that."""
    code = """
log = EventLog("unix:" + sys.argv[1])
for number in range(200): log.write(failure("parent"))
backlog = log._sink._backlog
with backlog._lock:
    assert backlog
    child = os.fork()
    if not child:
        log.write(failure("child"))
        while backlog: time.sleep(0.001)
        os._exit(0)
print("forked", flush=True)
os.waitpid(child, 0)
log.write(failure("last"))
log.close()
"""
    path = tmp_path / "events.sock"
    with receiving(path) as receiver:
        seen: list[str] = []
        with program(code, path) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "forked\n"
            while "last" not in seen:
                seen.append(received(receiver))
            parent.communicate()
        assert parent.returncode == 0
    assert (seen.count("parent"), seen.count("child")) == (200, 1)


def test_stderr_gets_every_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines come in order, and closing waits for those on their way."""
    log = EventLog("stderr")
    for number in range(100):
        log.write(failure(number))
    log.close()
    assert users(capfd.readouterr().err) == [str(number) for number in range(100)]


def test_a_program_that_ends_at_once_has_written_its_events() -> None:
    """The last events before the end of a short program, which closes nothing, are not lost."""
    code = "log = EventLog('stderr')\nfor number in range(3): log.write(failure(number))"
    with program(code, stderr=subprocess.PIPE) as writer:
        _, said = writer.communicate()
    assert users(said) == ["0", "1", "2"]


def test_a_stalled_stderr_delays_nothing_and_drops_are_counted() -> None:
    """With a pipe nobody reads, writes return, and what comes out later and what was dropped is all there was."""
    code = """
log = EventLog("stderr")
for number in range(5000): log.write(failure(number))
dropped = log.dropped
print(dropped, flush=True)
sys.stdin.read()
"""
    read, write = os.pipe()
    with program(code, stderr=write) as writer, os.fdopen(read) as pipe:
        os.close(write)
        assert writer.stdout is not None
        dropped = int(writer.stdout.readline())
        assert dropped >= BACKLOG_MOST
        written = [int(user) for user in users("".join(pipe.readline() for _ in range(5000 - dropped)))]
        assert written == sorted(set(written))
        assert len(written) == 5000 - dropped
        assert f"{dropped} event lines were dropped" in pipe.readline()
        writer.communicate()
    assert writer.returncode == 0


def test_a_stalled_stderr_does_not_keep_a_program_from_ending() -> None:
    """The interpreter ends without waiting for the pipe, and without the fatal error of a lock that is held."""
    code = """
log = EventLog("stderr")
for number in range(2000): log.write(failure(number))
print("ends", flush=True)
"""
    read, write = os.pipe()
    with program(code, stderr=write) as writer:
        os.close(write)
        out, _ = writer.communicate(timeout=10)
    os.close(read)
    assert (out, writer.returncode) == ("ends\n", 0)


def test_a_closed_stderr_fails_nothing() -> None:
    """A program without standard error counts what it cannot write."""
    code = """
os.close(2)
log = EventLog("stderr")
log.write(failure(1))
log.close()
print(log.dropped)
"""
    with program(code, stderr=subprocess.DEVNULL) as writer:
        out, _ = writer.communicate()
    assert out == "1\n"
