"""Reads a pipe, or whatever else a program's input or output is, to its end: a block at a time, with turns for others.

Nothing is read ahead: a block is handed over before the next is read. So a slow reader fills the pipe, and that holds
the writer up; no line is lost and none is kept in memory.
"""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

from appguard.sources.base import Lag

BLOCK_BYTES = 32 * 1024  # what is counted before others get their turn


class Pipe:
    """The reading end of a pipe, given by its descriptor, which stays its owner's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lag = Lag()

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Hand all blocks to `take`, until the end or cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._until_readable(loop)
            began = loop.time()
            try:
                block = os.read(self._descriptor, BLOCK_BYTES)
            except BlockingIOError:
                continue  # somebody else was faster
            if not block:
                return
            take(block)
            if len(block) < BLOCK_BYTES:
                self._lag.caught_up()
            await asyncio.sleep(loop.time() - began)  # a flood leaves others as much time as it takes

    async def _until_readable(self, loop: asyncio.AbstractEventLoop) -> None:
        readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, readable.set)
        except PermissionError:  # a regular file: always readable
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)

    @property
    def behind(self) -> int:
        """Give the number of bytes that wait in the pipe."""
        with suppress(OSError):  # what cannot say so
            return int(struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0" * 4))[0])
        return 0

    @property
    def lag(self) -> float:
        """Give the seconds since nothing waited in it."""
        return self._lag.seconds(self.behind)
