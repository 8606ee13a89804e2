"""Real processes for tests, demonstration and benchmarks: started as any user, their output kept, stopped for sure."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 10.0
POLL_EVERY = 0.005


def in_lab() -> bool:
    """Say whether we are inside scripts/lab."""
    return os.environ.get("APPGUARD_LAB") == "1"


def wait_until(condition: Callable[[], T], deadline: float, what: str | Callable[[], str]) -> T:
    """Ask until the answer is true and give it; raise AssertionError with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_EVERY)
    return answer


_given_ports: set[int] = set()


def free_port(address: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Give a port that nothing listens on and that was not given before, below those of outgoing connections."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        port = random.randrange(15_000, 30_000)
        if port in _given_ports:
            continue
        _given_ports.add(port)
        with socket.socket(family, kind) as probe, suppress(OSError):
            probe.bind((address, port))
            return port


def is_listening(port: int, address: str = "127.0.0.1") -> bool:
    """Say whether a TCP server accepts connections."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def processes() -> dict[int, str]:
    """Give the command of every process we can see that has not ended."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if command:  # a zombie has none
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


@dataclass(frozen=True, slots=True)
class User:
    """Whom a process runs as: numeric ids, and the few capabilities it keeps."""

    uid: int
    gid: int | None = None
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()

    def prefix(self) -> list[str]:
        """Give the command that becomes this user and runs what follows it."""
        gid = self.uid if self.gid is None else self.gid
        kept = ",".join(("-all", *(f"+{name}" for name in self.capabilities)))
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        capabilities = [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
        return ["setpriv", f"--reuid={self.uid}", f"--regid={gid}", groups, *capabilities, "--no-new-privs"]


def has_user(uid: int) -> bool:
    """Say whether this (user) namespace lets us act as a user: root does, a namespace with one id mapped does not."""
    return not subprocess.run([*User(uid).prefix(), "true"], stderr=subprocess.DEVNULL, check=False).returncode


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a process's output and the monotonic time it arrived."""

    time: float
    text: str


class Process:
    """A running process; a thread reads its output (both streams) as it comes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self._lines: list[Line] = []
        self._arrival = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            [*(user.prefix() if user else ()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            cwd=directory,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrival:
                self._lines.append(Line(time.monotonic(), line.decode(errors="replace").rstrip("\n")))
                self._arrival.notify_all()
        with self._arrival:
            self._ended = True
            self._arrival.notify_all()

    @property
    def pid(self) -> int:
        """Give the process id (`setpriv` becomes the command, so it is the command's own)."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Give the exit status, None while it runs."""
        return self._process.poll()

    def lines(self) -> list[Line]:
        """Give the output so far."""
        with self._arrival:
            return list(self._lines)

    def output(self) -> str:
        """Give the output so far as one text."""
        return "\n".join(line.text for line in self.lines())

    def wait_for(self, text: str, deadline: float = DEADLINE, *, after: int = 0) -> Line:
        """Wait for a line that holds `text`, not looking at the first `after` lines; raise AssertionError."""

        def found() -> Line | None:
            return next((line for line in self._lines[after:] if text in line.text), None)

        with self._arrival:
            self._arrival.wait_for(lambda: found() or self._ended, deadline)
            line = found()
        if line is None:
            raise AssertionError(f"{self.name} did not say {text!r} within {deadline:g} s; it said:\n{self.output()}")
        return line

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self._process.send_signal(signum)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for its end; give the exit status, negative for a signal."""
        return self._process.wait(deadline)

    def stop(self, deadline: float = DEADLINE) -> int:
        """End it with SIGTERM, and with SIGKILL after the deadline, and all processes it started; give its status."""
        self._process.terminate()
        try:
            self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end_session()
        status = self._process.wait()
        self._reader.join(deadline)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def _end_session(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def running(process: Process) -> Generator[Process]:
    """Stop the process at the end of the block."""
    try:
        yield process
    finally:
        process.stop()
