"""The event socket: the kernel says who writes, a flood holds nobody up, the file comes and goes with the daemon."""

import array
import asyncio
import os
import socket
import stat
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from appguard.errors import SourceError
from appguard.sources.base import LINE_MOST, Deliver, Source, SourceStatus
from appguard.sources.datagrams import DATAGRAM_MOST, TURN_DATAGRAMS
from appguard.sources.file import FileSource
from appguard.sources.socket import DATAGRAM_LINES, EventSocket
from tests.integration.reading import STRANGER, Kept, as_stranger, open_files, running
from tests.lab import Process, has_user, wait_until

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")


def connected(path: Path) -> socket.socket:
    """Give a socket that sends to the event socket."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.settimeout(10)
    wait_until(lambda: sender.connect_ex(str(path)) == 0, 10, "the socket")
    return sender


@pytest.fixture
def path(open_tmp_path: Path) -> Path:
    """Give the path of an event socket every user can reach."""
    return open_tmp_path / "events.sock"


def test_lines_arrive_with_their_sender(path: Path) -> None:
    """A datagram is one line or several; each chunk has the sender's uid and no position."""
    kept = Kept()
    with running(EventSocket("events", path), kept) as run, closing(connected(path)) as sender:
        sender.send(b"no line end")
        sender.send(b"one\ntwo\r\n\nthree\n")
        sender.send(b"\xff\xfe")
        kept.wait_for([b"no line end", b"one", b"two", b"three", b"\xff\xfe"])
        assert run.status().origins == (str(path),)
        assert run.status().complaint == ""
    assert {(chunk.origin, chunk.uid, chunk.position) for chunk in kept.chunks} == {(str(path), os.geteuid(), None)}


@needs_users
def test_the_kernel_vouches_for_the_sender(path: Path) -> None:
    """An app under another uid is known by that uid, also among others' datagrams, and cannot claim another."""
    kept = Kept()

    def send() -> str:
        with closing(connected(path)) as sender:
            sender.send(b"theirs")
            forged = array.array("i", [os.getpid(), 0, 0])
            try:
                sender.sendmsg([b"forged"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, forged)])
            except PermissionError:
                return "refused"
            return "sent"

    source = EventSocket("events", path)
    source.open()
    assert as_stranger(send) == "refused"
    with closing(connected(path)) as sender:
        sender.send(b"ours")
    with running(source, kept):
        wait_until(lambda: len(kept.lines()) == 2, 10, "both lines")
    assert {(chunk.uid, *chunk.lines) for chunk in kept.chunks} == {(STRANGER, b"theirs"), (os.geteuid(), b"ours")}


def test_long_datagrams_are_cut(path: Path) -> None:
    """A long line is cut, and so is a datagram that is too long or has more lines than an app sends."""
    kept = Kept()
    short = b"y" * 100 + b"\n"
    with running(EventSocket("events", path), kept) as run, closing(connected(path)) as sender:
        sender.send(b"x" * (LINE_MOST + 1) + b"\nbehind")
        kept.wait_for([b"x" * LINE_MOST, b"behind"])
        assert run.status().complaint == ""
        sender.send(b"z" * (DATAGRAM_MOST + 1))
        sender.send(short * (DATAGRAM_LINES + 1))
        sender.send(short + b"." * DATAGRAM_MOST)
        sender.send(short * DATAGRAM_LINES)
        kept.wait_for(
            [b"x" * LINE_MOST, b"behind", b"z" * LINE_MOST]
            + [short.rstrip()] * (DATAGRAM_LINES + 1)
            + [b"." * LINE_MOST]
            + [short.rstrip()] * DATAGRAM_LINES
        )
        run.wait_for_complaint("3 datagrams too long, empty or with more than data")


def test_odd_datagrams_are_counted(path: Path) -> None:
    """Empty ones and ones that carry descriptors are counted; no descriptor is left behind."""
    kept = Kept()
    with running(EventSocket("events", path), kept) as run, closing(connected(path)) as sender:
        sender.send(b"first")
        kept.wait_for([b"first"])
        before = open_files()
        sender.send(b"")
        sender.send(b"\n\n")
        for _ in range(50):
            socket.send_fds(sender, [b"fd"], [0, 1, 2])
        kept.wait_for([b"first", *[b"fd"] * 50])
        run.wait_for_complaint("52 datagrams")
        assert open_files() <= before  # what an earlier test left may be closed meanwhile


