"""A forked process that does something, as another user if need be, and tells its answer."""

import json
import os
import select
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Child:
    """A forked process."""

    pid: int
    reading: int

    def answer(self) -> object:
        """Wait for what the child gives, as JSON carries it; raise AssertionError if it gives nothing in time."""
        text = b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self.reading], [], [], DEADLINE)
            more = os.read(self.reading, 65536) if ready else b""
            assert more, "the child ended without an answer" if ready else f"no answer within {DEADLINE:g} s"
            text += more
        return json.loads(text)


@contextmanager
def forked(act: Callable[[], object], uid: int | None = None) -> Generator[Child]:
    """Do something in a forked process, which then lives on with all it has opened until the block ends."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.write(writing, json.dumps(act()).encode() + b"\n")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        yield Child(pid, reading)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
