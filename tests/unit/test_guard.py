"""The guard: the order of the policy, the deny cache against plain counters, and remembered credentials."""

import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Address, NetworkSet, parse_address, parse_network
from appguard.ban import Ban
from appguard.guard import DENY_MOST, Guard, Refusal, SeenCredentials
from appguard.limit import Hit, Limit, Verdict
from appguard.proxies import Client
from appguard.stores.memory_counters import MemoryCounters

WALL = 1_800_000_000.0
UNIT = 1 / 1024
CLIENT = Client(parse_address("203.0.113.5"), "203.0.113.5")
OTHER = Client(parse_address("203.0.113.6"), "203.0.113.6")
UNKNOWN = Client(None, unknown="peer")


def nobody(_address: Address) -> Ban | None:
    """Ban nobody."""
    return None


def banned(end: float | None) -> Callable[[Address], Ban | None]:
    """Ban everybody until `end`."""

    def ban_of(address: Address) -> Ban | None:
        return Ban(parse_network(address.text), "login", WALL - 1, end)

    return ban_of


def keys_of(found: Refusal | Sequence[Hit]) -> list[str]:
    """Give the keys that are to be counted."""
    assert not isinstance(found, Refusal)
    return [hit.key for hit in found]


def limits_of(found: Refusal | Sequence[Hit]) -> list[str]:
    """Give the names of the limits that are to be counted."""
    assert not isinstance(found, Refusal)
    return [hit.limit.name for hit in found]


def judge(guard: Guard, client: Client = CLIENT, method: str = "GET", path: str = "/") -> Refusal | Sequence[Hit]:
    """Ask about one request of somebody who is not banned."""
    return guard.judge(client, method, path, nobody, lambda: WALL, 0.0)


def test_ban_is_a_403_with_the_rest_of_its_time() -> None:
    """A banned client is refused for as long as its ban lasts, or for ever."""
    found = Guard().judge(CLIENT, "GET", "/", banned(WALL + 60), lambda: WALL, 0.0)
    assert isinstance(found, Refusal)
    assert (found.status, found.wait, found.limit) == (403, 60.0, None)
    forever = Guard().judge(CLIENT, "GET", "/", banned(None), lambda: WALL, 0.0)
    assert isinstance(forever, Refusal)
    assert forever.wait is None
    assert forever.ban is not None


def test_safelist_comes_before_ban_and_limit() -> None:
    """Who is on the safelist is neither banned nor limited, not even after a refusal was remembered."""
    limit = Limit("1/minute")
    safe = Guard([limit], NetworkSet([parse_network("203.0.113.0/24")]))
    safe.settle(Verdict(Hit("203.0.113.5 1/minute", limit), 60), 0.0)
    assert safe.judge(CLIENT, "GET", "/", banned(None), lambda: WALL, 0.0) == ()
    assert judge(safe) == ()


def test_ban_comes_before_limit_and_before_exempt_paths() -> None:
    """A ban holds on every path, for preflights too, and costs no counter."""
    guard = Guard([Limit("1/minute")], exempt_paths=["/healthz"])
    for path, is_preflight in (("/", False), ("/healthz", False), ("/", True)):
        found = guard.judge(CLIENT, "GET", path, banned(None), lambda: WALL, 0.0, is_preflight=is_preflight)
        assert isinstance(found, Refusal)
        assert found.status == 403


def test_unknown_client_has_no_key() -> None:
    """Whom we do not know is not counted with all the others we do not know."""
    assert Guard([Limit("1/minute")]).judge(UNKNOWN, "GET", "/", banned(None), lambda: WALL, 0.0) == ()


def test_exempt_paths_and_preflights_are_not_counted() -> None:
    """What is exempt is matched with its slashes tidied, and nothing else is exempt."""
    guard = Guard([Limit("1/minute")], exempt_paths=["/healthz", "/static/*"])
    for path in ("/healthz", "/healthz/", "//healthz", "/static", "/static/a/b.js"):
        assert judge(guard, path=path) == ()
    for path in ("/", "/healthz/x", "/healthzz", "/staticx"):
        assert limits_of(judge(guard, path=path)) == ["1/minute"]
    assert guard.judge(CLIENT, "OPTIONS", "/", nobody, lambda: WALL, 0.0, is_preflight=True) == ()


