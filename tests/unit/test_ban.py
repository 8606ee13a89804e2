"""Bans: durations, what replaces what, and which ban holds an address."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Network, parse_address, parse_network
from appguard.ban import DURATION_MOST, PERMANENT, Ban, BanTable, Fact, is_host, parse_duration, supersedes
from appguard.errors import AddressError, ConfigError
from tests.strategies import near_networks, near_texts

NOW = 1_800_000_000.0


def ban_of(network: str | Network, end: float | None = NOW + 600, *, automatic: bool = True) -> Ban:
    """Make a ban in force at NOW."""
    if isinstance(network, str):
        network = parse_network(network)
    return Ban(network, "login", NOW - 1, end, automatic=automatic)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (600, 600),
        (0.5, 0.5),
        ("600", 600),
        ("10m", 600),
        (" 10 m ", 600),
        ("1d12h", 129_600),
        ("1d 12h", 129_600),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("2w", 1_209_600),
        ("1mo", 2_592_000),
        ("1y", 31_536_000),
        (-1, PERMANENT),
        (-1.0, PERMANENT),
        ("-1", PERMANENT),
        ("permanent", PERMANENT),
        ("100y", DURATION_MOST),
    ],
)
def test_duration(value: object, seconds: float) -> None:
    """Durations are numbers of seconds, texts with units, or for ever."""
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        0, -2, -0.5, True, False, None, [], {}, float("nan"), float("inf"), -float("inf"), 10**400, 1e12,
        "", "0", "0s", "m", "10x", "10 minutes", "-5", "1e3", "5m x", "x 5m", "1..5s", "101y", "9" * 400, "\u0665m",
    ],
)  # fmt: skip
def test_wrong_duration_is_named(value: object) -> None:
    """What is no duration, or longer than any host lives, is refused with the key and the value."""
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "jail x: findtime")
    assert str(caught.value).startswith(f"jail x: findtime = {value!r}: expected a duration")


@given(st.one_of(st.text(), st.text("0123456789.smhdwyo -"), st.floats(), st.integers()))
def test_any_duration_is_sane_or_refused(value: object) -> None:
    """What is accepted is for ever or a positive number of seconds that times can be counted with."""
    try:
        seconds = parse_duration(value)
    except ConfigError:
        return
    assert seconds == PERMANENT or 0 < seconds <= DURATION_MOST
    assert math.isfinite(NOW + seconds)


def test_ban_of_texts() -> None:
    """A ban made from texts starts when a ban set takes it, and lasts from then."""
    made = Ban.of("203.0.113.77/24", bantime="1h", reason="r" * 1_000)
    assert (made.key, made.jail, made.automatic, len(made.reason)) == ("203.0.113.0/24", "manual", False, 256)
    started = made.starting(NOW)
    assert (started.start, started.end) == (NOW, NOW + 3600)
    assert started.starting(NOW + 5) == started
    forever = Ban.of("2001:DB8::1", bantime=-1).starting(NOW)
    assert (forever.key, forever.start, forever.end) == ("2001:db8::1", NOW, None)
    assert Ban.of("::ffff:203.0.113.5").key == "203.0.113.5"


@pytest.mark.parametrize("jail", ["", "-x", ".x", "a b", "a/b", "a\n", "ä", "x" * 65, "\t", "+"])
def test_ban_of_a_wrong_jail_is_refused(jail: str) -> None:
    """A jail's name stands in files, commands and logs, and is letters, digits and a few signs."""
    with pytest.raises(ConfigError, match="jail = "):
        Ban.of("203.0.113.5", jail=jail)


def test_ban_of_a_wrong_address_or_time_is_refused() -> None:
    """The two other texts of a ban are checked too."""
    with pytest.raises(AddressError):
        Ban.of("203.0.113")
    with pytest.raises(ConfigError, match="bantime = 'soon'"):
        Ban.of("203.0.113.5", bantime="soon")


def test_end_of_a_ban() -> None:
    """A ban is in force before its end and not at it; a permanent one always."""
    assert ban_of("203.0.113.5", NOW).in_force(NOW - 0.001)
    assert not ban_of("203.0.113.5", NOW).in_force(NOW)
    assert ban_of("203.0.113.5", None).in_force(1e12)


