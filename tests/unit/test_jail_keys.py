"""What a jail counts, and by what: keys, different values, paths, statuses; each against a plain model."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, parse_address, parse_network
from appguard.counted import ADDRESSES_MOST, RUNS_MOST
from appguard.errors import ConfigError
from appguard.event import ACCESS_FAIL, LOGIN_FAIL, LOGIN_SUCCESS, PROBE, REQUEST, Event
from appguard.jail import Jail
from appguard.jail_window import JailWindow

NOW = 1_800_000_000.0
ON_LINK = parse_network("2001:db8:aa::/64")


def event_of(address: str = "203.0.113.5", later: float = 0.0, kind: str = LOGIN_FAIL, **details: Any) -> Event:
    """Make an event."""
    return Event(kind, NOW + later, parse_address(address), **details)


def window_of(**settings: Any) -> JailWindow:
    """Make a jail's window on a host with one IPv6 link."""
    return JailWindow(Jail("login", **settings), Grouping([ON_LINK]))


@pytest.mark.parametrize(
    ("key", "address", "expected"),
    [
        ("address", "203.0.113.5", "203.0.113.5"),
        ("address", "2001:db8::5", "2001:db8::/64"),
        ("address", "2001:db8:aa::5", "2001:db8:aa::5"),
        ("/64", "203.0.113.5", "203.0.113.5"),
        ("/64", "2001:db8:aa::5", "2001:db8:aa::/64"),
        ("/56", "2001:db8:0:1ff::5", "2001:db8:0:100::/56"),
        ("/24", "203.0.113.5", "203.0.113.0/24"),
        ("/24", "2001:db8:aa::5", "2001:db8:aa::5"),
        ("/20,/32", "203.0.113.5", "203.0.112.0/20"),
        ("/20,/32", "2001:db8:aa::5", "2001:db8::/32"),
        ("network", "203.0.113.5", "203.0.113.0/24"),
        ("network", "2001:db8:1:2::5", "2001:db8:1::/48"),
        ("user+address", "2001:db8::5", "2001:db8::/64"),
        ("user", "2001:db8::5", "2001:db8::/64"),
    ],
)
def test_what_is_counted_together_is_banned_together(key: str, address: str, expected: str) -> None:
    """The ban of each kind of key is of exactly the network that was counted."""
    window = window_of(maxretry=2, key=key)
    assert window.record(event_of(address, user="bob")) == ()
    (ban,) = window.record(event_of(address, 1, user="bob"))
    assert (ban.key, ban.failures) == (expected, 2)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("addresses", "expected 'address', 'network'"),
        ("/15", "expected /16 to /32 for IPv4"),
        ("/129", "expected /16 to /32 for IPv4, /32 to /128"),
        ("/24,/31", "/32 to /128 for IPv6"),
        ("/x", "expected prefix lengths"),
        ("", "expected 'address'"),
    ],
)
def test_wrong_key_is_named(key: str, complaint: str) -> None:
    """A key no jail can count by is refused with what is accepted."""
    with pytest.raises(ConfigError, match=f"jail login: key = {key!r}: .*{complaint}"):
        Jail("login", key=key)


def test_by_user_all_addresses_of_the_window_are_banned() -> None:
    """Guesses at one user from many addresses ban them all, those whose guess has left the window not."""
    window = window_of(maxretry=4, findtime=100, key="user")
    for later, address in ((0, "203.0.113.1"), (50, "203.0.113.2"), (60, "2001:db8::1"), (100, "2001:db8::2")):
        assert window.record(event_of(address, later, user=" Bob")) == ()
    assert window.record(event_of("203.0.113.9", 100, user="carol")) == ()
    bans = window.record(event_of("203.0.113.3", 100, user="bob"))
    assert [ban.key for ban in bans] == ["203.0.113.2", "2001:db8::/64", "203.0.113.3"]
    assert window.currently_failed == 1
    assert window.record(event_of("203.0.113.3", 100)) == ()  # without a user there is nothing to count by


