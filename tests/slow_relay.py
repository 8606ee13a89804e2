"""A relay in front of a server that gives every answer late: a server that is slow, neither down nor hung."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from threading import Event, Thread

CHUNK = 65536


class SlowRelay:
    """Passes on at once what clients send, and what the server at the port `to` answers `delay` seconds later."""

    def __init__(self, to: int, delay: float, address: str) -> None:
        self.delay = delay  # may be changed
        self.connections = 0  # so many were taken
        self._address = address
        self.port = 0
        self._to = to
        self._writers: list[asyncio.StreamWriter] = []
        self._relays: list[asyncio.Task[None]] = []  # or they would be collected as garbage
        self._is_up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._work()))

    def start(self) -> None:
        """Begin to take connections, on a port of its own."""
        self._thread.start()
        self._is_up.wait()

    def stop(self) -> None:
        """End, with all connections."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _work(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._take, self._address)
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        await self._end.wait()
        server.close()
        me = asyncio.current_task()
        while relays := [task for task in asyncio.all_tasks() if task is not me]:  # one may just have been taken
            for task in relays:
                task.cancel()
            await asyncio.gather(*relays, return_exceptions=True)
        for writer in self._writers:  # whose task was cancelled before it began, or while it ended
            writer.transport.abort()
        await asyncio.sleep(0)  # what was closed is gone after one more turn

    def _take(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(near_writer)
        self._relays.append(self._loop.create_task(self._relay(near, near_writer)))

    async def _relay(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        writers, tasks = [near_writer], list[asyncio.Task[None]]()
        try:
            far, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            writers.append(far_writer)
            self._writers.append(far_writer)
            late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            works = (self._send(near, far_writer), self._hear(far, late), self._answer(late, near_writer))
            tasks += [asyncio.create_task(work) for work in works]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens: the client hears of it by the end of its connection
        finally:
            for writer in writers:
                writer.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, near: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        while data := await near.read(CHUNK):
            far_writer.write(data)

    async def _hear(self, far: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        while data := await far.read(CHUNK):
            late.put_nowait((self._loop.time() + self.delay, data))

    async def _answer(self, late: asyncio.Queue[tuple[float, bytes]], near_writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - self._loop.time())
            near_writer.write(data)


@contextmanager
def slow_relay(to: int, delay: float = 0.2, address: str = "127.0.0.1") -> Generator[SlowRelay]:
    """Run a relay to a port of this host, at an address of it, for the length of the block."""
    relay = SlowRelay(to, delay, address)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
