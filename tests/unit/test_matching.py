"""Which limits a request meets, and under which keys: nobody shares another's, and nothing of a stranger is kept."""

import sys
import tracemalloc
from collections.abc import Mapping
from threading import Thread
from typing import cast

import pytest
from hypothesis import given

from appguard.address import parse_address
from appguard.config import app_config
from appguard.errors import ConfigError
from appguard.limit import Hit, Limit, path_pattern
from appguard.matching import MEMO_MOST, Matching
from appguard.proxies import Client
from appguard.request import Request, basic_user, normal_user
from tests.strategies import hostile_text

ALICE = Client(parse_address("203.0.113.5"), "203.0.113.5")
BOB = Client(parse_address("203.0.113.6"), "203.0.113.6")
Headers = Mapping[str, str]


def header_of(native: object, name: str) -> str:
    """Read a header of a request that is nothing but its headers."""
    return cast("Headers", native).get(name, "")


def matching(*limits: Limit, secret: str = "secret", reserves: bool = True) -> Matching:
    """Give a matching whose only logins are POSTs to /login."""

    def is_attempt(request: Request) -> bool:
        return request.method == "POST" and request.path == "/login"

    return Matching(limits, header_of, is_attempt if reserves else None, secret)


def hits(made: Matching, client: Client = ALICE, method: str = "GET", path: str = "/", **headers: str) -> list[Hit]:
    """Give the hits of a request."""
    return list(made.hits(client, method, path, {name.replace("_", "-"): text for name, text in headers.items()}))


def test_keys_are_hashed_by_their_kind_and_the_secret() -> None:
    """A key shows nothing of what was sent; the same text as user and as header, or under another secret, differs."""
    text = "aladdin"
    limits = [
        Limit("5/minute", key="api_key"),
        Limit("5/minute", key="header:X-Other"),
        Limit("5/minute", key=lambda _request: text),
    ]
    keys = {
        hit.key for secret in ("a", "b") for hit in hits(matching(*limits, secret=secret), x_api_key=text, x_other=text)
    }
    assert len(keys) == 6
    assert not any(text in key for key in keys)
    assert {len(key.split(" ")[0].partition(":")[2]) for key in keys} == {32}


@given(one=hostile_text, other=hostile_text)
def test_two_keys_share_a_counter_only_if_they_are_the_same(one: str, other: str) -> None:
    """Whatever strangers send as their key, it is bounded, holds no separator, and is theirs alone."""
    made = matching(Limit("5/minute", key="api_key"))
    (first,), (second,) = (hits(made, x_api_key=text) for text in (one, other))
    assert (first.key == second.key) == (one == other)
    assert first.key.endswith(" 5/minute per header:x-api-key")
    assert len(first.key) < 100
    assert " " not in first.key.removesuffix(" 5/minute per header:x-api-key")


def test_clients_without_the_key_are_told_apart() -> None:
    """Who sends no API key is counted by the address, never with the others who send none."""
    made = matching(Limit("5/minute", key="api_key"), Limit("9/minute", key=lambda _request: None))
    assert {hit.key.split(" ")[0] for client in (ALICE, BOB) for hit in hits(made, client)} == {ALICE.key, BOB.key}


def test_user_is_the_authenticated_one_for_requests() -> None:
    """A name that was only claimed is no user whose requests are counted; for wrong passwords it is."""
    claimed = "Basic YWxpY2U6eA=="
    requests, failures = Limit("5/minute", key="user"), Limit("5/minute", key="user", count="auth_failure")
    assert [hit.key for hit in hits(matching(requests), authorization=claimed)] == [f"{ALICE.key} 5/minute per user"]
    (hit,) = hits(matching(failures), authorization=claimed)
    assert hit.key.startswith("user:")
    assert hits(matching(failures)) == []


class User:
    """A user as Django and Starlette have one."""

    def __init__(self, name: str, *, is_authenticated: bool = True) -> None:
        self.username = name
        self.is_authenticated = is_authenticated