def test_addresses_of_one_user_are_bounded() -> None:
    """Of a thousand addresses the last hundred are banned."""
    window = window_of(maxretry=1000, key="user")
    bans = [window.record(event_of(f"10.0.{n >> 8}.{n & 255}", n / 10, user="bob")) for n in range(1000)]
    assert [len(each) for each in bans[:-1]] == [0] * 999
    assert [ban.key for ban in bans[-1]] == [f"10.0.{n >> 8}.{n & 255}" for n in range(1000 - ADDRESSES_MOST, 1000)]


def test_pairs_are_counted_apart() -> None:
    """One address that fails as two users, and one user at two addresses, are each three different pairs."""
    window = window_of(maxretry=2, key="user+address")
    for address, user in (("203.0.113.1", "a"), ("203.0.113.1", "b c"), ("203.0.113.2", "a")):
        assert window.record(event_of(address, user=user)) == ()
    assert [ban.key for ban in window.record(event_of("203.0.113.1", user="B c"))] == ["203.0.113.1"]
    assert window.keys_of("203.0.113.1") == ("203.0.113.1 a",)
    assert window.forget_network("203.0.113.1") == {"203.0.113.1 a"}
    assert window.keys_of("203.0.113.1") == ()
    assert window.keys_of("203.0.113.2") == ("203.0.113.2 a",)
    assert window.currently_failed == 1


def test_pairs_are_found_by_their_network_whatever_happened() -> None:
    """Counted, banned, forgotten, swept, restored or gone for want of room: each network has its pairs."""
    chance = random.Random(7)
    windows = [window_of(maxretry=3, findtime=100, key="user+address")]
    windows.append(JailWindow(windows[0].jail, Grouping([ON_LINK]), keys_most=30))
    addresses = [f"203.0.113.{number}" for number in range(5)]
    for later in range(600):
        address = chance.choice(addresses)
        for window in windows:
            window.record(event_of(address, later, user=f"user {chance.randrange(12)}"))
            if later % 50 == 49:
                window.sweep(NOW + later - 20)
            if later % 70 == 69:
                kept = sorted(window, key=lambda item: item[1].time)
                window.forget_network(addresses[0])
                window.restore(kept)
            counted = {key for key, _ in window}
            for each in addresses:
                assert set(window.keys_of(each)) == {key for key in counted if key.split(" ")[0] == each}


@pytest.mark.parametrize(("key", "is_cleared"), [("user", True), ("user+address", True), ("address", False)])
def test_success_ends_what_is_counted_for_the_user(key: str, is_cleared: bool) -> None:
    """Who logs in has mistyped before; but an address does not wash itself clean with an account of its own."""
    window = window_of(maxretry=2, key=key)
    window.record(event_of(user="bob"))
    assert not window.clears(event_of(kind=LOGIN_SUCCESS, user="carol"))
    assert window.clears(event_of(kind=LOGIN_SUCCESS, user="Bob")) is is_cleared


fields = st.sampled_from(["a", "b", "c", "d", "e", ""])
steps = st.lists(
    st.tuples(st.sampled_from(["203.0.113.1", "203.0.113.2"]), st.integers(-20, 25), fields), min_size=1, max_size=60
)
DETAILS: dict[str, Callable[[str], dict[str, str]]] = {
    "user": lambda value: {"user": value},
    "path": lambda value: {"path": value and f"/{value}"},
    "user_agent": lambda value: {"user_agent": value},
}


@given(steps=steps, maxretry=st.integers(1, 5), distinct=st.sampled_from(sorted(DETAILS)))
def test_distinct_is_a_plain_set_of_values(steps: list[tuple[str, int, str]], maxretry: int, distinct: str) -> None:
    """In whatever order times come, a key is banned exactly if enough values lie in the findtime before its newest."""
    window = window_of(maxretry=maxretry, findtime=30, distinct=distinct)
    seen: dict[str, list[tuple[float, str]]] = {}
    now = 0.0
    for address, later, value in steps:
        now += later
        bans = window.record(event_of(address, now, **DETAILS[distinct](value)))
        if not value:
            assert bans == ()
            continue
        mine = seen.setdefault(address, [])
        mine.append((now, value))
        newest = max(time for time, _ in mine)
        mine[:] = [(time, value) for time, value in mine if time > newest - 30]
        different = len({value for _, value in mine})
        assert [ban.failures for ban in bans] == ([different] if different >= maxretry else [])
        if bans:
            del seen[address]
    assert window.currently_failed == len(seen)


