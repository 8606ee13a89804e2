"""What the tests of the event log share: events to write, lines read back, a daemon's socket, programs that write."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from appguard.address import parse_address
from appguard.event import Event

PRELUDE = """
import os, sys, time
from appguard.event_log import EventLog
from tests.unit.event_lines import failure
"""


def failure(number: object = 0) -> Event:
    """Give a failed login with a number as its user."""
    return Event("authn_login_fail", 1_700_000_000.0, parse_address("203.0.113.5"), user=str(number))


def users(text: str) -> list[str]:
    """Give the users of the event lines in a text; lines that are none are left out."""
    lines = (line[line.index("{") :] for line in text.splitlines() if line.endswith("}"))
    return [cast("dict[str, str]", json.loads(line))["user"] for line in lines]


def open_files() -> int:
    """Give the number of files this process has open, what is garbage not counted."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def receiving(path: Path) -> Generator[socket.socket]:
    """Listen as the daemon does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(5)
        yield receiver
    path.unlink()


def received(receiver: socket.socket) -> str:
    """Take one datagram; give the user of its event."""
    (user,) = users(receiver.recv(1 << 16).decode())
    return user


@contextmanager
def program(code: str, *arguments: object, stderr: int | None = None) -> Generator[subprocess.Popen[str]]:
    """Run a program that writes events; at the end of the block it and its children must not go on."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, start_new_session=True) as made:
        try:
            yield made
        except BaseException:
            os.killpg(made.pid, signal.SIGKILL)
            raise