class DjangoUser(User):
    """A user of Django, whose name field may be any."""

    def get_username(self) -> str:
        """Give the name."""
        return "by method"


class Native:
    """Django's request behind its AuthenticationMiddleware."""

    user = DjangoUser("alice")


@pytest.mark.parametrize(
    ("native", "user"),
    [
        ({"REMOTE_USER": "alice"}, "alice"),
        ({"REMOTE_USER": ""}, ""),
        ({"user": User("alice")}, "alice"),
        ({"user": User("alice", is_authenticated=False)}, ""),
        (Native(), "by method"),
        (object(), ""),
        (None, ""),
    ],
)
def test_user_of_a_framework(native: object, user: str) -> None:
    """The server's REMOTE_USER, Starlette's scope and Django's request name the user, if one is authenticated."""
    assert Request(ALICE, "GET", "/", native, header_of).user == user


@given(hostile_text)
def test_spellings_of_a_user_are_one(name: str) -> None:
    """Normalising is done once: a normal name stays what it is, and is bounded."""
    once = normal_user(name)
    assert normal_user(once) == once or len(name) >= 200
    assert normal_user(f" {name.upper()} ".strip()) == normal_user(name.upper())


def test_wide_letters_are_the_same_user() -> None:
    """Letters that look alike to a login form are counted as one."""
    assert normal_user(" \uff21lice\u00a0") == "alice"


@pytest.mark.parametrize("credential", ["", "x", "====", "YWxpY2U=", "\ud800", "é"])
def test_what_is_no_credential_names_nobody(credential: str) -> None:
    """Whatever stands behind `Basic`, reading it raises nothing."""
    assert basic_user(credential) == ""


def test_what_is_reserved() -> None:
    """A limit with a path or methods reserves all it meets; one without, what looks like a login; statuses nothing."""
    limits = [
        Limit("1/minute", path="/login", count="auth_failure"),
        Limit("2/minute", methods=["POST"], count=[401]),
        Limit("3/minute", count="auth_failure"),
        Limit("4/minute", count="4xx"),
    ]

    def reserved(method: str, path: str, *, reserves: bool = True) -> list[tuple[str, int]]:
        found = hits(matching(*limits, reserves=reserves), method=method, path=path)
        assert all(bool(hit.cost) == hit.is_reserved for hit in found)
        return sorted((hit.rate.text[0], hit.cost) for hit in found)

    assert reserved("POST", "/login") == [("1", 1), ("2", 1), ("3", 1), ("4", 0)]
    assert reserved("GET", "/login") == [("1", 1), ("3", 0), ("4", 0)]
    assert reserved("POST", "/") == [("2", 1), ("3", 0), ("4", 0)]
    assert reserved("POST", "/login", reserves=False) == [("1", 0), ("2", 0), ("3", 0), ("4", 0)]


def test_outcomes_come_last() -> None:
    """Counters look at the last hit to know whether somebody will give something back."""
    made = matching(
        Limit("1/minute", count="auth_failure", path="/login"),
        Limit("2/minute", key="api_key"),
        Limit("3/minute", count="auth_failure"),
        Limit("4/minute"),
    )
    found = [hit.limit.counts_requests for hit in hits(made, method="POST", path="/login")]
    assert found == [True, True, False, False]


def test_shared_limits_are_one_hit_and_must_be_alike() -> None:
    """A request that meets two limits of one name counts once; limits that differ cannot share."""
    made = matching(Limit("5/minute", path="/a*", shared="pages"), Limit("5/minute", path="/ab", shared="pages"))
    assert len(hits(made, path="/ab")) == 1
    for other in (Limit("6/minute", path="/b", shared="x"), Limit("5/minute", path="/b", shared="x", key="user")):
        with pytest.raises(ConfigError, match="limits shared as 'x' must have the same rate"):
            app_config({"limits": [Limit("5/minute", shared="x"), other]}, {})