@pytest.mark.parametrize(
    "settings",
    [
        {"key": "user"},
        {"key": "user", "distinct": "address"},
        {"key": "user+address"},
        {"distinct": "user"},
        {"key": "network", "distinct": "path"},
        {"maxretry": 300, "findtime": 2560},
    ],
    ids=str,
)
@given(steps=steps, cut=st.integers(0, 60))
def test_restart_changes_no_ban(settings: dict[str, Any], steps: list[tuple[str, int, str]], cut: int) -> None:
    """Whatever a jail counts, saved and restored in the middle it bans as one without a restart."""
    settings = {"maxretry": 3, "findtime": 40} | settings
    straight, restarted = window_of(**settings), window_of(**settings)
    now = 0.0
    for number, (address, later, value) in enumerate(steps):
        if number == cut:
            saved = sorted(restarted, key=lambda item: item[1].time)
            restarted = window_of(**settings)
            assert restarted.restore(saved) == set()
        now += abs(later)
        event = event_of(address, now, user=value, path=value, count=50 if "findtime" in settings else 1)
        expected = straight.record(event, f"line {number}")
        assert restarted.record(event, f"line {number}") == expected
    assert set(dict(restarted)) == set(dict(straight))
    assert restarted.cost == straight.cost


def test_what_no_longer_fits_is_given_back() -> None:
    """Keys of another kind, and what there is no room for, are named, so that they are dropped from the state."""
    users = window_of(key="user")
    for number in range(3):
        users.record(event_of(later=number, user=f"bob {number}"))
    assert window_of().restore(users) == {"bob 0", "bob 1", "bob 2"}
    small = JailWindow(Jail("login", key="user"), Grouping(), keys_most=1)
    assert small.restore(users) == {"bob 0", "bob 1"}
    assert window_of(distinct="path").restore([(f"203.0.113.{n}", item) for n, (_, item) in enumerate(users)])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"distinct": "method"}, "distinct = 'method': expected one of 'path', 'user'"),
        ({"distinct": "user", "key": "user"}, "distinct = 'user': there is one user per key"),
        ({"distinct": "address"}, "distinct = 'address': there is one address per key"),
        ({"distinct": "path", "maxretry": RUNS_MOST + 1}, "maxretry = 257: with distinct at most 256"),
        ({"paths": ["env"]}, "paths: path 'env': expected '/...'"),
        ({"exempt_paths": ["/a*b"]}, "exempt_paths: path '/a"),
        ({"paths": [5]}, r"paths = \[5\]: expected a list of texts"),
        ({"statuses": [99]}, r"statuses = \[99\]: expected statuses"),
        ({"safelist": ["localhost"]}, "safelist: 'localhost' is not an IP address"),
        ({"dry_run": 1}, "dry_run = 1: expected true or false"),
        ({"bans_per_minute": 0}, "bans_per_minute = 0: expected a whole number"),
        ({"escalate": 1}, "escalate = 1: expected a whole number from 2"),
        ({"escalate": 5, "key": "network"}, "escalate: only a jail with key = 'address'"),
        ({"escalate": 5, "escalate_to": "/8"}, "escalate_to = '/8': expected /16"),
        ({"bantime_factor": 2}, "bantime_factor means nothing without bantime_increment"),
        ({"bantime_increment": True, "bantime": -1}, "bantime_increment: a bantime of -1 cannot grow"),
        ({"bantime_increment": True, "bantime_formula": "ban.Time * 2"}, "bantime_formula: no formula is evaluated"),
        (
            {"bantime_increment": True, "bantime_multipliers": "1 two"},
            "bantime_multipliers = '1 two': expected numbers",
        ),
        ({"bantime_increment": True, "bantime_factor": 0}, "bantime_factor = 0: expected a number over 0"),
        ({"bantime": {"increment": True}}, "bantime: TOML takes .* write bantime_increment"),
        ({"ignorecommand": "/usr/bin/check <ip>"}, "ignorecommand = .* a command is not run"),
        ({"ignorecommand": "https://example.org/check"}, "ignorecommand = .*{address} in it"),
        ({"ignorecommand": "https://{address}/check"}, "ignorecommand = "),
    ],
)
def test_wrong_setting_is_named(settings: dict[str, Any], complaint: str) -> None:
    """Every wrong value is refused with the jail, the key and what is accepted."""
    with pytest.raises(ConfigError, match=f"^jail login: {complaint}"):
        Jail("login", **settings)


