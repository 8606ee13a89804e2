"""The store of a fleet: counters and ban set in Redis or Valkey.

On a host with a daemon the daemon is the replica of the ban set, and the apps read what it publishes; an app without a
living daemon follows Redis by itself. Until it has heard Redis, what the daemon published last stays in force.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from appguard.address import Address
from appguard.ban import Ban, Fact
from appguard.config import RUNTIME_DIRECTORY
from appguard.stores.base import Closing
from appguard.stores.local import PublishedBans
from appguard.stores.redis_bans import FORGET_AFTER, RedisBanSet
from appguard.stores.redis_commands import Commands
from appguard.stores.redis_counters import RedisCounters

HEARTBEAT_MOST = 5.0  # seconds since a living daemon last touched what it publishes


class RedisStore(RedisCounters, RedisBanSet, Closing):
    """Counters of one app and the fleet's bans."""

    def __init__(
        self,
        uri: str,
        app: str = "app",
        on_store_error: str = "local",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        directory: Path = RUNTIME_DIRECTORY,
    ) -> None:
        RedisCounters.__init__(self, uri, app, on_store_error, monotonic)
        RedisBanSet.__init__(self, uri, clock=clock)
        self._monotonic = monotonic
        self._published = PublishedBans(directory, clock, monotonic)
        self._heartbeat = directory / "bans.seq"
        self._reads_published = False
        self._look_at_heartbeat = 0.0

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that holds the address, from the daemon of this host or else from Redis."""
        if self._monotonic() >= self._look_at_heartbeat:
            self._look_at_heartbeat = self._monotonic() + 1.0
            self._reads_published = self._daemon_lives()
        if self._reads_published:
            return self._published.get(address)
        if self._synced.is_set() and not self._table.may_hold(address):  # as most
            return None
        ban = RedisBanSet.get(self, address)
        return self._published.get(address) if ban is None and not self._synced.is_set() else ban

    @property
    def lifts(self) -> int:
        """Give a number that changes when a ban was lifted, as far as this process has heard."""
        return super().lifts + self._published.lifts

    def _daemon_lives(self) -> bool:
        try:
            return abs(self._clock() - self._heartbeat.stat().st_mtime) < HEARTBEAT_MOST  # or the clock was set back
        except OSError:
            return False

    def _maintain(self, client: Commands) -> None:
        """Forget what has ended in the replica only: an app may not write to the ban set."""
        self.expire()

    def _patience(self) -> float:
        return FORGET_AFTER

    def _settle(self, lost: dict[str, Fact]) -> None:
        """Forget what Redis has lost and no daemon has told again."""
        for fact in lost.values():
            if fact.ban is not None and self.known(fact) == fact:
                self.forget(fact.ban)

    def close(self) -> None:
        """Close connections and end the threads; the next use starts them again."""
        RedisBanSet.close(self)
        self._published.close()
        self._client.close()

    async def close_async(self) -> None:
        """Do what `close` does, and close the connections of the running event loop."""
        await RedisCounters.close_connections(self)
        await asyncio.to_thread(self.close)
