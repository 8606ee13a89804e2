"""The event log's file, logger and default: where they work, and where they cannot. No write raises, none is lost."""

import logging
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from appguard.event_log import DefaultSink, EventLog, FileSink, SocketSink
from tests.unit.event_lines import failure, open_files, program, received, receiving, users


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def test_a_file_gets_one_line_for_each_event(tmp_path: Path) -> None:
    """Lines are appended to what is there; others may not read a file that is made."""
    path = tmp_path / "events.jsonl"
    log = EventLog(str(path))
    log.write(failure(1))
    assert path.stat().st_mode & 0o027 == 0
    log.close()
    log.write(failure(2))
    assert users(path.read_text()) == ["1", "2"]
    assert path.read_text().count("\n") == 2
    log.close()


def test_lines_of_several_workers_never_mix(tmp_path: Path) -> None:
    """Processes that write at the same time lose nothing and cut nothing."""
    path = tmp_path / "events.jsonl"
    code = "log = EventLog(sys.argv[1])\nfor number in range(500): log.write(failure(sys.argv[2] * 200))"
    with ExitStack() as running:
        workers = [running.enter_context(program(code, path, name)) for name in "abcd"]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sorted(users(path.read_text())) == sorted(name * 200 for name in "abcd" for _ in range(500))


@pytest.mark.parametrize("way", ["rename", "delete"])
def test_a_rotated_file_is_followed_within_a_second(tmp_path: Path, way: str) -> None:
    """Until then lines go to the old file, afterwards to a new one, and the old one is closed."""
    path, clock = tmp_path / "events.jsonl", Clock()
    sink = FileSink(str(path), clock)
    sink.write(b"one\n")
    files = open_files()
    if way == "rename":
        path.rename(tmp_path / "events.jsonl.1")
    else:
        path.unlink()
    clock.now += 0.9
    sink.write(b"two\n")
    assert not path.exists()
    clock.now += 0.2
    sink.write(b"three\n")
    assert path.read_bytes() == b"three\n"
    if way == "rename":
        assert (tmp_path / "events.jsonl.1").read_bytes() == b"one\ntwo\n"
    assert open_files() == files
    sink.close()


def test_a_truncated_file_goes_on_at_its_beginning(tmp_path: Path) -> None:
    """`copytruncate` leaves no hole of NUL bytes."""
    path = tmp_path / "events.jsonl"
    sink = FileSink(str(path))
    sink.write(b"one\n")
    os.truncate(path, 0)
    sink.write(b"two\n")
    assert path.read_bytes() == b"two\n"
    sink.close()


def test_a_full_disk_loses_no_event_and_spoils_no_line(tmp_path: Path) -> None:
    """What does not fit goes to the logger, and when there is room again the cut line is ended first."""
    code = """
import resource
log = EventLog(sys.argv[1])
def room(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
log.write(failure(1))
room(os.path.getsize(sys.argv[1]) + 10)
log.write(failure(2))
log.write(failure(3))
room(resource.RLIM_INFINITY)
log.write(failure(4))
"""
    path = tmp_path / "events.jsonl"
    with program(code, path, stderr=subprocess.PIPE) as writer:
        _, said = writer.communicate()
    assert writer.returncode == 0
    first, cut, last = path.read_text().splitlines()
    assert users(f"{first}\n{last}") == ["1", "4"]
    assert len(cut) == 10
    assert users(said) == ["2", "3"]
    assert said.count("cannot be written") == 1


def nothing(_: Path) -> int:
    """Leave no directory."""
    return -1


def a_directory(path: Path) -> int:
    """Put a directory in the file's place."""
    path.mkdir(parents=True)
    return -1


def a_fifo(path: Path) -> int:
    """Put a FIFO there that nobody reads."""
    path.parent.mkdir()
    os.mkfifo(path)
    return -1


def a_fifo_with_a_reader(path: Path) -> int:
    """Put a FIFO there that somebody holds open; give its descriptor."""
    a_fifo(path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def a_device(path: Path) -> int:
    """Put a device there that is always full."""
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    return -1


@pytest.mark.parametrize("place", [nothing, a_directory, a_fifo, a_fifo_with_a_reader, a_device])
def test_a_place_that_is_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: Callable[[Path], int]
) -> None:
    """A missing directory, a directory, FIFOs and devices: one ERROR, every event to the logger, nothing left open."""
    path = tmp_path / "log" / "events.jsonl"
    held = place(path)
    files = open_files()
    log = EventLog(str(path))
    for number in range(3):
        log.write(failure(number))
    assert open_files() == files
    if held >= 0:
        os.close(held)
    assert users(caplog.text) == ["0", "1", "2"]
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"event log {path} cannot be written, events go to the logger" in error.getMessage()


