"""The example shop behind a load balancer: app and nginx shut out the real client, and never the balancer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.demos.balancer import FORGERIES, PLACES, BehindBalancer, is_by_nginx
from scripts.demos.sections import ATTACKER4, ATTACKER6, BANNED6, HONEST4, HONEST6, NEIGHBOUR6
from scripts.demos.timeline import Timeline
from tests.balanced_shop import BALANCER4, BALANCER6, PLACE, BalancedShop
from tests.internet import SERVER4, SERVER6, Internet
from tests.lab import wait_until
from tests.machine import Machine
from tests.visitor import Visitor

pytestmark = pytest.mark.lab

DIRECTORY = Path("/run/shop")
NEIGHBOUR4 = "203.0.113.21"


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """Give the attackers, the honest client, the balancer and the server."""
    with Internet(PLACES) as internet:
        yield internet


@pytest.fixture
def shop(internet: Internet) -> Iterator[BalancedShop]:
    """Give the running shop."""
    with BalancedShop(internet, DIRECTORY) as shop:
        yield shop


@pytest.fixture
def attacker(internet: Internet) -> Machine:
    """Give the machine the attackers are on."""
    return internet.machines["attacker"]


def bans(shop: BalancedShop) -> dict[str, list[str]]:
    """Give the networks that are banned, and what their packets came by."""
    return {ban["network"]: ban["via"] for ban in json.loads(shop.command("list", "--json"))["bans"]}


def wait_for_nginx(visitor: Visitor) -> None:
    """Wait until nginx itself refuses a client."""
    wait_until(lambda: is_by_nginx(visitor.ask("GET", "/")), 5, "nginx refuses")


@pytest.mark.parametrize(
    ("source", "host", "banned", "neighbour", "is_served"),
    [
        (ATTACKER4, BALANCER4, ATTACKER4, NEIGHBOUR4, True),
        (ATTACKER6, BALANCER6, BANNED6, NEIGHBOUR6, False),
    ],
)
def test_the_real_client_is_refused_by_app_and_nginx(
    internet: Internet, shop: BalancedShop, source: str, host: str, banned: str, neighbour: str, is_served: bool
) -> None:
    """Five wrong passwords shut out who sent them, at once in the app and soon in nginx, until `unban`; nobody else."""
    attacker = Visitor(internet.machines["attacker"], host, source)
    assert [attacker.log_in("alice", f"guess{number}").status for number in range(5)] == [401] * 5
    wait_until(lambda: attacker.outcome() == 403, 5, "app or nginx refuses")
    past_nginx = Visitor(shop.server, "127.0.0.1", port=8000)
    refusal = past_nginx.ask("GET", "/", headers={"X-Forwarded-For": f"{source}, {BALANCER4}"})
    assert refusal.status == 403
    assert "quote the reference" in refusal.text
    wait_for_nginx(attacker)
    assert Visitor(internet.machines["honest"], host).outcome() == 200
    assert (Visitor(internet.machines["attacker"], host, neighbour).outcome() == 200) is is_served
    (via,) = bans(shop).values()
    assert {BALANCER4, BALANCER6}.intersection(via)
    shop.command("unban", banned)
    wait_until(lambda: attacker.outcome() == 200, 10, "the attacker is let back")


@pytest.mark.parametrize("forged", FORGERIES, ids=lambda forged: " ".join(forged.values()))
def test_a_client_frames_nobody(shop: BalancedShop, attacker: Machine, forged: dict[str, str]) -> None:
    """Whatever a client forwards through the balancer, it is banned itself, by the app's word and by nginx's log."""
    guesser, prober = (Visitor(attacker, BALANCER4, source) for source in (ATTACKER4, NEIGHBOUR4))
    for number in range(5):
        assert guesser.log_in("alice", f"guess{number}", forged).status == 401
    for number in range(30):
        assert prober.ask("GET", f"/{number}.php", headers=forged).status == 404
    shop.daemon.wait_for(f"[login] Ban {ATTACKER4}")
    shop.daemon.wait_for(f"[probe] Ban {NEIGHBOUR4}")
    assert set(bans(shop)) == {ATTACKER4, NEIGHBOUR4}


def test_who_is_no_balancer_is_not_believed(shop: BalancedShop, attacker: Machine) -> None:
    """A client that connects to the server itself is the client, and its connection is closed without an answer."""
    visitor = Visitor(attacker, SERVER4, ATTACKER4)
    for number in range(5):
        assert visitor.log_in("alice", f"guess{number}", {"X-Forwarded-For": f"{HONEST4}, {BALANCER4}"}).status == 401
    shop.daemon.wait_for(f"[login] Ban {ATTACKER4}")
    assert set(bans(shop)) == {ATTACKER4}

    def is_closed() -> bool:
        try:
            return visitor.outcome() == 0
        except ConnectionError:
            return True

    wait_until(is_closed, 5, "nginx closes the connection")


def test_the_balancer_is_never_banned(internet: Internet, shop: BalancedShop) -> None:
    """Not even for failures of its own is the balancer banned, nor by a person; who comes through it is served."""
    for address, host in ((BALANCER4, SERVER4), (BALANCER6, SERVER6)):
        itself = Visitor(internet.machines[PLACE.name], host, address)
        for number in range(10):
            assert itself.log_in("alice", f"guess{number}").status == 401
        code, said = shop.attempt("ban", address)
        assert code == 3
        assert "is a trusted proxy" in said
    attacker = Visitor(internet.machines["attacker"], BALANCER4, ATTACKER4)
    for number in range(5):
        attacker.log_in("alice", f"guess{number}")
    wait_for_nginx(attacker)
    assert itself.outcome() == 200
    lines = shop.bans.read_text().splitlines()
    assert {f"{BALANCER4}/32 0;", f"{BALANCER6}/128 0;", f"{ATTACKER4}/32 1;"} <= set(lines)
    assert [line for line in lines if line.endswith(" 1;")] == [f"{ATTACKER4}/32 1;"]


def test_the_banned_take_the_site_from_nobody(internet: Internet, shop: BalancedShop) -> None:
    """However often the banned ask, the balancer keeps both of its ways to the server, and others are served.

    A closed connection would look like a broken server, and the balancer would send nobody there for ten seconds.
    """
    attacker = Visitor(internet.machines["attacker"], BALANCER4, ATTACKER4)
    shop.command("ban", ATTACKER4)
    wait_for_nginx(attacker)
    honest = [
        Visitor(internet.machines["honest"], host, source)
        for host, source in ((BALANCER4, HONEST4), (BALANCER6, HONEST6))
    ]
    for _ in range(10):
        assert [attacker.outcome() for _ in range(2)] == [403, 403]
        assert [each.outcome() for each in honest for _ in range(2)] == [200] * 4
    assert "upstream" not in shop.balancer.output()


def test_the_demonstration_fails_when_nginx_refuses_nobody(internet: Internet) -> None:
    """What scripts/demo --balancer shows is observed: with a firewall that only pretends, it ends in an error."""
    with BalancedShop(internet, DIRECTORY, firewall="dry_run") as shop:
        demo = BehindBalancer(internet, shop, Timeline())
        with pytest.raises(AssertionError, match="nginx refuses"):
            demo.guess_through_the_balancer(ATTACKER4, BALANCER4, ATTACKER4)