def test_datagrams_without_credentials_are_dropped(path: Path) -> None:
    """What the kernel does not vouch for is not delivered, but counted."""
    kept = Kept()
    source = EventSocket("events", path)
    source.open()
    stop_vouching(path)
    with running(source, kept) as run, closing(connected(path)) as sender:
        sender.send(b"who?")
        run.wait_for_complaint("1 datagrams without credentials dropped")
    assert kept.lines() == []


def stop_vouching(path: Path) -> None:
    """Take the option from the socket bound to a path that makes the kernel say who sends."""
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # it is closed by now
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as found:
                    if found.getsockname() == str(path):
                        found.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)


FLOOD = """
import socket, sys
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.connect(sys.argv[1])
while True:
    sender.send(b"flood")
"""


class Together:
    """Sources on one loop, as in the daemon."""

    name = "together"

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    async def run(self, deliver: Deliver) -> None:
        """Run them all."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources:
                tasks.create_task(source.run(deliver))

    def status(self) -> SourceStatus:
        """Give the status of the first."""
        return self._sources[0].status()


def test_a_flood_starves_nobody(path: Path, tmp_path: Path) -> None:
    """While apps send as fast as they can, a file of the same daemon is read line by line as it is written."""
    log, kept = tmp_path / "log", Kept()
    with running(Together(EventSocket("events", path), FileSource("log", [str(log)], {})), kept):
        flooders = [Process("flood", [sys.executable, "-c", FLOOD, path]) for _ in range(2)]
        try:
            for number in range(30):
                write_in_flood(log, b"%d" % number, kept)
        finally:
            for flooder in flooders:
                flooder.stop()
    assert kept.lines(log) == [b"%d" % number for number in range(30)]
    assert max(len(chunk.lines) for chunk in kept.chunks) <= TURN_DATAGRAMS


def write_in_flood(log: Path, line: bytes, kept: Kept) -> None:
    """Wait until the flood goes on, write a line to a file and wait for it."""
    turns = len(kept.chunks)
    wait_until(lambda: len(kept.chunks) > turns + 5, 10, "the flood")
    with log.open("ab") as writer:
        writer.write(line + b"\n")
    wait_until(lambda: kept.lines(log)[-1:] == [line], 10, "the line")


def test_the_file_is_for_all_and_goes_with_the_source(path: Path) -> None:
    """The socket's file has the mode asked for, whatever the umask, and is gone when the source ends."""
    for mode in (0o666, 0o620):
        with running(EventSocket("events", path, mode), Kept()):
            connected(path).close()
            wait_until(lambda wanted=mode: stat.S_IMODE(path.stat().st_mode) == wanted, 5, "it has another mode")  # type: ignore[misc]
            assert stat.S_ISSOCK(path.stat().st_mode)
        assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """The file a killed daemon left behind does not keep the next one from starting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
        killed.bind(str(path))
    kept = Kept()
    with running(EventSocket("events", path), kept), closing(connected(path)) as sender:
        sender.send(b"1")
        kept.wait_for([b"1"])


def test_a_file_that_is_no_socket_is_refused(path: Path) -> None:
    """Nothing but a socket is ever removed."""
    path.write_text("precious")
    with pytest.raises(SourceError, match=r"cannot listen on .*/events.sock: something that is no socket is there"):
        EventSocket("events", path).open()
    assert path.read_text() == "precious"


def test_a_second_daemon_is_refused(path: Path) -> None:
    """A socket somebody listens on is not taken away from them, and the one refused does not remove it."""
    kept = Kept()
    with running(EventSocket("events", path), kept), closing(connected(path)) as sender:
        second = EventSocket("events", path)
        with pytest.raises(SourceError, match="is a second daemon running"):
            asyncio.run(second.run(kept.deliver))
        second.close()
        sender.send(b"1")
        kept.wait_for([b"1"])


def test_a_socket_of_a_successor_is_left_alone(path: Path) -> None:
    """A source whose file was replaced does not remove the new one when it ends."""
    first, second = EventSocket("events", path), EventSocket("events", path)
    first.open()
    path.unlink()
    second.open()
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


@pytest.mark.parametrize("name", ["missing/events.sock", "x" * 120])
def test_a_place_that_cannot_be_is_a_clear_error(tmp_path: Path, name: str) -> None:
    """The error names the path and the reason, and nothing stays open."""
    before = open_files()
    with pytest.raises(SourceError, match=r"cannot listen on /.*: (No such file or directory|AF_UNIX path too long)"):
        EventSocket("events", tmp_path / name).open()
    assert open_files() == before
