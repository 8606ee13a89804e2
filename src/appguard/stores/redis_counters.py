"""Counters in Redis: one script call per request for all its limits, by the server's clock.

The ladder when Redis is slow or down: the decision waits at most `BUDGET` seconds, once; after a few failures a breaker
keeps everybody from asking, and meanwhile the app does what `on_store_error` says: count in this process (`local`),
admit (`open`) or refuse (`closed`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from urllib.parse import quote

from redis.exceptions import RedisError

from appguard.limit import ADMITTED, Hit, Verdict
from appguard.stores.breaker import Breaker
from appguard.stores.memory import MemoryCounters
from appguard.stores.redis_commands import AsyncCommands, Commands, Script
from appguard.stores.redis_connection import connect, connect_async, connect_to
from appguard.stores.redis_uri import parse_redis_uri

BUDGET = 0.04  # seconds; with the rest of a request it stays below 60 ms
CLOSED_WAIT = 1.0  # seconds a refused client is told to wait while the store is down


class RedisCounters:
    """Counters shared by all processes that use the same Redis and app name."""

    def __init__(
        self, uri: str, app: str, on_store_error: str = "local", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters_uri = parse_redis_uri(uri)
        self._prefix = f"appguard:l:{_word(app)}:"
        self._on_store_error = on_store_error
        self._local = MemoryCounters(monotonic)
        self._breaker = Breaker(str(self._counters_uri), monotonic)
        self._count = Script("count")
        self._give_back = Script("give_back")
        self.resets = 0
        self._client: Commands | None = None
        self._async_client: AsyncCommands | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self, hits: Sequence[Hit]) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        if not self._breaker.may_ask():
            return self._without_redis(hits)
        client, verdict = self._client_of_threads(), ADMITTED
        try:
            for part in self._parts(hits):
                reply = self._count.call(client, self._counter_keys(part), _arguments(part))
                verdict = _verdict(reply, part, verdict)
                if verdict.refused is not None:
                    break
        except (RedisError, OSError) as error:
            self._breaker.failed(error)
            return self._without_redis(hits)
        self._breaker.worked()
        return verdict

    async def check_async(self, hits: Sequence[Hit]) -> Verdict:
        """Do what `check` does without blocking the event loop."""
        if not self._breaker.may_ask():
            return self._without_redis(hits)
        client = self._client_of_loop()
        verdict = ADMITTED
        try:
            async with asyncio.timeout(BUDGET):
                for part in self._parts(hits):
                    reply = await self._count.call_async(client, self._counter_keys(part), _arguments(part))
                    verdict = _verdict(reply, part, verdict)
                    if verdict.refused is not None:
                        break
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._breaker.failed(error)
            return self._without_redis(hits)
        self._breaker.worked()
        return verdict

    def give_back(self, hits: Sequence[Hit], time: float) -> None:
        """Take reserved hits out again, from wherever they were counted; if Redis does not answer they stay counted."""
        if time >= 0.0:
            self._local.give_back(hits, time)
        elif self._breaker.may_ask():
            client = self._client_of_threads()
            try:
                for part in self._parts(hits):
                    self._give_back.call(client, self._counter_keys(part), [int(-time), *_arguments(part)])
            except (RedisError, OSError) as error:
                self._breaker.failed(error)
            else:
                self._breaker.worked()

    async def give_back_async(self, hits: Sequence[Hit], time: float) -> None:
        """Do what `give_back` does without blocking the event loop."""
        if time >= 0.0:
            self._local.give_back(hits, time)
        elif self._breaker.may_ask():
            client = self._client_of_loop()
            try:
                async with asyncio.timeout(BUDGET):
                    for part in self._parts(hits):
                        keys, arguments = self._counter_keys(part), [int(-time), *_arguments(part)]
                        await self._give_back.call_async(client, keys, arguments)
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                self._breaker.failed(error)
            else:
                self._breaker.worked()

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
        client, self._async_client = self._async_client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    def _client_of_threads(self) -> Commands:
        if self._client is None:
            self._client = connect(self._counters_uri, BUDGET)
        return self._client

    def _client_of_loop(self) -> AsyncCommands:
        loop = asyncio.get_running_loop()
        if self._async_client is None or self._loop is not loop:
            self._async_client, self._loop = connect_async(self._counters_uri, BUDGET), loop
        return self._async_client

    def _without_redis(self, hits: Sequence[Hit]) -> Verdict:
        if self._on_store_error == "local":
            return self._local.check(hits)
        return ADMITTED if self._on_store_error == "open" else Verdict(hits[0], CLOSED_WAIT)

    def _parts(self, hits: Sequence[Hit]) -> list[Sequence[Hit]]:
        """Give what one call can count: all, but in a Cluster, where every client has a shard, the hits of one client.

        There what the parts before a refusal counted stays counted.
        """
        if self._counters_uri.kind != "cluster":
            return [hits]
        return [tuple(part) for _, part in groupby(hits, lambda hit: hit.key.partition(" ")[0])]

    def _counter_keys(self, hits: Sequence[Hit]) -> list[str]:
        keys: list[str] = []
        for hit in hits:
            client, _, limit = hit.key.partition(" ")
            keys.append(f"{self._prefix}{{{_word(client, ':/')}}}:{limit}")
        return keys


def _arguments(hits: Sequence[Hit]) -> list[object]:
    return list(
        chain.from_iterable((hit.rate.amount, int(hit.rate.window * 1000), hit.rate.burst, hit.cost) for hit in hits)
    )


def _verdict(reply: Sequence[int], hits: Sequence[Hit], before: Verdict) -> Verdict:
    """Give the verdict after a call; `before` is that of the calls before it."""
    if reply[0]:
        return Verdict(hits[reply[0] - 1], reply[1] / 1000)
    # The server's time is kept below zero: what was reserved in this process has one above it.
    return Verdict(time=-float(reply[1])) if hits[-1].is_reserved else before


def _word(text: str, safe: str = "") -> str:
    """Write a name as one part of a key: it may come from strangers, and access is granted by prefix."""
    return quote(text, safe=safe, errors="surrogatepass")


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in text)
