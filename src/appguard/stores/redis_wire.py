"""Calls to one Redis server on connections of our own: on an event loop pipelined, by threads each in one trip.

redis-py connects, logs in and finds the master; a call through it costs an app ten times what a call costs here. So
what stands here takes over the connected socket and does only this: write commands, read their replies (by hiredis),
in their order. Whoever calls waits at most `seconds`; a connection that is still being made goes on being made, for
the next caller. A call that nobody waits for any more may still be carried out. What a server answers after that is
dropped; one that is silent for `SILENCE` is left. A connection that fails is made anew by the next call, not by a
repetition of this one: it may have been counted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import inf
from threading import Lock
from typing import Any, Protocol, cast

import hiredis
from hiredis import ProtocolError, Reader
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from appguard.fork import in_every_child

SILENCE = 1.0  # seconds without a word from a server that owes an answer
RESTED = 0.5  # seconds without a call, after which a thread looks whether the server has closed a connection
OPENING_MOST = 16  # connections that threads make at the same time
CHUNK = 65536
READING = 0.002  # seconds that a loop which is late has to read what has come
CLOSED = "the connection was closed"
WAIT_LEAST = 0.001  # seconds; none would mean not to wait at all


# Its own type is for tuples of one.
_pack = cast("Callable[[tuple[object, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def packed(command: tuple[object, ...]) -> bytes:
    """Give a command as it goes over the wire."""
    return _pack(command)


def _error_of(text: str) -> ResponseError:
    """Give a server's error as redis-py would."""
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)
    return ReadOnlyError(text) if "READONLY" in text else ResponseError(text)


def _new_reader() -> Reader:
    return Reader(protocolError=ProtocolError, replyError=_error_of)


class Taker(Protocol):
    """Takes what comes for a future and does with it what is to be done; `about` is what was given with the call.

    It raises nothing, and the future is done then.
    """

    def take(self, future: asyncio.Future[Any], about: Any, reply: Any) -> None:
        """Take the reply."""
        ...

    def fail(self, future: asyncio.Future[Any], about: Any, error: Exception) -> None:
        """Take the error there is instead."""
        ...


class _Untouched:
    """Hands on what comes as it is."""

    def take(self, future: asyncio.Future[Any], about: None, reply: Any) -> None:
        future.set_result(reply)

    def fail(self, future: asyncio.Future[Any], about: None, error: Exception) -> None:
        future.set_exception(error)


UNTOUCHED: Taker = _Untouched()
Call = tuple[bytes, asyncio.Future[Any], Taker, Any]