def test_preflights_are_spared_by_limits_of_requests_alone() -> None:
    """What becomes of a preflight counts, for limits in dry run too."""
    limits = [Limit("9/minute", dry_run=is_dry) for is_dry in (False, True)]
    limits += [Limit("2/hour", count=[401], dry_run=is_dry) for is_dry in (False, True)]
    guard = Guard(limits)
    found = guard.judge(CLIENT, "OPTIONS", "/", nobody, lambda: WALL, 0.0, is_preflight=True)
    assert limits_of(found) == ["2/hour of 401"]
    assert limits_of(guard.dry_hits(CLIENT, "OPTIONS", "/", None, is_preflight=True)) == ["2/hour of 401"]


def test_every_limit_that_fits_is_counted_in_one_go() -> None:
    """A request counts under the limits of its path and method, for its own key."""
    guard = Guard(
        [
            Limit("100/second"),
            Limit("5/minute", path="/login", methods=["POST"]),
            Limit("9/minute", path="/users/{id}"),
            Limit("7/minute", methods=["DELETE"]),
        ]
    )
    assert limits_of(judge(guard)) == ["100/second"]
    assert limits_of(judge(guard, path="/login")) == ["100/second"]
    assert limits_of(judge(guard, method="POST", path="//login/")) == ["100/second", "POST /login 5/minute"]
    assert limits_of(judge(guard, path="/users/5")) == ["100/second", "/users/{id} 9/minute"]
    assert limits_of(judge(guard, method="DELETE", path="/users/5")) == [
        "100/second",
        "/users/{id} 9/minute",
        "DELETE 7/minute",
    ]
    assert keys_of(judge(guard, CLIENT)) == ["203.0.113.5 100/second"]
    assert keys_of(judge(guard, OTHER)) == ["203.0.113.6 100/second"]


def test_settled_refusal_is_answered_from_memory_until_its_time() -> None:
    """After the counters refused, the same key is refused without asking them, and then asked about again."""
    limit = Limit("1/minute")
    guard = Guard([limit])
    refusal = guard.settle(Verdict(Hit("203.0.113.5 1/minute", limit), 30.0), 10.0)
    assert refusal == Refusal(429, 30.0, limit=limit, rate=limit.fixed)
    found = guard.judge(CLIENT, "GET", "/", nobody, lambda: WALL, 39.0)
    assert found == Refusal(429, 1.0, limit=limit, rate=limit.fixed)
    assert limits_of(guard.judge(OTHER, "GET", "/", nobody, lambda: WALL, 39.0)) == ["1/minute"]
    assert limits_of(guard.judge(CLIENT, "GET", "/", nobody, lambda: WALL, 40.0)) == ["1/minute"]


def test_long_refusal_is_asked_about_again_every_minute() -> None:
    """A refusal for a day is not answered from memory for a day, so that a reset is seen."""
    limit = Limit("1/day")
    guard = Guard([limit])
    refusal = guard.settle(Verdict(Hit("203.0.113.5 1/day", limit), 86_400.0), 0.0)
    assert refusal is not None
    assert refusal.wait == 86_400.0
    found = guard.judge(CLIENT, "GET", "/", nobody, lambda: WALL, DENY_MOST - 1)
    assert found == Refusal(429, 86_401.0 - DENY_MOST, limit=limit, rate=limit.fixed)
    assert limits_of(guard.judge(CLIENT, "GET", "/", nobody, lambda: WALL, DENY_MOST)) == ["1/day"]


requests = st.lists(
    st.tuples(st.sampled_from([CLIENT, OTHER]), st.sampled_from(["/", "/login"]), st.integers(0, 700)), max_size=80
)


