"""Clients whose callers wait a bounded time, while the call behind goes on to its end.

Finding the master of a Sentinel or the shards of a Cluster, and TLS, take several steps, each of which may meet a
server that hangs. A request cannot wait for that, and a search that is given up with every request would never end. So
the call runs in a thread or task of its own: its caller leaves after its time, what was found is there for the next
one. A call that nobody waits for any more may still be carried out.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from threading import Lock
from typing import Any, TypeVar

from appguard.fork import in_every_child
from appguard.stores.redis_commands import AsyncCommands, Commands

T = TypeVar("T")

CALLS_MOST = 16  # at the same time: each has a connection, and a burst should not open many


class BoundedCommands:
    """A client for threads whose every call is left after `seconds`. It is opened by its first call."""

    def __init__(self, open_client: Callable[[], Commands], seconds: float) -> None:
        self._open_client = open_client
        self._seconds = seconds
        self._renew()
        in_every_child(self, BoundedCommands._renew)

    def _renew(self) -> None:
        self._lock = Lock()
        self._client: Commands | None = None
        self._threads: ThreadPoolExecutor | None = None

    def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply; raise `TimeoutError` or what the client raises."""
        return self.run(lambda client: client.execute_command(*arguments))

    def run(self, work: Callable[[Commands], T], seconds: float = inf) -> T:
        """Do what takes several commands, in the time of one or less; raise `TimeoutError` or what it raises."""
        done = self._pool().submit(lambda: work(self._opened()))
        try:
            return done.result(min(seconds, self._seconds))
        finally:
            done.cancel()  # if it has not begun

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(CALLS_MOST, thread_name_prefix="appguard-redis")
            return self._threads

    def _opened(self) -> Commands:
        with self._lock:
            client = self._client
        if client is None:
            opened = self._open_client()
            with self._lock:
                client = self._client = self._client or opened
            if client is not opened:
                opened.close()
        return client

    def close(self) -> None:
        """Close the connections when the calls that still run have ended."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        with self._lock:  # now, not before: a call that still ran may have opened it
            client, self._client = self._client, None
        if client is not None:
            client.close()


class ShieldedCommands:
    """A client for one event loop whose calls go on when their caller is cancelled or leaves."""

    def __init__(self, client: AsyncCommands) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(CALLS_MOST)
        self._calls: set[asyncio.Task[Any]] = set()

    async def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply."""
        async with self._turns:
            call = asyncio.ensure_future(self._client.execute_command(*arguments))
            self._calls.add(call)
            call.add_done_callback(self._ended)
            return await asyncio.shield(call)

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # heard, also where nobody waits for it

    async def aclose(self) -> None:
        """End the calls that still run, and close the connections."""
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.aclose()