@pytest.mark.parametrize(
    ("settings", "event", "is_counted"),
    [
        ({"events": PROBE, "statuses": [404]}, event_of(kind=PROBE, status=404), True),
        ({"events": PROBE, "statuses": [404]}, event_of(kind=PROBE, status=405), False),
        ({"events": PROBE, "paths": ["*/.env"]}, event_of(kind=PROBE, path="/a//b/.env/"), True),
        ({"events": PROBE, "paths": ["*/.env"]}, event_of(kind=PROBE, path="/.env/x"), False),
        ({"events": PROBE, "paths": ["/a/{x}/c", "/d*"]}, event_of(kind=PROBE, path="/a/b/c"), True),
        ({"events": PROBE, "paths": ["/a/{x}/c", "/d*"]}, event_of(kind=PROBE, path="/dd/e"), True),
        ({"events": PROBE, "paths": ["/a/{x}/c", "/d*"]}, event_of(kind=PROBE, path="/a/b/b/c"), False),
        ({"events": PROBE, "paths": ["*"], "exempt_paths": ["*.css"]}, event_of(kind=PROBE, path="/x.css"), False),
        ({"events": REQUEST}, event_of(kind=ACCESS_FAIL, status=403), True),
        ({"events": REQUEST}, event_of(kind=REQUEST, status=200), True),
        ({"events": REQUEST}, event_of(kind=ACCESS_FAIL), False),
        ({"safelist": ["203.0.113.0/24"]}, event_of(), False),
        ({"safelist": ["203.0.113.0/24"]}, event_of("203.0.114.5"), True),
    ],
)
def test_only_what_is_asked_for_counts(settings: dict[str, Any], event: Event, is_counted: bool) -> None:
    """Kinds, statuses, paths and the jail's own safelist each decide; a request is any event with a status."""
    window = window_of(**settings)
    assert window.counts(event) is is_counted
    window.record(event)
    assert window.total_failed == is_counted


ENDINGS = ("*.css", "*/.env", "*/a/b", "*.b")
paths = st.lists(st.sampled_from(["/", "/", "a", "b", ".css", ".env", ".b", "."]), max_size=8).map("".join)


@given(watched=st.sets(st.sampled_from(ENDINGS)), spared=st.sets(st.sampled_from(ENDINGS)), path=paths)
def test_slashes_hide_no_ending_of_a_path(watched: set[str], spared: set[str], path: str) -> None:
    """A jail looks at a path if its normal form ends as one of `paths`, and as none of `exempt_paths`."""
    window = window_of(events=PROBE, paths=sorted(watched), exempt_paths=sorted(spared))
    plain = re.sub("/+", "/", path)
    plain = plain[:-1] if len(plain) > 1 and plain.endswith("/") else plain
    ends = {pattern for pattern in ENDINGS if plain.endswith(pattern[1:])}
    is_watched = not watched or not ends.isdisjoint(watched)
    assert window.counts(event_of(kind=PROBE, path=path)) is (is_watched and ends.isdisjoint(spared))
