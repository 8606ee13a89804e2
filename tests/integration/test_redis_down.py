"""Redis fails while wrk asks a FastAPI app on uvicorn: nobody notices, and it is used again as soon as it is back."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from appguard.address import parse_address
from appguard.ban import Ban
from appguard.stores.redis_bans import RedisBanSet
from tests.lab import wait_until
from tests.redis_down import ATTACKER, outage
from tests.redis_server import redis_server

SLOWEST_MS = 60.0
RECOVERY = 2.0


@pytest.mark.lab
@pytest.mark.parametrize("fate", ["refused", "hung", "killed"])
def test_nobody_notices_a_failing_redis(tmp_path: Path, fate: str) -> None:
    """No request fails or waits for Redis more than 60 ms, a banned client stays out, and recovery takes no 2 s.

    What the machine itself makes requests wait is told by those that need no Redis, made at the same time.
    """
    seen = outage(tmp_path, fate)
    assert seen.requests > 1_000
    assert seen.failures == 0
    assert seen.slowest_ms <= SLOWEST_MS + seen.noise_ms, seen
    assert seen.attacks > 50
    assert seen.attacks_let_in == 0
    assert seen.recovery <= RECOVERY


def test_lost_ban_is_kept_until_its_maker_had_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ban that Redis has lost stays in force for others; if nobody tells it again they forget it in the end."""
    monkeypatch.setattr("appguard.stores.redis_bans.RETELL", 1.5)
    with redis_server(tmp_path) as server, ExitStack() as stack:
        makers = [RedisBanSet(server.uri), RedisBanSet(server.uri)]
        other = RedisBanSet(server.uri)
        for each in (*makers, other):
            stack.callback(each.close)
        lived, gone = parse_address(ATTACKER), parse_address("192.0.2.9")
        for maker, address in zip(makers, (lived, gone), strict=True):
            maker.ban(Ban.of(address.text, bantime="1h"))
        wait_until(lambda: other.get(lived) and other.get(gone), 5, "the bans did not arrive")
        makers[1].close()
        server.kill()
        server.start()
        wait_until(lambda: server.command("ZCARD", "appguard:b:{main}:bans") == b":1\r\n", 10, "not told again")
        assert other.get(gone) is not None
        wait_until(lambda: other.get(gone) is None, 10, "never forgotten")
        assert other.get(lived) is not None
