"""Redis fails while wrk asks a FastAPI app on uvicorn: nobody notices, and it is used again as soon as it is back."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from appguard.address import parse_address
from appguard.ban import Ban
from appguard.stores.local import Publisher
from appguard.stores.redis import RedisStore
from appguard.stores.redis_bans import RedisBanSet
from tests.lab import wait_until
from tests.redis_down import ATTACKER, outage
from tests.redis_server import RedisServer, redis_server
from tests.replicas import bans_kept

SLOWEST_MS = 60.0
HELD_MS = 40.0
RECOVERY = 2.0
FAILOVER = 6.0  # of which Sentinel or Cluster take most to elect another master


@pytest.mark.lab
@pytest.mark.parametrize("fate", ["refused", "hung", "killed", "flushed", "sentinel", "cluster"])
def test_nobody_notices_a_failing_redis(tmp_path: Path, fate: str) -> None:
    """No request fails or waits for Redis more than 60 ms, a banned client stays out, and Redis is soon used again.

    Turns of the app's loop that last, because others have the processor, are no wait for Redis. That they do not last
    because of the app itself is asserted apart.
    """
    seen = outage(tmp_path, fate)
    assert seen.requests > 1_000
    assert seen.failures == 0
    assert seen.waited_ms <= SLOWEST_MS, seen
    assert 0.0 < seen.held_ms <= HELD_MS, seen  # nothing at all would mean that nobody looked
    assert seen.attacks > 50
    assert seen.attacks_let_in == 0
    assert seen.recovery <= (FAILOVER if fate in ("sentinel", "cluster") else RECOVERY)


def test_lost_ban_is_told_by_those_who_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ban whose maker is gone when Redis loses it is told again by another daemon; an app alone forgets it."""
    monkeypatch.setattr("appguard.stores.redis.FORGET_AFTER", 1.0)
    known = parse_address(ATTACKER)
    with redis_server(tmp_path) as server, ExitStack() as stack:
        maker, other = RedisBanSet(server.uri), RedisBanSet(server.uri)
        app = stack.enter_context(RedisStore(server.uri, directory=tmp_path))
        for each in (maker, other):
            stack.callback(each.close)
        maker.ban(Ban.of(ATTACKER, bantime="1h"))
        wait_until(lambda: other.get(known) and app.get(known), 5, "the ban did not arrive")
        maker.close()
        server.command("FLUSHALL")
        wait_until(lambda: bans_kept(server.uri) == [ATTACKER], 5, "not told again")
        assert other.get(known) is not None
        other.close()
        server.command("FLUSHALL")
        wait_until(lambda: app.get(known) is None, 5, "the app never forgot it")
        assert bans_kept(server.uri) == []


@pytest.mark.parametrize("step", [60.0, -60.0])
def test_published_bans_stay_in_force_until_redis_is_heard(tmp_path: Path, step: float) -> None:
    """An app whose daemon is gone, by any clock, lets nobody in while Redis is down; later Redis has the last word."""
    known, times = parse_address(ATTACKER), [time.time(), 0.0]
    server = RedisServer(tmp_path)
    publisher = Publisher(tmp_path)
    publisher.publish_all([Ban.of(ATTACKER, bantime="1h").starting(times[0])])
    publisher.close()
    app = RedisStore(server.uri, directory=tmp_path, clock=lambda: times[0], monotonic=lambda: times[1])
    with app:
        assert app.get(known) is not None
        assert app.get(parse_address("198.51.100.7")) is None
        for _ in range(3):
            times[:] = times[0] + step, times[1] + 2.0
            assert app.get(known) is not None
        try:
            server.start()
            assert app.wait_synced(10)
            assert app.get(known) is None
        finally:
            server.kill()
