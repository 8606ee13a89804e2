"""What the tests of sources share: a source running in a thread of its own, and what it delivered."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from appguard.sources.base import Chunk, Source, SourceStatus
from appguard.sources.generation import CHUNK_BYTES
from appguard.sources.tail import Tail
from tests.lab import wait_until

STRANGER = 65534
DEADLINE = 10.0


class Kept:
    """Keeps the chunks of a source, and the last position of each origin as the daemon's state would."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.positions: dict[str, str] = {}

    def deliver(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self.chunks.append(chunk)
        if chunk.position is not None:
            self.positions[chunk.origin] = chunk.position

    def lines(self, origin: object = None) -> list[bytes]:
        """Give all lines so far, or those of one origin."""
        return [line for chunk in self.chunks for line in chunk.lines if origin is None or chunk.origin == str(origin)]

    def origins(self) -> set[str]:
        """Give where lines came from."""
        return {chunk.origin for chunk in self.chunks if chunk.lines}

    def wait_for(self, lines: list[bytes]) -> None:
        """Wait until as many lines are there, and assert that it is these."""
        wait_until(lambda: len(self.lines()) >= len(lines), DEADLINE, lambda: f"{len(lines)} lines: {self.lines()}")
        assert self.lines() == lines


class ReadBySteps:
    """Follows a log as the source does, `most` bytes at a time, and is killed and started again between two steps."""

    def __init__(self, log: Path, kept: Kept) -> None:
        self.most = CHUNK_BYTES
        self._log = log
        self._kept = kept
        self.start()

    def start(self) -> None:
        """Begin where the last chunk ended."""
        self._tail = Tail(str(self._log), self._kept.positions.get(str(self._log), ""), lambda identity: "", 60.0)

    def read(self) -> bool:
        """Look, and read one chunk; say whether there was one."""
        self._tail.look(time.monotonic())
        return self._tail.read(self._kept.deliver, time.monotonic(), self.most)

    def read_all(self, lines: int) -> None:
        """Read until there are so many lines in all, and nothing more."""
        wait_until(
            lambda: not self.read() and len(self._kept.lines()) >= lines,
            DEADLINE,
            lambda: f"{lines} lines: {self._kept.lines()[-9:]}",
        )

    def close(self) -> None:
        """Close the files."""
        self._tail.close()


class Running:
    """A source running on a loop of its own."""

    def __init__(self, source: Source, kept: Kept) -> None:
        self.error: BaseException | None = None
        self._source = source
        self._kept = kept
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"source {source.name}")

    def _run(self) -> None:
        self._task = self._loop.create_task(self._source.run(self._kept.deliver))
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - the test's thread is to see it
            self.error = error

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it as the daemon does, and raise what it raised."""

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        self._loop.call_soon_threadsafe(cancel)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self._loop.close()
        if self.error is not None:
            raise self.error

    def status(self) -> SourceStatus:
        """Ask for the status, on the loop as the daemon does."""

        async def ask() -> SourceStatus:
            return self._source.status()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(DEADLINE)

    def wait_for_complaint(self, *parts: str) -> str:
        """Wait for a complaint that says all this; give it."""

        def found() -> str:
            said = self.status().complaint
            return said if all(part in said for part in parts) else ""

        return wait_until(found, DEADLINE, lambda: f"{parts} in {self.status().complaint!r}")

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._thread.is_alive()


@contextmanager
def running(source: Source, kept: Kept) -> Generator[Running]:
    """Run a source for the length of the block; an error of the source is raised at its end."""
    run = Running(source, kept)
    run.start()
    try:
        yield run
    finally:
        run.stop()


def as_stranger(act: Callable[[], str]) -> str:
    """Do something in a forked process under another user id, and give what it says."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            os.write(writing, act().encode())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is to see it
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:  # noqa: PTH123 - a descriptor has no path
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def open_files() -> int:
    """Give the number of descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