@given(requests=requests, amounts=st.tuples(st.integers(1, 4), st.integers(1, 3)))
def test_deny_cache_decides_as_the_counters_would(
    requests: list[tuple[Client, str, int]], amounts: tuple[int, int]
) -> None:
    """With the deny cache in front, exactly the same requests are admitted as by the counters alone."""
    limits = [Limit(f"{amounts[0]}/second"), Limit(f"{amounts[1]}/2 seconds", path="/login")]
    now = [0.0]
    cached, plain = Guard(limits), Guard(limits)
    cached_counters, plain_counters = (MemoryCounters(lambda: now[0]) for _ in range(2))
    for client, path, later in requests:
        now[0] += later * UNIT
        hits = plain.judge(client, "GET", path, nobody, lambda: WALL, now[0])
        assert not isinstance(hits, Refusal)
        is_admitted = plain_counters.check(hits).refused is None
        found = cached.judge(client, "GET", path, nobody, lambda: WALL, now[0])
        if not isinstance(found, Refusal):
            verdict = cached_counters.check(found)
            assert (verdict.refused is None) == is_admitted
            if verdict.refused is not None:
                cached.settle(verdict, now[0])
        else:
            assert not is_admitted
            assert found.wait is not None
            assert found.wait > 0


def test_attackers_fill_no_memory() -> None:
    """A flood of clients, each refused, leaves no more behind than the caps allow."""
    limit = Limit("1/minute")
    guard = Guard([limit])
    tracemalloc.start()
    try:
        for number in range(40_000):
            key = f"2001:db8:{number:x}::/64"
            guard.judge(Client(CLIENT.address, key), "GET", "/" + "x" * 100, nobody, lambda: WALL, 0.0)
            guard.settle(Verdict(Hit(f"{key} 1/minute", limit), 60.0), 0.0)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 8_000_000


def test_same_wrong_credential_is_a_repetition_for_a_while() -> None:
    """One old password tried again is a repetition within the time; of another client or another password it is not."""
    seen = SeenCredentials(b"salt", 600.0)
    assert not seen.is_repeated("203.0.113.5", b"alice:old", 0.0)
    assert seen.is_repeated("203.0.113.5", b"alice:old", 599.0)
    assert not seen.is_repeated("203.0.113.5", b"alice:older", 1.0)
    assert not seen.is_repeated("203.0.113.6", b"alice:old", 1.0)
    assert not seen.is_repeated("203.0.113.5", b"alice:old", 600.0)
    assert seen.is_repeated("203.0.113.5", b"alice:old", 601.0)


def test_credential_and_client_are_not_mixed_up() -> None:
    """Where the client's key ends and the credential begins cannot be shifted."""
    seen = SeenCredentials(b"salt", 600.0)
    seen.is_repeated("203.0.113.5", b"0:x", 0.0)
    assert not seen.is_repeated("203.0.113.50", b":x", 0.0)


@pytest.mark.parametrize("most", [1, 2, 100])
def test_seen_credentials_are_bounded(most: int) -> None:
    """However many are tried, no more are kept; the newest is among them, and ended ones go first."""
    seen = SeenCredentials(b"salt", 10.0, most)
    tracemalloc.start()
    try:
        for number in range(20_000):
            seen.is_repeated("203.0.113.5", f"{number}{'x' * 1000}".encode(), number / 1000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert seen.is_repeated("203.0.113.5", f"19999{'x' * 1000}".encode(), 20.0)


def test_threads_note_credentials_at_once() -> None:
    """Whoever leaves out what has ended is not disturbed by a thread that notes another meanwhile."""
    kept: dict[bytes, float] = {}

    class Seconds(float):
        """A time that lets another thread note something whenever it is looked at."""

        def __radd__(self, now: float) -> "Seconds":
            return Seconds(now + float(self))

        def __gt__(self, now: float) -> bool:
            kept.setdefault(b"of another thread", 600.0)
            return float(self) > now

    seen = SeenCredentials(b"salt", Seconds(600.0), most=2)
    kept = vars(seen)["_until"]
    assert not any(seen.is_repeated("203.0.113.5", credential, 0.0) for credential in (b"one", b"two", b"three"))
    assert b"of another thread" in kept


def test_credentials_are_kept_only_as_salted_hashes() -> None:
    """Nothing of a credential can be read from what is kept, and another process's hashes differ."""
    kept: list[str] = []
    for salt in (b"one", b"two"):
        seen = SeenCredentials(salt, 600.0)
        seen.is_repeated("203.0.113.5", b"alice:secret", 0.0)
        kept.append(repr(vars(seen)).replace(repr(salt), ""))
    assert kept[0] != kept[1]
    assert not any("secret" in text or "alice" in text for text in kept)
