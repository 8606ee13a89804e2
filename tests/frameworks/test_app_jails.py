"""Jails and traps in an app, through every framework: who is banned, who is not, and for how long."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appguard import Jail
from appguard.testing import Isolated, isolated
from tests.frameworks.sites import SITES, Site
from tests.frameworks.test_everywhere import events_in

BOB = "198.51.100.7"
IN = {"X-Password": "wonderland", "X-User": "mallory"}
HOUR = 3600


@pytest.fixture(params=SITES, name="make")
def make_site(request: pytest.FixtureRequest) -> Callable[..., Site]:
    """Give the maker of the site in each framework."""
    made: Callable[..., Site] = SITES[request.param]
    return made


@pytest.fixture
def guarded() -> Iterator[Isolated]:
    """Give a clock to advance, and the events."""
    with isolated() as found:
        yield found


def guess(ask: Site, user: str, peer: str = "203.0.113.5") -> int:
    """Guess a password; give the status."""
    return ask("POST", "/login", {"X-User": user}, peer).status


def test_many_users_tried_from_one_address(make: Callable[..., Site], guarded: Isolated) -> None:
    """Three different users from an address ban it; one user three times, however spelled, does not."""
    ask = make(limits=[], jails=[Jail("stuffing", maxretry=3, distinct="user", findtime="1h")])
    spelled = ("alice", "ALICE", " alice ", "\uff41lice".encode().decode("latin-1"))
    assert [guess(ask, user) for user in spelled[:3]] == [401] * 3
    assert [guess(ask, user) for user in ("bob", "carol", "dave")] == [401, 401, 403]
    assert guess(ask, "alice", BOB) == 401
    assert [event.jail for event in guarded.events] == ["stuffing"] * 6


def test_one_user_tried_from_many_addresses(make: Callable[..., Site], guarded: Isolated) -> None:
    """Three addresses that guess at one user are all banned; one address that guesses at him often is not."""
    ask = make(limits=[], jails=[Jail("botnet", maxretry=3, key="user", distinct="address", findtime="1h")])
    bots = [f"192.0.2.{number}" for number in (1, 2, 3)]
    assert [guess(ask, "alice", bots[0]) for _ in range(5)] == [401] * 5
    assert [guess(ask, "Alice", bot) for bot in bots[1:]] == [401, 401]
    assert [guess(ask, "alice", bot) for bot in bots] == [403, 403, 403]
    assert guess(ask, "alice", BOB) == 401
    assert {event.kind for event in guarded.events} == {"authn_login_fail"}


def test_an_own_login_between_guesses_hides_nothing(make: Callable[..., Site], guarded: Isolated) -> None:
    """Four guesses at alice and a login of one's own, again and again: the address is counted all the same."""
    ask = make(limits=[], jails=[Jail("login", maxretry=5, findtime="1h")])
    seen: list[int] = []
    for _ in range(3):
        seen += [guess(ask, "alice") for _ in range(4)]
        seen.append(ask("POST", "/login", IN).status)
    assert seen[:6] == [401] * 4 + [200, 401]
    assert set(seen[6:]) == {403}
    assert guarded.events[4].kind == "authn_login_success"


@pytest.mark.parametrize("key", ["user", "user+address"])
def test_a_login_ends_what_is_counted_for_its_user(make: Callable[..., Site], guarded: Isolated, key: str) -> None:
    """Who knows the password was no attacker on that name; another user's failures stay counted."""
    ask = make(limits=[], jails=[Jail("login", maxretry=3, key=key, findtime="1h")])
    right = {"X-Password": "wonderland", "X-User": "Alice"}
    for _ in range(3):
        assert [guess(ask, "alice") for _ in range(2)] == [401, 401]
        assert ask("POST", "/login", right).status == 200
    assert [guess(ask, "bob") for _ in range(2)] == [401, 401]
    assert ask("POST", "/login", right).status == 200
    assert [guess(ask, "bob") for _ in range(2)] == [401, 403]
    assert len(guarded.events) == 13