def test_a_directory_that_appears_is_used(tmp_path: Path) -> None:
    """When the administrator has made the directory, the next event is in the file."""
    path = tmp_path / "log" / "events.jsonl"
    log = EventLog(str(path))
    log.write(failure(1))
    path.parent.mkdir()
    log.write(failure(2))
    assert users(path.read_text()) == ["2"]
    log.close()


def test_a_file_that_was_taken_away_swallows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the directory is gone and no new file can be made, no event goes into the deleted one."""
    path, clock = tmp_path / "log" / "events.jsonl", Clock()
    path.parent.mkdir()
    log = EventLog(str(path))
    log._sink = FileSink(str(path), clock)  # pyright: ignore[reportPrivateUsage]
    log.write(failure(1))
    path.unlink()
    path.parent.rmdir()
    clock.now += 1.1
    log.write(failure(2))
    log.write(failure(3))
    assert users(caplog.text) == ["2", "3"]


def test_the_logger_gets_the_line_as_its_message(caplog: pytest.LogCaptureFixture) -> None:
    """`appguard.events` is the user's to route; the message is the event line and nothing else."""
    EventLog("logger").write(failure(1))
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("appguard.events", failure(1).to_line())


def test_a_logging_set_up_that_raises_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """A filter of the app's own that raises is no error of the request."""

    def broken(_: logging.LogRecord) -> bool:
        raise LookupError("the app's own")

    logger = logging.getLogger("appguard.events")
    logger.addFilter(broken)
    try:
        EventLog("logger").write(failure(1))
    finally:
        logger.removeFilter(broken)
    assert caplog.records == []


def test_the_default_is_the_daemons_socket_while_there_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the socket events are logged, without an ERROR; with it they are sent."""
    path = tmp_path / "events.sock"
    sink = DefaultSink(str(path))
    sink.write(b'{"user":"1"}\n')
    with receiving(path) as receiver:
        sink.write(b'{"user":"2"}\n')
        assert received(receiver) == "2"
    sink.write(b'{"user":"3"}\n')
    assert users(caplog.text) == ["1", "3"]
    assert "cannot" not in caplog.text
    sink.close()


@pytest.mark.parametrize("target", ["", "stderr", "logger", "unix:{}/events.sock", "{}/events.jsonl"])
def test_a_constructor_opens_nothing(tmp_path: Path, target: str) -> None:
    """No file, no socket, no thread, before the first event."""
    files, threads = open_files(), threading.active_count()
    log = EventLog(target.format(tmp_path))
    assert (open_files(), threading.active_count()) == (files, threads)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_forgotten_is_closed(tmp_path: Path) -> None:
    """A sink that nobody closed leaves no file, no socket and no warning behind when it is garbage."""
    path = tmp_path / "events.sock"
    with receiving(path):
        files = open_files()
        file, connection = FileSink(str(tmp_path / "events.jsonl")), SocketSink(str(path))
        file.write(b"line\n")
        connection.write(b"line\n")
        assert open_files() == files + 2
        del file, connection
        assert open_files() == files


def test_closing_may_be_repeated(tmp_path: Path) -> None:
    """Close before, between and after events: each event is written."""
    path = tmp_path / "events.jsonl"
    log = EventLog(str(path))
    for number in range(3):
        log.close()
        log.write(failure(number))
        log.close()
        log.close()
    assert users(path.read_text()) == ["0", "1", "2"]


@pytest.mark.parametrize("target", ["events.jsonl", "events.sock"])
def test_closing_leaves_a_thread_the_line_it_writes(tmp_path: Path, target: str) -> None:
    """What another thread is writing to is closed behind it: its descriptor could be somebody else's by then."""
    path = str(tmp_path / target)
    with receiving(tmp_path / "events.sock"):
        files, sink = open_files(), FileSink(path) if target == "events.jsonl" else SocketSink(path)
        sink.write(b"1\n")
        closing = threading.Thread(target=sink.close)
        with sink._lock:  # pyright: ignore[reportPrivateUsage]
            closing.start()
            closing.join(0.1)
            assert open_files() == files + 1
        closing.join()
        assert open_files() == files


def test_threads_share_a_file_that_is_rotated(tmp_path: Path) -> None:
    """Many threads that write while the file is renamed away again and again lose no line, and mix none."""
    clock = Clock()
    sink = FileSink(str(tmp_path / "events"), monotonic=clock)
    lines = [f"line {number}\n".encode() for number in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        writes = [threads.submit(sink.write, line) for line in lines]
        for number in range(20):
            clock.now += 2  # look at the file again at the next line
            with suppress(FileNotFoundError):
                (tmp_path / "events").rename(tmp_path / f"events.{number}")
        for write in writes:
            write.result()
    sink.close()
    found = [line for path in tmp_path.iterdir() for line in path.read_bytes().splitlines(keepends=True)]
    assert sorted(found) == sorted(lines)
