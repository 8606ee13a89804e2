"""What the tests of sources share: a stand-in for the daemon that keeps what is delivered, and ways to run a source."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from appguard.sources.base import Chunk, Source

STRANGER = 65534


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


@asynccontextmanager
async def running(source: Source, kept: Kept) -> AsyncGenerator[None]:
    """Run a source for the length of the block; an error of the source is raised at its end."""
    task = asyncio.create_task(source.run(kept.deliver))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "", deadline: float = 10) -> None:
    """Wait until a condition holds; raise AssertionError with what is there instead."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what()}"
        await asyncio.sleep(0.002)


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
    return len(os.listdir("/proc/self/fd"))
