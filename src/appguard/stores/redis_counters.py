"""Counters in Redis: one script call per request for all its limits, by the server's clock.

The ladder when Redis is slow or down: a check waits at most `BUDGET` seconds; after a few failures a breaker
keeps everybody from asking, and meanwhile the app does what `on_store_error` says: count in this process (`local`),
admit (`open`) or refuse (`closed`).
"""

import asyncio
import time
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from itertools import groupby
from math import inf
from struct import Struct
from urllib.parse import quote

from redis.exceptions import NoScriptError

from appguard.fork import in_every_child
from appguard.limit import ADMITTED, CLOSED_WAIT, Hit, Verdict, admitted
from appguard.stores.base import BUDGET, Asker
from appguard.stores.breaker import Breaker
from appguard.stores.memory_counters import MemoryCounters
from appguard.stores.redis_advice import explained
from appguard.stores.redis_commands import AsyncCommands, Commands, Script
from appguard.stores.redis_connection import connect, connect_async, connect_to
from appguard.stores.redis_uri import parse_redis_uri
from appguard.stores.redis_wire import DirectCommands, PipelinedCommands, packed
from appguard.stores.waiting import answer_of

CALLS_MOST = 8192  # calls that are remembered
_ASKED = Struct(">5d")
_TO_GIVE_BACK = Struct(">4d")
_REFUSED: Callable[[bytes], tuple[int, float]] = Struct(">qd").unpack
_ADMITTED: Callable[[bytes], tuple[int, float, int, int, float]] = Struct(">qdqqd").unpack
_ADMITTED_SIZE = 40