class PipelinedCommands(asyncio.Protocol):
    """The calls of one event loop on one connection; all that one turn of the loop makes go out in one write.

    `connection` is one of redis-py's, not yet connected; `close` closes what it needs for that.
    """

    def __init__(self, connection: Any, seconds: float, close: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._seconds = seconds
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._streams: asyncio.BaseProtocol | None = None  # redis-py's own end of the connection
        self._reader = _new_reader()
        self._calls: list[Call] = []  # of this turn of the loop
        self._unsent: list[Call] = []  # while the connection is being made
        self._waiting: deque[Call] = deque()
        self._sent = 0  # calls, ever; all but those that wait were answered
        self._heard = 0.0
        self._is_closed = False

    def execute_command(self, *arguments: object) -> asyncio.Future[Any]:
        """Send one command and give its reply."""
        return self.send(packed(arguments))

    def send(self, command: bytes, seconds: float = inf) -> asyncio.Future[Any]:
        """Send one command as it goes over the wire; raise `TimeoutError` or an error of redis-py's family."""
        future = self.post(command, UNTOUCHED, None)
        if seconds < self._seconds:  # else all calls of this turn have one timer
            self._loop.call_later(seconds, self._expire, [(command, future, UNTOUCHED, None)])
        return future

    def post(self, command: bytes, taker: Taker, about: object) -> asyncio.Future[Any]:
        """Do what `send` does, and let a taker have what comes."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._calls:
            self._loop.call_soon(self._flush)
        self._calls.append((command, future, taker, about))
        return future

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        if self._is_closed:
            _fail(calls, RedisConnectionError(CLOSED))
            return
        if self._transport is not None:
            self._write(calls)
            self._loop.call_later(self._seconds, self._expire_up_to, self._sent)
            return
        self._loop.call_later(self._seconds, self._expire, calls)
        self._unsent += calls
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())

    def _write(self, calls: Sequence[Call]) -> None:
        assert self._transport is not None
        if not self._waiting:
            self._heard = self._loop.time()
        self._waiting += calls
        self._sent += len(calls)
        self._transport.write(b"".join([command for command, _, _, _ in calls]))

    def _expire_up_to(self, sent: int) -> None:
        """Look at what still waits of so many calls: nothing, as a rule, and nobody kept them to find out."""
        number = sent - self._sent + len(self._waiting)
        if number > 0:
            self._expire([*islice(self._waiting, number)])

    def _expire(self, calls: Iterable[Call]) -> None:
        late = [call for call in calls if not call[1].done()]
        if late:  # by a loop that was busy, perhaps: what has arrived meanwhile is read first
            self._loop.call_later(READING, self._give_up, late)

    def _give_up(self, calls: Iterable[Call]) -> None:
        is_late = _fail(calls, TimeoutError("no answer in time"))
        if is_late and self._waiting and self._loop.time() - self._heard > SILENCE:
            self._abort()

    async def _open(self) -> None:
        connection = self._connection
        try:
            await connection.disconnect(nowait=True)  # what is left of the one before
            await connection.connect()
            transport = connection._writer.transport  # redis-py has no other way to it
            if transport.is_closing():  # nobody would tell us that it was lost
                raise RedisConnectionError("the connection was lost at once")
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            unsent, self._unsent = self._unsent, []
            _fail(unsent, error)
        else:
            self._streams = transport.get_protocol()
            self._reader = _new_reader()
            transport.set_protocol(self)
            self._transport = transport
            unsent, self._unsent = self._unsent, []
            self._write([call for call in unsent if not call[1].done()])
        finally:
            self._opening = None

    def data_received(self, data: bytes) -> None:
        """Hand out the replies, in the order of the calls."""
        self._heard = self._loop.time()
        waiting, gets = self._waiting, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not False:
                _, future, taker, about = waiting.popleft()
                is_waited_for = not future.done()
                if type(reply) is bytes or not isinstance(reply, Exception):  # the first is said in no time
                    if is_waited_for:
                        taker.take(future, about, reply)
                    continue
                if is_waited_for:
                    taker.fail(future, about, reply)
                if isinstance(reply, ReadOnlyError):  # it is no master any more
                    self._abort()
        except (ProtocolError, IndexError):  # not Redis, or an answer nobody has asked for
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let all who wait for an answer know that there will be none."""
        self._transport = None
        streams, self._streams = self._streams, None
        if isinstance(streams, asyncio.Protocol):
            streams.connection_lost(exc)
        waiting, self._waiting = self._waiting, deque()
        error = RedisConnectionError(f"the connection was lost: {exc or 'closed'}")
        _fail(waiting, error)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        """Close the connection for good; calls that wait for it, and those after it, fail."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        unsent, self._unsent = self._unsent, []
        _fail(unsent, RedisConnectionError(CLOSED))
        await self._connection.disconnect()
        await self._close()


def _fail(calls: Iterable[Call], error: Exception) -> bool:
    """Let all who wait for an answer have an error; say whether anybody did."""
    late = [call for call in calls if not call[1].done()]
    for _, future, taker, about in late:
        taker.fail(future, about, error)
    return bool(late)


class DirectCommands:
    """The calls of threads, each a write and its reply on a connection that no other has meanwhile.

    `new_connection` gives one of redis-py's, not yet connected; `close` closes what it needs for that. It is connected
    on a thread of ours, because that may take many steps; who waits for it leaves in time.
    """

    def __init__(self, new_connection: Callable[[], Any], seconds: float, close: Callable[[], None]) -> None:
        self._new_connection = new_connection
        self._seconds = seconds
        self._close = close
        self._renew()
        in_every_child(self, DirectCommands._renew)

    def _renew(self) -> None:
        """Begin anew in a forked child, whose parent goes on with the connections."""
        self._lock = Lock()
        self._idle: list[_Link] = []
        self._threads: ThreadPoolExecutor | None = None

    def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply."""
        return self.send(packed(arguments))

    def send(self, call: bytes, seconds: float = inf) -> Any:
        """Send one command as it goes over the wire; raise `TimeoutError` or an error of redis-py's family."""
        end = time.monotonic() + min(seconds, self._seconds)
        link = self._rested() or self._opened(min(seconds, self._seconds) / 2)  # the other half is for the call
        try:
            reply = link.ask(call, end)
        except BaseException as error:  # whatever ends a trip, its answer is still to come on this link
            if seconds < self._seconds and isinstance(error, TimeoutError) and link.is_whole:
                self._idle.append(link)  # whoever asks on it next reads what comes late
            else:
                link.close()
                self._leave_idle()  # to the same server, which has just failed
            raise
        if isinstance(reply, ReadOnlyError):  # it is no master any more
            link.close()
            self._leave_idle()
        else:
            self._idle.append(link)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _rested(self) -> "_Link | None":
        """Give a connection that is not in use, None if there is none that the server has not closed meanwhile."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if not link.is_lost():
                return link
            link.close()

    def _opened(self, seconds: float) -> "_Link":
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(OPENING_MOST, "appguard-redis")
            opening = self._threads.submit(self._open)
        try:
            return opening.result(seconds)
        except TimeoutError:
            if not opening.cancel():
                opening.add_done_callback(self._keep)
            raise

    def _open(self) -> "_Link":
        connection = self._new_connection()
        try:
            connection.connect()
            return _Link(connection)
        except BaseException:  # redis-py leaves it open after what is no error of its own, as of a password's file
            connection.disconnect()
            raise

    def _keep(self, opened: "Future[_Link]") -> None:
        """Keep for the next call what nobody waits for any more."""
        if not opened.cancelled() and opened.exception() is None:
            self._idle.append(opened.result())

    def _leave_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread was quicker
                return

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        self._leave_idle()
        self._close()


class _Link:
    """One connection for one thread at a time; `is_whole` says that every call went out to its end."""

    def __init__(self, connection: Any) -> None:
        self.is_whole = True
        self._owed = 0  # answers, in the order of the calls
        self._connection = connection
        self._socket = connection._sock  # redis-py has no other way to it
        self._reader = _new_reader()
        self._used = time.monotonic()

    def is_lost(self) -> bool:
        """Say whether the server has closed it, as one with a `timeout` does when nobody asks for long."""
        if self._owed or time.monotonic() - self._used < RESTED:
            return False
        try:
            return bool(self._connection.can_read(0))  # nothing is owed: there is nothing to be read but the end
        except Exception:  # noqa: BLE001 - whatever it is, another connection is better
            return True

    def ask(self, call: bytes, end: float) -> Any:
        """Send one command and give its reply, an error as it is; raise `OSError` or redis-py's `ConnectionError`."""
        self._used = time.monotonic()
        self._socket.settimeout(max(end - self._used, WAIT_LEAST))
        self.is_whole = False
        self._socket.sendall(call)
        self.is_whole = True
        self._owed += 1
        while True:
            data = self._socket.recv(CHUNK)
            if not data:
                raise RedisConnectionError("the connection was closed by the server")
            self._reader.feed(data)
            try:
                while (reply := self._reader.gets()) is not False:
                    self._owed -= 1
                    if not self._owed:
                        return reply
            except ProtocolError as error:
                raise RedisConnectionError(f"this is no Redis: {error}") from error
            left = end - time.monotonic()
            if left <= 0.0:
                raise TimeoutError("no whole answer in time")
            self._socket.settimeout(left)

    def close(self) -> None:
        self._connection.disconnect()
