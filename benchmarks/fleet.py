"""How soon do a thousand hosts know of a ban, and what does it cost Redis? Hosts simulated on one real Redis.

Each host is a coroutine on a connection of its own that speaks the protocol of a replica: once a second TIME, the epoch
and its last entry, and in between it waits for the stream. Bans are told through the script that daemons use. The
hosts and Redis share this machine's processors, so propagation is an upper bound; the cost for Redis is not touched
by that. Prints a table and writes JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import hiredis

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.stores.redis_bans import BLOCK, PAGE, STREAM_MOST, RedisBanSet
from appguard.stores.redis_commands import Script
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import fields_of, parse_record
from appguard.stores.redis_uri import parse_redis_uri
from tests.redis_server import RedisServer, redis_server

RESULT = Path(__file__).parent / "results/fleet.json"
SIZES = (10, 100, 300, 1_000)
TOLD_EVERY = 0.1  # seconds: bans within it go in one call, as they do from a busy daemon


@dataclass(frozen=True, slots=True)
class Measured:
    """What a fleet of some size met: milliseconds from telling a ban to its host knowing it, and Redis' CPU."""

    hosts: int
    bans: int
    seen: int
    median_ms: float
    p99_ms: float
    redis_cpu: float  # of one processor
    idle_cpu: float
    microseconds_per_ban_and_host: float


class Host:
    """One simulated host."""

    def __init__(self, port: int, facts: str, changes: str) -> None:
        self._port, self._facts, self._changes = port, facts, changes
        self._last = b"0-0"
        self.delays: list[float] = []

    async def run(self) -> None:
        """Follow until cancelled."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._replies = hiredis.Reader()
        try:
            check_at = 0.0
            while True:
                if time.monotonic() >= check_at:
                    await self._check()
                    check_at = time.monotonic() + BLOCK
                block = int(BLOCK * 1000)
                reply = await self._ask("XREAD", "COUNT", PAGE, "BLOCK", block, "STREAMS", self._changes, self._last)
                self._note(reply[0][1] if reply else ())
        finally:
            self._writer.close()

    async def _check(self) -> None:
        await self._ask("TIME")
        await self._ask("HGET", self._facts, "epoch")
        if self._last == b"0-0":
            found = await self._ask("XREVRANGE", self._changes, "+", "-", "COUNT", 1)
            self._last = found[0][0] if found else b"0-0"
        else:
            await self._ask("XRANGE", self._changes, self._last, self._last)

    def _note(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> None:
        now = time.time()
        for entry, fields in entries:
            fact = parse_record(fields[1], fields[3], 0.0)
            if fact is not None and fact.ban is not None:
                self.delays.append(now - fact.ban.start)
            self._last = entry

    async def _ask(self, *words: object):  # type: ignore[no-untyped-def] # noqa: ANN202 - what Redis says
        self._writer.write(hiredis.pack_command(tuple(words)))  # type: ignore[arg-type]
        while (reply := self._replies.gets()) is False:
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionError("Redis has closed the connection")
            self._replies.feed(data)
        return reply
