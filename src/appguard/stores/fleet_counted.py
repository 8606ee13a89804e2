"""What Redis has counted for keys of the jails of a fleet: looked up for people, apart from the counting itself."""

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Mapping, Sequence

from appguard.jail import Jail
from appguard.stores.fleet_failures import counter_of
from appguard.stores.redis_advice import said_by
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_uri import parse_redis_uri

MOMENT = 0.25  # seconds that whoever asks waits
KEYS_MOST = 100  # that are looked up at once
_ENTRY = struct.Struct(">dIH")  # time, how many, length of the tag, as fail.lua writes them

log = logging.getLogger("appguard.stores")

Asked = tuple[Jail, str]  # a jail and one of its keys


class FleetCounted:
    """Answers one question at a time, on one event loop. `offset` gives Redis TIME minus our clock."""

    def __init__(self, uri: str, offset: Callable[[], float], clock: Callable[[], float] = time.time) -> None:
        self._uri = parse_redis_uri(uri)
        self._offset = offset
        self._clock = clock
        self._question: asyncio.Task[Mapping[tuple[str, str], int]] | None = None

    async def ask(self, asked: Sequence[Asked]) -> Mapping[tuple[str, str], int]:
        """Give what is counted now by the name of the jail and the key; nothing if Redis does not answer at once."""
        if not asked or (self._question is not None and not self._question.done()):
            return {}
        self._question = asyncio.create_task(asyncio.to_thread(self._look_up, asked[:KEYS_MOST]))
        await asyncio.wait((self._question,), timeout=MOMENT)
        return self._question.result() if self._question.done() else {}

    def _look_up(self, asked: Sequence[Asked]) -> Mapping[tuple[str, str], int]:
        counters = [counter_of(jail, key) for jail, key in asked]
        try:
            client = connect_to(self._uri, MOMENT, counters[0])
            try:
                found = [client.execute_command("GET", counter) for counter in counters]
            finally:
                client.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, people are told what is known without
            log.info("%s does not say what all hosts have counted: %s", self._uri, said_by(error))
            return {}
        now = self._clock() + self._offset()
        pairs = zip(asked, found, strict=True)
        return {(jail.name, key): total_of(packed or b"", now - float(jail.findtime)) for (jail, key), packed in pairs}


def total_of(packed: bytes, since: float) -> int:
    """Give how many failures, or different values, a counter of `fail.lua` holds from after `since`, by Redis TIME."""
    total, values, at = 0, set[bytes](), 0
    while at + _ENTRY.size <= len(packed):
        millis, count, length = _ENTRY.unpack_from(packed, at)
        tag = packed[at + _ENTRY.size : at + _ENTRY.size + length]
        at += _ENTRY.size + length
        value = tag.partition(b" ")[0]
        if millis > since * 1000:
            values.add(value)
            total += 0 if value else count
    return total + len(values - {b""})