def test_bans_grow(make: Callable[..., Site], guarded: Isolated) -> None:
    """Each ban of an address lasts twice as long as the one before, up to the longest; another one's begin anew."""
    jail = Jail("login", maxretry=1, bantime=60, bantime_increment=True, bantime_maxtime=240)
    ask = make(limits=[], jails=[jail])
    for seconds in (60, 120, 240, 240):
        assert guess(ask, "alice") == 401
        guarded.clock.advance(seconds - 1)
        assert guess(ask, "alice") == 403
        guarded.clock.advance(2)
    assert guess(ask, "alice", BOB) == 401
    guarded.clock.advance(61)
    assert guess(ask, "alice", BOB) == 401


def test_a_stale_token_that_polls_bans_nobody(make: Callable[..., Site], guarded: Isolated) -> None:
    """A client with an expired bearer token asks once a second for an hour: no ban, no refusal, and each is told."""
    ask = make(jails=[Jail("login", maxretry=5, findtime="1h")])
    stale = {"Authorization": "Bearer expired"}
    for _ in range(HOUR):
        assert ask(path="/basic", headers=stale).status == 401
        guarded.clock.advance(1)
    assert ask().status == 200
    assert [event.kind for event in guarded.events] == ["authn_token_fail"] * HOUR
    assert {event.jail for event in guarded.events} == {""}


def test_traps(make: Callable[..., Site], tmp_path: Path) -> None:
    """Who asks for what only scanners ask for is told it is not there, and banned at the third."""
    log = tmp_path / "events.jsonl"
    ask = make(store="memory://", limits=[], traps=["/.env", "/wp-*"], event_log=str(log))
    assert ask(path="/wp").status == 404  # the app's own
    assert events_in(log) == []
    for path in ("//.ENV/", "/wp-admin/setup.php"):
        assert ask(path=path).text == "Not Found\n"
    assert ask().status == 200
    assert ask("POST", "/.env").status == 404
    assert (ask().status, ask(peer=BOB).status) == (403, 200)
    told = [(event["event"], event["count"], event["path"], event["status"], event["jail"]) for event in events_in(log)]
    assert told == [("guard_probe", 1, path, 404, "traps") for path in ("//.ENV/", "/wp-admin/setup.php", "/.env")]


def test_the_users_own_jail_of_traps(make: Callable[..., Site], guarded: Isolated) -> None:
    """A jail that counts probes replaces the one that is there without it."""
    jail = Jail("traps", maxretry=1, bantime="1d", events=["guard_probe"])
    ask = make(limits=[], traps=["/.env"], jails=[jail])
    assert [ask(path="/.env").status for _ in range(2)] == [404, 403]
    guarded.clock.advance(23 * HOUR)
    assert ask().status == 403
    guarded.clock.advance(2 * HOUR)
    assert ask().status == 200


def test_traps_catch_nobody_who_is_let_off(make: Callable[..., Site], guarded: Isolated) -> None:
    """The safelist gets the app's own answer, and no event is told of it."""
    ask = make(limits=[], traps=["/denied"], safelist=[BOB])
    assert [ask(path="/denied", peer=peer).status for peer in (BOB, "203.0.113.5")] == [403, 404]
    assert [event.kind for event in guarded.events] == ["authz_fail", "guard_probe"]


def test_users_may_be_hashed(make: Callable[..., Site], tmp_path: Path) -> None:
    """No user name is written; one user is one hash however spelled, and jails count by it as by the name."""
    log = tmp_path / "events.jsonl"
    jails = [Jail("login", maxretry=3, key="user+address")]
    ask = make(store="memory://", limits=[], jails=jails, hash_users=True, secret="s", event_log=str(log))
    assert [guess(ask, user) for user in ("alice", " ALICE", "bob", "alice")] == [401] * 4
    assert guess(ask, "bob") == 403
    users = [event["user"] for event in events_in(log)]
    assert users[0] == users[1] == users[3] != users[2]
    assert all(str(user).startswith("user:") and len(str(user)) == 37 for user in users)
    assert "alice" not in log.read_text().lower()
