"""Hosts that have their failures counted together by one Redis, each with a replica of the ban set."""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from appguard.address import Grouping, parse_address
from appguard.event import LOGIN_FAIL, Event
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.stores.fleet_failures import TOTAL, Decided, Failed, FleetFailures
from appguard.stores.redis_bans import RedisBanSet
from tests.lab import wait_until

ATTACKER, OTHER = "203.0.113.5", "203.0.113.6"
FIVE = Jail("login", maxretry=5, findtime="10m", bantime="1h", scope="fleet")


class CountingHost:
    """A host that counts along; its wall clock is off by `skew`."""

    def __init__(self, uri: str, jail: Jail = FIVE, skew: float = 0.0) -> None:
        self.skew = skew
        self.window = JailWindow(jail, Grouping())
        self.bans = RedisBanSet(uri, clock=self.now)
        self.bans.host = f"web{skew:+.0f}"
        self.failures = FleetFailures(uri, self.bans, self._note, clock=self.now)
        self.decided: list[Decided] = []
        self.answered = 0

    def now(self) -> float:
        """Tell the time as this host has it."""
        return time.time() + self.skew

    def _note(self, sent: Sequence[Failed], decided: Sequence[Decided]) -> None:
        self.decided += decided
        self.answered += len(sent)

    def start(self) -> None:
        """Begin to follow and to tell."""
        assert self.bans.wait_synced(10)
        self.failures.start()

    def fail(  # each is a part of the event
        self, address: str, times: int = 1, *, ago: float = 0.0, user: str = "", path: str = "", within: float = 5.0
    ) -> None:
        """Tell failures and wait for the answers."""
        until = self.answered + times
        for _ in range(times):
            event = Event(LOGIN_FAIL, self.now() - ago, parse_address(address), user=user, path=path)
            self.put(event)
        wait_until(lambda: self.answered >= until, within, lambda: f"not answered: {self.failures.complaint}")

    def put(self, event: Event) -> None:
        """Count a failure here and have it counted by all."""
        window = self.window
        key = window.counted_key(event)
        bans = window.add(key, event, "a line")
        offer = bans[0] if bans else window.offer(key, event)
        why = window.why(event.kind, TOTAL)
        self.failures.put(Failed(window.jail, key, event, offer, window.value(event), why, bool(bans)))

    def close(self) -> None:
        """End."""
        with ThreadPoolExecutor() as threads:
            for end in [threads.submit(self.failures.close), threads.submit(self.bans.close)]:
                end.result()


@contextmanager
def counting(uri: str, jail: Jail = FIVE, skews: Sequence[float] = (0.0, 0.0)) -> Generator[list[CountingHost]]:
    """Run hosts that count together for the length of the block."""
    hosts = [CountingHost(uri, jail, skew) for skew in skews]
    try:
        for host in hosts:
            host.start()
        yield hosts
    finally:
        with ThreadPoolExecutor() as threads:
            list(threads.map(CountingHost.close, hosts))
