"""Commands and standard input as sources: their lines, their ends, their words, and what of them is left behind."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from appguard.sources.base import LINE_MOST, Chunk
from appguard.sources.child import WORDS_SHOWN
from appguard.sources.command import CommandSource, StdinSource
from tests.daemon import Place, login_failure
from tests.integration.reading import Kept, open_files, running
from tests.lab import processes, wait_until


def command_of(*command: str) -> CommandSource:
    """Give a source that does not wait long before it runs a command anew."""
    return CommandSource("command", command, pause_first=0.05)


def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    """A command that follows something is heard line by line; it gets its arguments unchanged, and no shell."""
    log, kept = tmp_path / "a log; $(touch x)", Kept()
    log.write_bytes(b"first\n")
    source = command_of("tail", "-n", "+1", "-f", str(log))
    with running(source, kept) as run:
        kept.wait_for([b"first"])
        for number in range(3):
            with log.open("ab") as writer:
                writer.write(b"%d \xff\n" % number)
            kept.wait_for([b"first", *(b"%d \xff" % done for done in range(number + 1))])
        assert (run.status().complaint, run.status().behind, run.status().lag) == ("", 0, 0)
        assert run.status().origins == (f"tail -n +1 -f '{log}'",)
    assert not left(str(log))


def left(argument: str) -> list[str]:
    """Give the processes that have an argument."""
    return [command for command in processes().values() if argument in command]


def test_what_ends_is_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """A command that ends gives its unended line too, is a complaint with its last words, and begins anew."""
    kept, before = Kept(), open_files()
    with running(command_of("sh", "-c", "echo one; printf two; echo oh >&2; echo 'no \x1b' >&2; exit 3"), kept) as run:
        wait_until(lambda: len(kept.lines()) >= 6, 10, lambda: str(kept.lines()))
        run.wait_for_complaint("it ended with status 3; it said 'no \\x1b'")
    assert kept.lines()[:6] == [b"one", b"two"] * 3
    assert "says: 'oh'" in caplog.text and "says: 'no \\x1b'" in caplog.text
    assert open_files() == before


def test_pauses_grow() -> None:
    """A command that fails at once is not run in a tight loop."""
    kept = Kept()
    with running(CommandSource("command", ["sh", "-c", "date +%s.%N"], pause_first=0.1), kept):
        wait_until(lambda: len(kept.lines()) == 4, 10, "four runs")
    times = [float(line) for line in kept.lines()]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)), pauses


def test_a_missing_command_is_a_complaint(tmp_path: Path) -> None:
    """What is not installed, or may not be run, is said; it is run once it is there."""
    program, kept = tmp_path / "follow", Kept()
    with running(command_of(str(program)), kept) as run:
        run.wait_for_complaint(f"{program} is not installed")
        program.write_text("#!/no/such/interpreter\n")
        program.chmod(0o755)
        run.wait_for_complaint(f"{program} does not start: No such file or directory")
        program.unlink()
        (tmp_path / "new").write_text("#!/bin/sh\necho here\n")
        (tmp_path / "new").chmod(0o755)
        (tmp_path / "new").rename(program)
        wait_until(kept.lines, 10, "its line")


def test_it_may_say_anything(caplog: pytest.LogCaptureFixture) -> None:
    """A flood on standard error neither fills the log nor holds the command up; long lines are cut on both sides."""
    talk = "import sys\nfor _ in range(50_000): print('y' * 99, file=sys.stderr)\nprint('x' * 10_000_000, flush=True)\n"
    kept = Kept()
    with running(command_of(sys.executable, "-c", talk + "input()\n"), kept):
        wait_until(kept.lines, 20, "its line")
    assert kept.lines()[0] == b"x" * LINE_MOST
    assert caplog.text.count("says: ") <= 2 * WORDS_SHOWN


def test_a_slow_reader_holds_the_command_up() -> None:
    """Nothing is read ahead: what is not counted yet waits in the pipe, the command with it, and the lag is told."""
    kept = Kept()
    source = command_of(
        sys.executable,
        "-c",
        "import time\nfor number in range(200_000): print(number)\nprint(flush=True)\ntime.sleep(60)",
    )
    seen: list[int] = []

    class Slow(Kept):
        def deliver(self, chunk: Chunk) -> None:
            wait_until(lambda: source.status().behind > 10_000 or len(seen) > 5, 10, "a full pipe")
            seen.append(source.status().behind)
            kept.deliver(chunk)

    with running(source, Slow()):
        wait_until(lambda: len(kept.lines()) == 200_001, 20, lambda: f"{len(kept.lines())}")
    assert kept.lines() == [*(b"%d" % number for number in range(200_000)), b""]
    assert max(seen) <= 64 * 1024


def test_stubborn_commands_are_killed_with_what_they_started() -> None:
    """A command that ignores SIGTERM, and what it has started, end with the source."""
    kept = Kept()
    script = "trap '' TERM; sleep 98765 & echo up; wait; wait"
    with running(command_of("sh", "-c", script), kept):
        kept.wait_for([b"up"])
    wait_until(lambda: not left("98765"), 5, lambda: str(left("98765")))


def test_stdin_is_read_to_its_end(tmp_path: Path) -> None:
    """A pipe is heard line by line, a file is read; the end is a complaint, and the source goes on running."""
    kept = Kept()
    reading, writing = os.pipe()
    with running(StdinSource("stdin", reading), kept) as run:
        os.write(writing, b"one\ntw")
        kept.wait_for([b"one"])
        assert (run.status().behind, run.status().complaint) == (0, "")
        os.write(writing, b"o\nthree")
        kept.wait_for([b"one", b"two"])
        os.close(writing)
        run.wait_for_complaint("standard input has ended")
        assert run.is_alive()
    os.close(reading)
    assert kept.lines() == [b"one", b"two", b"three"]
    log = tmp_path / "log"
    log.write_bytes(b"x\n" * 50_000)
    kept = Kept()
    with log.open("rb") as opened, running(StdinSource("stdin", opened.fileno()), kept):
        kept.wait_for([b"x"] * 50_000)


@pytest.mark.parametrize(("path", "said"), [("/dev/null", "no pipe"), ("/", "cannot be read: Is a directory")])
def test_a_stdin_that_is_none_is_a_complaint(path: str, said: str) -> None:
    """What a service manager gives as standard input is no source, and that is said."""
    descriptor = os.open(path, os.O_RDONLY)
    with running(StdinSource("stdin", descriptor), Kept()) as run:
        run.wait_for_complaint(said)
    os.close(descriptor)


@pytest.mark.lab
def test_a_daemon_reads_both(open_tmp_path: Path) -> None:
    """A daemon counts what a command and its standard input say, and its command ends although it was killed."""
    place = Place(open_tmp_path, user=None)
    place.access_log.touch()
    follow = f'command = ["tail", "-n", "+1", "-f", "{place.access_log}"]'
    rest = 'filter = "appguard"\nmaxretry = 3\n'
    place.configure(
        f'[jails.one]\nsource = "command"\n{follow}\n{rest}[jails.two]\nsource = "stdin"\n{rest}',
        '[firewall]\nkind = "dry_run"\n',
    )
    with subprocess.Popen(place.command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdin is not None
        try:
            wait_until(place.control.exists, 10, "the daemon")
            daemon.stdin.write(f"{login_failure('203.0.113.1').to_line()}\n".encode() * 3)
            daemon.stdin.flush()
            place.access_log.write_text(f"{login_failure('203.0.113.2').to_line()}\n" * 3)
            wait_until(lambda: place.banned() == ["203.0.113.1", "203.0.113.2"], 10, lambda: str(place.banned()))
        finally:
            daemon.send_signal(signal.SIGKILL)
    with place.access_log.open("a") as log:
        log.write("nobody reads this\n")
    wait_until(lambda: not left(str(place.access_log)), 10, lambda: str(left(str(place.access_log))))
