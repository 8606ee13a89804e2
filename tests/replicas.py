"""Several replicas of one fleet's ban set, each as a host of its own, and in how much they differ."""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from redis.exceptions import RedisError

from appguard.address import parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.stores.redis_bans import RedisBanSet
from appguard.stores.redis_connection import connect_to
from appguard.stores.redis_records import parse_record
from appguard.stores.redis_uri import parse_redis_uri
from tests.lab import wait_until

FACTS = "appguard:b:{main}:facts"
CHANGES = "appguard:b:{main}:changes"
AGREE_WITHIN = 5.0  # seconds


def facts_kept(uri: str) -> dict[str, Fact] | None:
    """Give what Redis keeps, by network; None if it does not answer."""
    try:
        client = connect_to(parse_redis_uri(uri), 2.0, FACTS)
        try:
            found = client.execute_command("HGETALL", FACTS)
        finally:
            client.close()
    except (RedisError, OSError):
        return None
    facts = [parse_record(key, record, 0.0) for key, record in zip(found[::2], found[1::2], strict=True)]
    return {fact.key: fact for fact in facts if fact is not None}


def bans_kept(uri: str) -> list[str]:
    """Give the networks that are banned in Redis."""
    return sorted(key for key, fact in (facts_kept(uri) or {}).items() if fact.ban is not None)


def versions(facts: Sequence[Fact]) -> dict[str, tuple[int, bool]]:
    """Give of every network the version of what is known, and whether it is banned."""
    return {fact.key: (fact.version, fact.ban is not None) for fact in facts}


class Fleet:
    """Some hosts' replicas; each host's wall clock is off by its `skews`, which may be changed."""

    def __init__(self, uri: str, skews: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.uri = uri
        self.skews = list(skews)
        self.hosts = [RedisBanSet(uri, clock=partial(self._now, host)) for host in range(len(skews))]

    def _now(self, host: int) -> float:
        return time.time() + self.skews[host]

    def ban(self, host: int, address: str, bantime: str = "1h") -> None:
        """Ban an address on one host."""
        ban = Ban.of(address, bantime=bantime)
        assert self.hosts[host].ban(ban) is not None

    def lift(self, host: int, address: str) -> None:
        """Lift a ban on one host."""
        assert self.hosts[host].unban(parse_network(address)) is not None

    def is_banned(self, host: int, address: str) -> bool:
        """Say whether a host shuts an address out."""
        return self.hosts[host].get(parse_address(address)) is not None

    def divergences(self) -> int:
        """Count the networks about which a host knows something else than another host or than Redis."""
        kept = facts_kept(self.uri)
        copies = [versions(host.facts()) for host in self.hosts]
        copies.append(versions(list(kept.values())) if kept is not None else {"nothing": (0, False)})
        networks = {network for copy in copies for network in copy}
        return sum(len({copy.get(network) for copy in copies}) > 1 for network in networks)

    def agree(self, banned: Sequence[str] | None = None, within: float = AGREE_WITHIN) -> float:
        """Wait until all agree, and on these bans if they are given; print it and give the seconds."""
        begun = time.monotonic()

        def is_agreed() -> bool:
            return not self.divergences() and (banned is None or self.bans(0) == sorted(banned))

        wait_until(is_agreed, within, self._difference)
        for host in range(len(self.hosts)):
            assert self.bans(host) == self.bans(0)
        seconds = time.monotonic() - begun
        print(f"divergences {self.divergences()} after {seconds:.1f} s, {len(self.bans(0))} bans")
        return seconds

    def bans(self, host: int) -> list[str]:
        """Give what a host shuts out."""
        return sorted(ban.key for ban in self.hosts[host].snapshot().bans)

    def ends(self, address: str) -> list[float]:
        """Give when the hosts lift a ban, all by one clock."""
        found = [host.get(parse_address(address)) for host in self.hosts]
        return [ban.end - skew for ban, skew in zip(found, self.skews, strict=True) if ban and ban.end]

    def _difference(self) -> str:
        return f"{self.divergences()} divergences; Redis {bans_kept(self.uri)[:9]}; " + "; ".join(
            f"host {host} {self.bans(host)[:9]} {self.hosts[host].complaint}" for host in range(len(self.hosts))
        )


@contextmanager
def fleet(uri: str, skews: Sequence[float] = (0.0, 0.0, 0.0)) -> Generator[Fleet]:
    """Run hosts that are in step for the length of the block."""
    made = Fleet(uri, skews)
    try:
        for host in made.hosts:
            assert host.wait_synced(10)
        yield made
    finally:
        with ThreadPoolExecutor() as threads:
            list(threads.map(RedisBanSet.close, made.hosts))