def test_ref_names_network_and_version() -> None:
    """The reference to quote is short, the same for the same ban, and another for another."""
    refs = {
        Ban(parse_network(text), "login", 0, None, version=version).ref
        for text in ("203.0.113.5", "203.0.113.6")
        for version in (1, 2)
    }
    assert len(refs) == 4
    assert all(len(ref) == 8 and ref.isalnum() and ref.isupper() for ref in refs)
    assert ban_of("203.0.113.5").ref == ban_of("203.0.113.5", None).ref


@pytest.mark.parametrize(
    ("new_end", "is_automatic", "old_end", "wins"),
    [
        (NOW + 60, True, NOW + 30, True),
        (NOW + 60, True, NOW + 60, False),
        (NOW + 60, True, NOW + 90, False),
        (NOW + 60, True, None, False),
        (None, True, NOW + 90, True),
        (None, True, None, False),
        (NOW + 60, True, NOW - 1, True),
        (NOW + 60, False, NOW + 90, True),
        (NOW + 60, False, None, True),
    ],
)
def test_supersedes(new_end: float | None, is_automatic: bool, old_end: float | None, wins: bool) -> None:
    """A person's ban always replaces what is in force, a jail's only extends it."""
    for old_is_automatic in (True, False):
        old = ban_of("203.0.113.5", old_end, automatic=old_is_automatic)
        assert supersedes(ban_of("203.0.113.5", new_end, automatic=is_automatic), old, NOW) is wins
    assert supersedes(ban_of("203.0.113.5", new_end), None, NOW)


def test_fact_is_keyed_by_its_network() -> None:
    """A fact about a network has the network's canonical text."""
    assert Fact(parse_network("2001:DB8::/48"), 1, None).key == "2001:db8::/48"


@pytest.mark.parametrize(
    ("network", "answer"),
    [
        ("203.0.113.5", True),
        ("2001:db8::/64", True),
        ("2001:db8::1", True),
        ("203.0.113.0/24", False),
        ("2001:db8::/63", False),
    ],
)
def test_is_host(network: str, answer: bool) -> None:
    """One attacker is one address or one /64."""
    assert is_host(parse_network(network)) is answer


def test_ended_ban_hides_no_other() -> None:
    """An address whose own ban has ended is still shut out by the ban of its /64, /24 or of a wider network."""
    table = BanTable()
    for ended in ("203.0.113.5", "203.0.113.0/25", "2001:db8::1", "2001:db8:0:1::/64"):
        table.put(ban_of(ended, NOW - 1))
    for lasting in ("203.0.113.0/24", "2001:db8::/64", "2001:db8::/32"):
        table.put(ban_of(lasting))
    found = [table.find(parse_address(text), NOW) for text in ("203.0.113.5", "2001:db8::1", "2001:db8:0:1::1")]
    assert [ban.key for ban in found if ban] == ["203.0.113.0/24", "2001:db8::/64", "2001:db8::/32"]


steps = st.lists(
    st.tuples(near_networks, st.one_of(st.just("drop"), st.none(), st.sampled_from([NOW - 5, NOW, NOW + 5])))
)


@given(steps, st.lists(near_texts, min_size=1))
def test_table_is_a_plain_list_of_bans(steps: list[tuple[Network, str | float | None]], texts: list[str]) -> None:
    """Whatever is put and dropped, an address is shut out exactly if some ban in force holds it."""
    table = BanTable()
    model: dict[Network, Ban] = {}
    for network, step in steps:
        if isinstance(step, str):
            table.drop(network)
            model.pop(network, None)
        else:
            table.put(ban_of(network, step))
            model[network] = ban_of(network, step)
    assert len(table) == len(model)
    assert {ban.network: ban for ban in table} == model
    assert all(table.exact(network) == model.get(network) for network, _ in steps)
    assert sorted(table.in_force(NOW), key=repr) == sorted((ban for ban in table if ban.in_force(NOW)), key=repr)
    assert table.kinds == Counter(ban.kind for ban in table)
    for text in texts:
        address = parse_address(text)
        holding = [
            ban for ban in model.values() if ban.in_force(NOW) and parse_network(text).network_address in ban.network
        ]
        found = table.find(address, NOW)
        assert found in holding if holding else found is None
