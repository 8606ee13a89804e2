"""The whole of AppGuard at work, in the example shop: from a failed login in the app to a drop in the kernel."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts.demos.one_server import OneServer
from scripts.demos.timeline import Timeline
from tests.internet import SERVER4, SERVER6, Internet, Place
from tests.lab import wait_until
from tests.shop import Shop
from tests.visitor import SILENCE, Visitor, guess_until_dropped

pytestmark = pytest.mark.lab

PLACES = (
    Place("attacker", ("203.0.113.5/25", "2001:db8:bad:1::5/64", "2001:db8:bad:1::abcd/64")),
    Place("scanner", ("203.0.113.200/25",)),
    Place("honest", ("198.51.100.7/24", "2001:db8:900d::7/64")),
)
DIRECTORY = Path("/run/shop")
PROMPTLY = 0.5  # seconds; usual are 5 ms, and a busy machine is no failure


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """Give the attackers, the honest client and the server."""
    with Internet(PLACES) as internet:
        yield internet


@pytest.fixture
def shop(internet: Internet) -> Iterator[Shop]:
    """Give the running shop."""
    with Shop(internet.server, DIRECTORY) as shop:
        yield shop


@pytest.mark.parametrize(
    ("source", "host", "banned"),
    [("203.0.113.5", SERVER4, "203.0.113.5"), ("2001:db8:bad:1::5", SERVER6, "2001:db8:bad:1::/64")],
)
def test_failed_logins_become_a_kernel_drop_until_lifted(
    internet: Internet, shop: Shop, source: str, host: str, banned: str
) -> None:
    """Five wrong passwords cut off the attacker and not the honest client they pretend to be; `unban` lets him back."""
    attacker = Visitor(internet.machines["attacker"], host, source)
    honest = Visitor(internet.machines["honest"], host)
    forged = {"X-Forwarded-For": "198.51.100.7", "Forwarded": "for=198.51.100.7"}
    attempts = [partial(attacker.log_in, "alice", f"guess{number}", forged) for number in range(5)]
    drop = guess_until_dropped(attacker, shop.server, attempts)
    assert drop.after_guess < PROMPTLY
    assert attacker.outcome(SILENCE) == 0
    assert honest.outcome() == 200
    assert banned in shop.command("list")
    shop.command("unban", banned)
    wait_until(lambda: attacker.outcome(SILENCE) == 200, 5, "the attacker is let back")


def test_a_right_password_and_a_first_question_are_no_failures(internet: Internet, shop: Shop) -> None:
    """Logging in, or a browser's first request for a page behind HTTP Basic, is never counted."""
    honest = Visitor(internet.machines["honest"], SERVER4)
    before = shop.daemon.output().count("Found")
    for _ in range(6):
        assert honest.log_in("alice", "wonderland").status == 200
        assert honest.ask("GET", "/private").status == 401
        assert honest.open_private("alice", "wonderland").status == 200
    assert honest.log_in("alice", "mistyped").status == 401  # arrives after all the others
    wait_until(lambda: shop.daemon.output().count("Found") > before, 5, "the daemon is told")
    assert shop.daemon.output().count("Found") == before + 1


def test_the_demonstration_fails_when_nothing_is_dropped(internet: Internet) -> None:
    """What scripts/demo shows is observed: with a firewall that only pretends, it ends in an error."""
    with Shop(internet.server, DIRECTORY, firewall="dry_run") as shop:
        demo = OneServer(internet, shop, Timeline())
        with pytest.raises(AssertionError, match="the kernel drops the probes"):
            demo.guess_over_ipv4()
