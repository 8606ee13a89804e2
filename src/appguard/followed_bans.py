"""The bouncer's side of `GET /v1/bans?follow=`: a ban set that is what the daemon says, and how it is asked.

The answer is read like any input from outside: the daemon reads what strangers write, the bouncer may change the
firewall. An answer that is no answer is an error, and everything stays as it was; a ban of no network is left out.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from pathlib import Path
from socket import socket
from typing import cast
from urllib.parse import quote

import msgspec

from appguard.address import parse_network
from appguard.ban import Ban, Brief, Fact
from appguard.blocking import block_of
from appguard.errors import AddressError, StoreError
from appguard.following import News
from appguard.judge import Protected
from appguard.ports import parse_key
from appguard.stores.base import Changes, Snapshot
from appguard.wanted import Wanted

SECONDS_MOST = 40.0  # for one answer; the daemon lets a follower wait for 25
ANSWER_MOST = 1 << 29  # bytes; a million bans
CURSOR_MOST = 100
TAKEN_AT_ONCE = 100  # bans made at a time: a millisecond or so

log = logging.getLogger("appguard.bouncer")


class FollowedBans:
    """The daemon's bans as last told, for one bouncer alone, which takes every change once.

    Of a whole answer the bans are held in brief until `take_some`: to make a hundred thousand takes a second or two, in
    which the bouncer can give them to the firewall, and take what is new.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bans = Wanted()
        self._rest: dict[str, Brief] = {}
        self._facts: list[Fact] = []

    def rest(self) -> Iterator[Brief]:
        """Give what is still held in brief, which may change meanwhile."""
        for key in tuple(self._rest):
            if (brief := self._rest.get(key)) is not None:
                yield brief

    def snapshot(self) -> Snapshot:
        """Give all bans that are made."""
        self._facts.clear()
        return Snapshot(0, tuple(self._bans.values()))

    def follow(self, cursor: int) -> Changes:
        """Give what changed since this was last asked."""
        facts, self._facts = tuple(self._facts), []
        return Changes(cursor, facts)

    def tell(self, answer: News) -> None:
        """Take an answer as the truth, also what contradicts what was told before."""
        for _ in self._bans.take_ended(self._clock()):
            pass  # the bouncer sees that too
        if answer.whole:
            told = {brief[0]: brief for brief in answer.facts}
            for key in [key for key in (*self._bans, *self._rest) if key not in told]:
                self._take((key, None, None))
            self._rest = told
            return
        for brief in answer.facts:
            if self._rest.get(brief[0]) != brief:
                self._rest.pop(brief[0], None)
                self._take(brief)

    def take_some(self) -> bool:
        """Make some of the bans that are held in brief; say whether these were the last."""
        for _ in range(min(TAKEN_AT_ONCE, len(self._rest))):
            self._take(self._rest.popitem()[1])  # the oldest
        return not self._rest

    def _take(self, brief: Brief) -> None:
        key, jail, end = brief
        if jail is None:
            self._lift(key)
            return
        known = self._bans.get(key)
        if known is not None and known.end == end and known.jail == jail:
            return
        block = block_of(brief)
        if block is None:
            log.error("the daemon tells of a ban that is none, and is left out: %.100r", brief)
            return
        ban = Ban(block.network, jail, 0.0, block.end, ports=block.ports)
        self._bans.put(ban)
        self._facts.append(Fact.of(ban))

    def _lift(self, key: str) -> None:
        self._bans.pop(key, None)
        with suppress(ValueError):
            network, ports = parse_key(key)
            self._facts.append(Fact(network, 0, None, ports))


async def ask(path: Path, cursor: str, *, is_done: bool = True) -> News:
    """Ask the daemon what is new since a cursor and wait until it answers; raise `StoreError` if it does not.

    `is_done` says that everything up to there has been done.
    """
    target = f"/v1/bans?follow={quote(cursor, safe='')}{'' if is_done else '&busy=1'}"
    try:
        async with asyncio.timeout(SECONDS_MOST):
            status, body = await _get(path, target)
    except TimeoutError as error:
        raise StoreError(f"the daemon does not answer on {path}") from error
    except (OSError, HTTPException) as error:
        raise StoreError(f"the daemon cannot be asked on {path}: {error or type(error).__name__}") from error
    if status != 200:
        raise StoreError(f"the daemon says {status}: {body[:200]!r}")
    return read_answer(body)


async def _get(path: Path, target: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: appguard\r\nConnection: close\r\n\r\n".encode())
        received = bytearray()
        while part := await reader.read(1 << 18):
            received += part
            if len(received) > ANSWER_MOST:
                raise HTTPException(f"the answer is longer than {ANSWER_MOST} bytes")
    finally:
        writer.close()
    response = HTTPResponse(cast("socket", _Received(bytes(received))))
    response.begin()
    return response.status, response.read()


class _Received:
    """What `http.client` takes for a socket: an answer that is all here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


class _Envelope(msgspec.Struct):
    cursor: str
    whole: bool
    enforcing: bool
    facts: list[Brief]
    protected: tuple[list[tuple[str, str]], list[tuple[str, str]]] | None = None


def read_answer(body: bytes) -> News:
    """Read an answer; raise `StoreError` if it is none."""
    try:
        found = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"the daemon's answer is not understood: {error}; is it another version?") from error
    if len(found.cursor) > CURSOR_MOST or not found.cursor.isascii() or not found.cursor.isprintable():
        raise StoreError("the daemon's answer is not understood: its cursor is none; is it another version?")
    protected = None if found.protected is None else (_pairs(found.protected[0]), _pairs(found.protected[1]))
    return News(found.cursor, found.whole, found.enforcing, found.facts, protected)


def _pairs(listed: Iterable[tuple[str, str]]) -> Protected:
    """Read networks, each with what it is; raise `StoreError`."""
    try:
        return tuple([(parse_network(network), what) for network, what in listed])
    except AddressError as error:
        raise StoreError(f"the daemon's answer is not understood: {error}; is it another version?") from error
