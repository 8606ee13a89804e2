"""Runs a program for its output, again and again: what ends is started anew, after a pause that grows while it fails.

The program is an argument list, never a shell's line. What it says on standard error is logged, so many lines a run,
and its last words are the complaint. It gets no input. It ends with the source; if the daemon is killed, it ends by
itself at the next line it writes, because nobody reads any more.
"""

import asyncio
import logging
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from appguard.sources.lines import LineBuffer
from appguard.sources.pipe import Pipe

PAUSE_FIRST = 1.0  # seconds before a program that ended is started anew
PAUSE_MOST = 60.0
GOOD_RUN = 60.0  # after a run of so many seconds the pauses begin small again
WORDS_SHOWN = 10  # lines of standard error that are logged in one run
WORDS_MOST = 300  # bytes of such a line
END_PATIENCE = 2.0  # seconds to end at SIGTERM
SBIN = "/usr/sbin:/sbin"  # where some programs are, also for a PATH without it

_log = logging.getLogger(__name__)


class Child:
    """A program run for its output. `name` is its source's."""

    def __init__(self, name: str, *, pause_first: float = PAUSE_FIRST) -> None:
        self._name = name
        self._pause_first = pause_first
        self._pause = pause_first
        self._pipe: Pipe | None = None
        self._words = ""
        self._ended = ""

    async def run(self, command: Callable[[], Sequence[str]], take: Callable[[bytes], None]) -> None:
        """Hand all output to `take` until cancelled; an empty block says that a run has ended."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._words = ""
            self._ended = await self._run_once(command(), take)
            _log.warning("source %s: %s", self._name, self.complaint)
            if loop.time() - began >= GOOD_RUN:
                self._pause = self._pause_first
            await asyncio.sleep(self._pause)
            self._pause = min(PAUSE_MOST, self._pause * 2)

    async def _run_once(self, command: Sequence[str], take: Callable[[bytes], None]) -> str:
        """Run it to its end; say how that was."""
        path = f"{os.environ.get('PATH', '')}:{SBIN}"
        program = shutil.which(command[0], path=path)
        if program is None:
            return f"{command[0]} is not installed, or not in {path}"
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(writing, True)
            process = await self._start(program, command[1:], writing)
        except OSError as error:
            os.close(reading)
            return f"{program} does not start: {error.strerror}"
        finally:
            os.close(writing)
        try:
            return await self._read(process, reading, take)
        finally:
            self._pipe = None
            os.close(reading)
            await _end(process)

    @staticmethod
    async def _start(program: str, arguments: Sequence[str], output: int) -> Process:
        return await asyncio.create_subprocess_exec(
            program, *arguments, stdin=DEVNULL, stdout=output, stderr=PIPE, start_new_session=True
        )

    async def _read(self, process: Process, reading: int, take: Callable[[bytes], None]) -> str:
        self._pipe, self._ended = Pipe(reading), ""
        words = asyncio.create_task(self._listen(process))
        try:
            await self._pipe.read(take)
            take(b"")
            with suppress(TimeoutError):
                async with asyncio.timeout(END_PATIENCE):
                    status = await process.wait()
                    await words
                    return f"it ended with status {status}"
            return "it closed its output"
        finally:
            words.cancel()

    async def _listen(self, process: Process) -> None:
        """Log what it says on standard error, the first lines of it."""
        assert process.stderr is not None
        buffer, logged = LineBuffer(WORDS_MOST), 0
        while block := await process.stderr.read(WORDS_MOST):
            for line in buffer.add(block):
                self._words = line.decode(errors="replace").strip() or self._words
                if logged < WORDS_SHOWN:
                    _log.warning("source %s says: %r", self._name, self._words)
                logged += 1

    @property
    def complaint(self) -> str:
        """Say what is wrong: how it ended, and its last words."""
        return "; ".join(said for said in (self._ended, self._words and f"it said {self._words!r}") if said)

    @property
    def behind(self) -> int:
        """Give the number of bytes it has written that are not yet read."""
        return self._pipe.behind if self._pipe else 0

    @property
    def lag(self) -> float:
        """Give the seconds since all it has written was read."""
        return self._pipe.lag if self._pipe else 0.0


async def _end(process: Process) -> None:
    """End a program and what it has started: gently, then not."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_PATIENCE):
                await process.wait()
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: Process, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)
