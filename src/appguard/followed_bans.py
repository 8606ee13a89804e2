"""The bouncer's side of `GET /v1/bans?follow=`: a ban set that is what the daemon says, and how it is asked.

The answer is read like any input from outside: the daemon reads what strangers write, the bouncer may change the
firewall. An answer that is no answer is an error, and everything stays as it was; a record that is no fact is left out.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from pathlib import Path
from socket import socket
from typing import cast
from urllib.parse import quote

import msgspec

from appguard.address import Network, parse_network
from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST, JAIL_NAME, REASON_MOST, Ban, Fact
from appguard.errors import AddressError, StoreError
from appguard.judge import Protected
from appguard.ports import parse_key
from appguard.status import BanRecord, FactRecord
from appguard.stores.memory import MemoryBanSet

SECONDS_MOST = 40.0  # for one answer; the daemon lets a follower wait for 25
ANSWER_MOST = 1 << 29  # bytes; a million bans
CURSOR_MOST = 100
VERSION_MOST = 1 << 62
FAILURES_MOST = 1 << 31

log = logging.getLogger("appguard.bouncer")


@dataclass(frozen=True, slots=True)
class Answer:
    """The facts after a cursor, or with `whole` all bans; whether to enforce them; and the cursor to ask with next.

    `protected` is what is let in beside the settings, and what other hosts let in; None if that has not changed.
    """

    cursor: str
    whole: bool
    enforcing: bool
    facts: tuple[Fact, ...]
    protected: tuple[Protected, Protected] | None = None


class FollowedBans(MemoryBanSet):
    """The daemon's ban set as last told. Only the daemon may ban: `ban` and `unban` raise `StoreError`."""

    name = "the daemon"

    def ban(self, ban: Ban) -> Ban | None:
        """Raise `StoreError`."""
        raise StoreError("a bouncer does not ban; ask the daemon: appguard ban")

    def unban(self, network: Network, ports: str = "") -> Ban | None:
        """Raise `StoreError`."""
        raise StoreError("a bouncer does not lift bans; ask the daemon: appguard unban")

    def take(self, answer: Answer) -> None:
        """Take an answer as the truth, also what contradicts what was told before."""
        while self.expire():
            pass
        with self._bans_lock:
            for fact in (*self._gone(answer), *answer.facts):
                self._apply(fact)

    def _gone(self, answer: Answer) -> list[Fact]:
        if not answer.whole:
            return []
        there = {fact.key for fact in answer.facts}
        return [Fact.lifting(ban, ban.version) for ban in self._table if ban.key not in there]


async def ask(path: Path, cursor: str) -> Answer:
    """Ask the daemon what is new since a cursor and wait until it answers; raise `StoreError` if it does not."""
    try:
        async with asyncio.timeout(SECONDS_MOST):
            status, body = await _get(path, f"/v1/bans?follow={quote(cursor, safe='')}")
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
    facts: list[msgspec.Raw]
    protected: tuple[list[tuple[str, str]], list[tuple[str, str]]] | None = None


def read_answer(body: bytes) -> Answer:
    """Read an answer; raise `StoreError` if it is none."""
    try:
        found = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"the daemon's answer is not understood: {error}; is it another version?") from error
    if len(found.cursor) > CURSOR_MOST or not found.cursor.isascii() or not found.cursor.isprintable():
        raise StoreError("the daemon's answer is not understood: its cursor is none; is it another version?")
    facts = [read_fact(bytes(record)) for record in found.facts]
    known = tuple(fact for fact in facts if fact is not None)
    if len(known) < len(facts):
        log.error("%d of %d facts told by the daemon are none and are left out", len(facts) - len(known), len(facts))
    protected = None if found.protected is None else (_pairs(found.protected[0]), _pairs(found.protected[1]))
    return Answer(found.cursor, found.whole, found.enforcing, known, protected)


def _pairs(listed: Iterable[tuple[str, str]]) -> Protected:
    """Read networks, each with what it is; raise `StoreError`."""
    try:
        return tuple([(parse_network(network), what) for network, what in listed])
    except AddressError as error:
        raise StoreError(f"the daemon's answer is not understood: {error}; is it another version?") from error


def read_fact(record: bytes) -> Fact | None:
    """Read one fact; None for what is none."""
    try:
        found = msgspec.json.decode(record, type=FactRecord)
        network, ports = parse_key(found.network)
    except (msgspec.MsgspecError, ValueError, RecursionError, AddressError):
        return None
    if not 0 <= found.version <= VERSION_MOST:
        return None
    if found.ban is None:
        return Fact(network, found.version, None, ports)
    ban = _ban(network, ports, found.ban, found.version)
    return None if ban is None else Fact.of(ban)


def _ban(network: Network, ports: str, record: BanRecord, version: int) -> Ban | None:
    times = (record.start, record.start if record.end is None else record.end)
    is_sound = all(math.isfinite(time) and time >= 0 for time in times) and 0 <= record.failures <= FAILURES_MOST
    if not is_sound or not JAIL_NAME.fullmatch(record.jail):
        return None
    return Ban(
        network,
        record.jail,
        record.start,
        record.end,
        record.reason[:REASON_MOST],
        record.failures,
        _texts(record.evidence),
        _texts(record.via),
        record.automatic,
        version,
        ports,
    )


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text[:EVIDENCE_TEXT_MOST] for text in texts)[:EVIDENCE_MOST]