def test_last_good_rate_holds() -> None:
    """A function that gives no rate any more leaves the one it gave before, and none at first."""
    rates = ["x", "5/minute", "", "7/minute"]
    made = matching(Limit(lambda _request: rates.pop(0), name="plan"))
    assert [[hit.rate.amount for hit in hits(made)] for _ in range(4)] == [[], [5], [5], [7]]


def test_free_requests_are_not_counted() -> None:
    """A cost of nothing, or less, is no hit."""
    costs = [0, -5, 2]
    made = matching(Limit("5/minute", cost=lambda _request: costs.pop(0)))
    assert [[hit.cost for hit in hits(made)] for _ in range(3)] == [[], [], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "ip"}, "key must be 'address', 'user', 'api_key', 'header:NAME' or a function, not 'ip'"),
        ({"key": "header:"}, "key must be"),
        ({"key": "header:a b"}, "key must be"),
        ({"cost": 0}, "cost must be from 1 to the amount"),
        ({"cost": 6}, "cost must be from 1 to the amount"),
        ({"cost": 3, "burst": 2}, r"cost must be from 1 to the amount \(or burst\), not 3"),
        ({"burst": -1}, "burst must be"),
        ({"count": "401"}, "count must be 'request'"),
        ({"count": "6xx"}, "count must be 'request'"),
        ({"count": []}, "count must be 'request'"),
        ({"count": [40]}, "count must be 'request'"),
        ({"count": "failure"}, "count must be 'request'"),
    ],
)
def test_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    """A wrong option is refused with what is accepted, from Python and from a table of settings."""
    with pytest.raises(ConfigError, match=message):
        Limit("5/minute", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        app_config({"limits": [{"rate": "5/minute", **options}]}, {})


def test_table_of_settings_makes_the_same_limit() -> None:
    """Whatever is no function may be written in TOML."""
    table = {"rate": "5/minute", "key": "user", "count": [401], "cost": 2, "burst": 9, "dry_run": True, "shared": "x"}
    assert app_config({"limits": [table]}, {}).limits == (Limit(**table),)  # type: ignore[arg-type]


def test_paths_and_keys_of_strangers_fill_no_memory() -> None:
    """However many paths, methods and keys come, no more is remembered than the caps allow."""
    made = matching(Limit("5/minute", path="/a*"), Limit("5/minute", path="/b*", key="api_key"))
    tracemalloc.start()
    try:
        for number in range(30_000):
            client = Client(ALICE.address, f"2001:db8:{number:x}::/64")
            hits(made, client, "GET", f"/a{number}{'x' * (number % 300)}")
            hits(made, client, f"M{number}" * 100, "/b", x_api_key="k" * 1000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 12_000_000


def test_clients_are_told_while_others_are_met() -> None:
    """Whoever asks which clients were met disturbs no thread that meets one, and is not disturbed."""
    made = matching(Limit("5/minute"))

    def meet() -> None:
        for number in range(20_000):
            hits(made, Client(ALICE.address, f"client {number}"))

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        meeting = Thread(target=meet)
        meeting.start()
        while meeting.is_alive():
            assert len(made.clients()) <= MEMO_MOST
        meeting.join()
    finally:
        sys.setswitchinterval(usual)


def test_who_asks_for_exempt_paths_alone_is_no_client_of_limits() -> None:
    """A health check on an exempt path, asked again and again, is told nothing and is not among the clients met."""
    made = Matching([Limit("5/minute")], header_of, None, "secret", [path_pattern("/healthz")])
    assert [hits(made, BOB, path=path) for path in ("/healthz", "/healthz", "//healthz/")] == [[], [], []]
    assert [hit.limit.name for hit in hits(made, ALICE, path="/healthz/deep")] == ["5/minute"]
    assert made.clients() == {ALICE.key}
