"""The output of a command, such as `podman logs -f shop`, and standard input: lines that cannot be read again."""

import asyncio
import os
import shlex
import stat
from collections.abc import Sequence

from appguard.sources.base import Chunk, Deliver, SourceStatus
from appguard.sources.child import PAUSE_FIRST, Child
from appguard.sources.lines import LineBuffer
from appguard.sources.pipe import Pipe


class _Lines:
    """Delivers the lines of blocks that come from one origin; an empty block ends the last line."""

    def __init__(self, origin: str, deliver: Deliver) -> None:
        self._origin = origin
        self._deliver = deliver
        self._buffer = LineBuffer()

    def take(self, block: bytes) -> None:
        lines = self._buffer.add(block) if block else self._buffer.end()
        if lines:
            self._deliver(Chunk(self._origin, lines))


class CommandSource:
    """Runs a command and delivers what it writes on standard output; it is run anew when it ends."""

    def __init__(self, name: str, command: Sequence[str], *, pause_first: float = PAUSE_FIRST) -> None:
        self.name = name
        self._command = tuple(command)
        self._origin = shlex.join(command)
        self._child = Child(name, pause_first=pause_first)

    async def run(self, deliver: Deliver) -> None:
        """Deliver lines until cancelled, then end the command."""
        await self._child.run(lambda: self._command, _Lines(self._origin, deliver).take)

    def status(self) -> SourceStatus:
        """Say which command it is, how much of its output waits, and how it fails."""
        child = self._child
        return SourceStatus((self._origin,), child.behind, child.complaint, child.lag)


class StdinSource:
    """Delivers the lines of standard input to its end."""

    def __init__(self, name: str, descriptor: int = 0) -> None:
        self.name = name
        self._descriptor = descriptor
        self._pipe = Pipe(descriptor)
        self._complaint = ""

    async def run(self, deliver: Deliver) -> None:
        """Deliver lines until cancelled; the end of the input is a complaint."""
        lines = _Lines("stdin", deliver)
        try:
            if stat.S_ISCHR(os.fstat(self._descriptor).st_mode) and not os.isatty(self._descriptor):
                self._complaint = "standard input is no pipe: run it as COMMAND | appguard daemon"
            else:
                await self._pipe.read(lines.take)
                self._complaint = "standard input has ended"
        except OSError as error:
            self._complaint = f"standard input cannot be read: {error.strerror}"
        lines.take(b"")
        await asyncio.Event().wait()  # there is nothing more to read, and other sources go on

    def status(self) -> SourceStatus:
        """Say how much of the input waits, and whether it has ended."""
        return SourceStatus(("stdin",), self._pipe.behind, self._complaint, self._pipe.lag)