class RedisCounters:
    """Counters shared by all processes that use the same Redis and app name."""

    is_immediate = False

    def __init__(
        self, uri: str, app: str, on_store_error: str = "local", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters_uri = parse_redis_uri(uri)
        self._prefix = f"appguard:l:{_word(app)}:"
        self._on_store_error = on_store_error
        self._local = MemoryCounters(monotonic)
        self._breaker = Breaker(
            str(self._counters_uri), on_store_error, monotonic, lambda error: explained(error, self._counters_uri)
        )
        self._count = Script("count")
        self._give_back = Script("give_back")
        self.resets = 0
        self._calls: dict[str, tuple[Sequence[Hit], bytes]] = {}
        self._client = connect(self._counters_uri, BUDGET)  # of all threads
        self._async_clients: dict[asyncio.AbstractEventLoop, AsyncCommands] = {}
        self._parents: object = None
        in_every_child(self, RedisCounters._leave_parents)

    def _leave_parents(self) -> None:
        """Leave a forked process's parent its event loops: whoever closes here what belongs to one closes it there."""
        self._parents, self._async_clients = self._async_clients, {}

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        if seconds <= 0.0 or not hits or not self._breaker.may_ask():
            return self._without_redis(hits)
        try:
            client = self._client
            if isinstance(client, DirectCommands):
                verdict = self._ask(client, hits, seconds)
            else:
                verdict = client.run(lambda client: self._ask_parts(client, hits), seconds)
        except Exception as error:  # noqa: BLE001 - no request fails of whatever a client of Redis raises
            return self._instead(error, hits, seconds)
        self._breaker.worked()
        return verdict

    async def check_async(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Do what `check` does without blocking the event loop."""
        breaker = self._breaker
        if seconds <= 0.0 or not hits or not (breaker.is_well or breaker.may_ask()):
            return self._without_redis(hits)
        try:
            client = self._async_clients.get(get_running_loop()) or self._client_of_loop()
            if isinstance(client, PipelinedCommands):
                try:
                    reply = await client.send(self._call(hits), seconds)
                except NoScriptError:
                    reply = await client.send(self._text_call(hits), min(seconds, BUDGET) / 2)
                verdict = _verdict(reply, hits, 0, ADMITTED)
            else:
                verdict = await answer_of(self._ask_parts_async(client, hits), min(seconds, BUDGET))
        except Exception as error:  # noqa: BLE001 - as above: asyncio's own TypeError was among it
            return self._instead(error, hits, seconds)
        if not breaker.is_well:
            breaker.worked()
        return verdict

    def ask(self, asker: Asker) -> asyncio.Future[bool] | None:
        """Do what `check_async` does for hits it was asked before, if all is well: see `stores.base.Asking`."""
        hits = asker.hits
        known = self._calls.get(hits[0].key)
        if known is None or known[0] is not hits or not self._breaker.is_well:
            return None
        try:
            client = self._async_clients.get(get_running_loop())
        except RuntimeError:  # a loop that is none of asyncio's
            return None
        return client.post(known[1], self, asker) if type(client) is PipelinedCommands else None

    def take(self, future: asyncio.Future[bool], about: Asker, reply: bytes) -> None:
        """Let one who asked have the verdict."""
        try:
            if len(reply) == _ADMITTED_SIZE:  # as in `_verdict`
                answer = _ADMITTED(reply)
                is_decided = about.admit(-answer[1], answer[2:] if answer[2] >= 0 else None)
            else:
                is_decided = about.hear(_verdict(reply, about.hits, 0, ADMITTED))
        except Exception as error:  # noqa: BLE001 - as in `check`
            self.fail(future, about, error)
            return
        future.set_result(is_decided)
        if not self._breaker.is_well:
            self._breaker.worked()

    def fail(self, future: asyncio.Future[bool], about: Asker, error: Exception) -> None:
        """Let one who asked have the verdict there is without Redis; if it lacks the script, there may be a better."""
        if isinstance(error, NoScriptError):
            future.set_result(False)
            return
        verdict = self._instead(error, about.hits)
        try:
            is_decided = about.hear(verdict)
        except Exception as its_own:  # noqa: BLE001 - nobody else is to suffer from it
            future.set_exception(its_own)
        else:
            future.set_result(is_decided)

    def _call(self, hits: Sequence[Hit]) -> bytes:
        """Give the call that counts hits as it goes over the wire; a client's are the same again and again."""
        key = hits[0].key
        known = self._calls.get(key)
        if known is not None and known[0] is hits:
            return known[1]
        call = packed(self._count.by_digest(self._counter_keys(hits), [_asked(hits)]))
        if len(self._calls) >= CALLS_MOST:
            self._calls.clear()
        self._calls[key] = hits, call
        return call

    def _instead(self, error: Exception, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Give the verdict on hits that Redis was asked about in vain, and note that it was."""
        self._failed(error, seconds)
        return self._without_redis(hits)

    def _text_call(self, hits: Sequence[Hit]) -> bytes:
        return packed(self._count.by_text(self._counter_keys(hits), [_asked(hits)]))

    def _ask(self, client: DirectCommands, hits: Sequence[Hit], seconds: float) -> Verdict:
        try:
            reply = client.send(self._call(hits), seconds)
        except NoScriptError:
            reply = client.send(self._text_call(hits), min(seconds, BUDGET) / 2)
        return _verdict(reply, hits, 0, ADMITTED)

    def _ask_parts(self, client: Commands, hits: Sequence[Hit]) -> Verdict:
        verdict, place = ADMITTED, 0
        for part in _parts(hits):
            reply = self._count.call(client, self._counter_keys(part), [_asked(part)])
            verdict = _verdict(reply, hits, place, verdict)
            if verdict.refused is not None:
                break
            place += len(part)
        return verdict

    async def _ask_parts_async(self, client: AsyncCommands, hits: Sequence[Hit]) -> Verdict:
        verdict, place = ADMITTED, 0
        for part in _parts(hits):
            reply = await self._count.call_async(client, self._counter_keys(part), [_asked(part)])
            verdict = _verdict(reply, hits, place, verdict)
            if verdict.refused is not None:
                break
            place += len(part)
        return verdict

    def give_back(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Take reserved hits out again, from wherever they were counted; if Redis does not answer they stay counted."""
        if time >= 0.0:
            self._local.give_back(hits, time)
        elif seconds > 0.0 and self._breaker.may_ask():
            try:
                client = self._client
                if isinstance(client, DirectCommands):
                    self._return(client, hits, time, seconds)
                else:
                    client.run(lambda client: self._return_parts(client, hits, time), seconds)
            except Exception as error:  # noqa: BLE001 - as in `check`
                self._failed(error, seconds)
            else:
                self._breaker.worked()

    def _return(self, client: DirectCommands, hits: Sequence[Hit], time: float, seconds: float) -> None:
        keys, arguments = self._counter_keys(hits), [int(-time), _to_give_back(hits)]
        try:
            client.send(packed(self._give_back.by_digest(keys, arguments)), seconds)
        except NoScriptError:
            client.send(packed(self._give_back.by_text(keys, arguments)), min(seconds, BUDGET) / 2)

    def _return_parts(self, client: Commands, hits: Sequence[Hit], time: float) -> None:
        for part in _parts(hits):
            self._give_back.call(client, self._counter_keys(part), [int(-time), _to_give_back(part)])

    async def give_back_async(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do what `give_back` does without blocking the event loop."""
        if time >= 0.0:
            self._local.give_back(hits, time)
        elif seconds > 0.0 and self._breaker.may_ask():
            try:
                client = self._client_of_loop()
                if isinstance(client, PipelinedCommands):
                    await self._return_async(client, hits, time, seconds)
                else:
                    await answer_of(self._return_parts_async(client, hits, time), min(seconds, BUDGET))
            except Exception as error:  # noqa: BLE001 - as in `check`
                self._failed(error, seconds)
            else:
                self._breaker.worked()

    async def _return_async(self, client: PipelinedCommands, hits: Sequence[Hit], time: float, seconds: float) -> None:
        keys, arguments = self._counter_keys(hits), [int(-time), _to_give_back(hits)]
        try:
            await client.send(packed(self._give_back.by_digest(keys, arguments)), seconds)
        except NoScriptError:
            await client.send(packed(self._give_back.by_text(keys, arguments)), min(seconds, BUDGET) / 2)

    async def _return_parts_async(self, client: AsyncCommands, hits: Sequence[Hit], time: float) -> None:
        for part in _parts(hits):
            await self._give_back.call_async(client, self._counter_keys(part), [int(-time), _to_give_back(part)])

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key. Raise redis-py's error if Redis does not answer."""
        self._local.reset(key)
        self.resets += 1
        prefix = f"{self._prefix}{{{_word(key, ':/')}}}:"
        client = connect_to(self._counters_uri, 1.0, prefix)
        try:
            cursor = b"0"
            while True:
                pattern = f"{_escaped(prefix)}*"
                cursor, found = client.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                if found:
                    client.execute_command("DEL", *found)
                if cursor == b"0":
                    return
        finally:
            client.close()

    async def close_connections(self) -> None:
        """Close the connections of the running event loop."""
        client = self._async_clients.pop(get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client_of_loop(self) -> AsyncCommands:
        loop = get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            for ended in [each for each in tuple(self._async_clients) if each.is_closed()]:
                self._async_clients.pop(ended, None)  # another thread with a loop of its own may be quicker
            client = self._async_clients[loop] = connect_async(self._counters_uri, BUDGET)
        return client

    def _failed(self, error: Exception, seconds: float) -> None:
        """Note a failure; that a request had little time left says nothing of Redis."""
        if seconds >= BUDGET or not isinstance(error, TimeoutError):
            self._breaker.failed(error)

    def _without_redis(self, hits: Sequence[Hit]) -> Verdict:
        if self._on_store_error == "local" or not hits:
            return self._local.check(hits)
        return ADMITTED if self._on_store_error == "open" else Verdict(hits[0], CLOSED_WAIT, is_known=False)

    def _counter_keys(self, hits: Sequence[Hit]) -> list[str]:
        keys: list[str] = []
        for hit in hits:
            client, _, limit = hit.key.partition(" ")
            keys.append(f"{self._prefix}{{{_word(client, ':/')}}}:{limit}")
        return keys


def _parts(hits: Sequence[Hit]) -> list[Sequence[Hit]]:
    """Give what one call can count in a Cluster, where every client has a shard: the hits of one client.

    What the parts before a refusal counted stays counted.
    """
    return [tuple(part) for _, part in groupby(hits, lambda hit: hit.key.partition(" ")[0])]


def _asked(hits: Sequence[Hit]) -> bytes:
    """Give what `count.lua` asks of each hit."""
    return b"".join(
        _ASKED.pack(hit.rate.amount, hit.rate.window * 1000, hit.rate.burst, hit.cost, hit.policy is not None)
        for hit in hits
    )


def _to_give_back(hits: Sequence[Hit]) -> bytes:
    """Give what `give_back.lua` asks of each hit."""
    return b"".join(
        _TO_GIVE_BACK.pack(hit.rate.amount, hit.rate.window * 1000, hit.rate.burst, hit.cost) for hit in hits
    )


def _verdict(reply: bytes, hits: Sequence[Hit], place: int, before: Verdict) -> Verdict:
    """Give the verdict after a call for the hits from a place on; `before` is that of the calls before it."""
    if len(reply) != _ADMITTED_SIZE:
        refused, wait = _REFUSED(reply)
        return Verdict(hits[place + refused - 1], wait)
    _, time, least_place, number, reset = _ADMITTED(reply)
    least = before.least
    if least_place >= 0 and (least is None or number < least[1]):
        least = place + least_place, number, reset
    # The server's time is kept below zero: what was reserved in this process has one above it.
    return admitted(-time, least)


def _word(text: str, safe: str = "") -> str:
    """Write a name as one part of a key: it may come from strangers, and access is granted by prefix."""
    return quote(text, safe=safe, errors="surrogatepass")


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in text)
