"""Which ports a ban is about: what settings may say, the one text it becomes, and what is read back."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, parse_address, parse_network
from appguard.ban import Ban, BanTable, Fact
from appguard.blocking import block_of
from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL, Event
from appguard.firewalls.base import Block
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.ports import LAST, is_web, parse_key, ports_text, split_ports, spoken
from appguard.reach import enforcers
from appguard.stores.redis_records import fields_of, parse_record, record_of

NUMBERS = st.integers(0, LAST)


@pytest.mark.parametrize(
    ("ports", "protocols", "text", "said"),
    [
        ([], [], "", "all"),
        ([22], ["tcp"], "tcp/22", "tcp 22"),
        (["ssh", "22"], ["tcp", "tcp"], "tcp/22", "tcp 22"),
        ([443, 80, "8000-8010", 8011], [], "tcp+udp/80,443,8000-8011", "tcp+udp 80, 443, 8000-8011"),
        (["HTTPS"], ["udp"], "udp/443", "udp 443"),
        ([], ["udp", "tcp"], "tcp+udp", "all tcp+udp"),
        (["0-65535"], ["tcp"], "tcp", "all tcp"),
    ],
)
def test_settings_become_one_text(ports: list[object], protocols: list[object], text: str, said: str) -> None:
    """Numbers, ranges and names in any order and spelling become the same text, which people can read."""
    assert ports_text(ports, protocols) == text
    assert spoken(text) == said
    jail = Jail("x", ports=ports, protocol=protocols)  # type: ignore[arg-type]  # as TOML gives them
    window = JailWindow(replace(jail, maxretry=1), Grouping())
    (ban,) = window.record(Event(LOGIN_FAIL, 1000.0, parse_address("203.0.113.5")))
    assert (ban.ports, ban.where) == (text, "203.0.113.5")


@pytest.mark.parametrize(
    ("ports", "protocols", "words"),
    [
        ([65536], [], "expected ports from 0 to 65535"),
        ([-1], [], "expected ports"),
        (["9-8"], [], "the lower one first"),
        ([True], [], "expected a port"),
        (["gopher"], [], "write the number"),
        (["22; drop"], [], "expected a port"),
        ([22], ["icmp"], "expected 'tcp', 'udp' or both"),
        (list(range(0, 200, 2)), [], "at most 64"),
    ],
)
def test_what_is_no_port_is_said(ports: list[object], protocols: list[object], words: str) -> None:
    """A wrong setting is an error that names the jail, the setting and what is expected."""
    with pytest.raises(ConfigError, match=words) as raised:
        Jail("x", ports=ports, protocol=protocols)  # type: ignore[arg-type]
    assert "jail x: " in str(raised.value)


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS).map(sorted), min_size=1, max_size=20), st.sampled_from([["tcp"], ["udp"], []])
)
def test_a_text_means_what_was_set(ranges: list[list[int]], protocols: list[str]) -> None:
    """Reading the text back gives the same ports, in order and apart, and writing those the same text."""
    text = ports_text([f"{first}-{last}" for first, last in ranges], protocols)
    names, found = split_ports(text)
    assert {port for first, last in found for port in range(first, last + 1)} == {
        port for first, last in ranges for port in range(first, last + 1)
    }
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))
    assert ports_text([f"{first}-{last}" for first, last in found], names) == text
    assert parse_key(f"203.0.113.5 {text}") == (parse_network("203.0.113.5"), text)


@pytest.mark.parametrize(
    "text",
    ["22", "tcp/", "tcp/22,22", "tcp/23,22", "tcp/22-22", "udp+tcp/22", "tcp/022", "tcp/22 ", "tcp/70000", "icmp"],
)
def test_another_spelling_is_no_text(text: str) -> None:
    """Two texts are equal if and only if they mean the same: whatever else is told is refused."""
    with pytest.raises(ValueError, match="no ports"):
        split_ports(text)
    with pytest.raises(ValueError, match="no ports"):
        parse_key(f"203.0.113.5 {text}")


def test_only_what_the_web_serves_concerns_an_app() -> None:
    """An app refuses who is banned from 80 or 443, not who is banned from the SSH server."""
    assert [is_web(text) for text in ("", "tcp", "tcp/22", "udp/443", "tcp/443", "tcp+udp/1-1000")] == [
        True, True, False, False, True, True
    ]  # fmt: skip
    table, address = BanTable(), parse_address("203.0.113.5")
    bans = [replace(Ban.of("203.0.113.0/24", start=1.0), ports=ports) for ports in ("tcp/22", "tcp/443", "tcp/80,443")]
    table.put(bans[0])
    assert (table.find(address, 2.0), list(table.ported(address, 2.0))) == (None, bans[:1])
    table.put(bans[1])
    table.put(bans[2])
    assert table.find(address, 2.0) == bans[1]
    assert (len(table), set(table)) == (3, set(bans))
    table.drop(bans[1].network, "tcp/443")
    assert table.find(address, 2.0) == bans[2]
    assert table.find(address, 1e9) is None
    table.drop(bans[2].network, "tcp/80,443")
    table.drop(bans[0].network, "tcp/22")
    assert (len(table), table.find(address, 2.0), list(table)) == (0, None, [])


def test_who_shuts_out_of_ports() -> None:
    """Of ports that are not the web's only the kernel does, and nobody where it does not see the client."""
    assert enforcers((), ("nftables", "nginx_deny"), "tcp/22") == ("kernel",)
    assert enforcers(("192.0.2.1",), ("nftables", "nginx_deny"), "tcp/22") == ()
    assert enforcers((), ("nftables", "nginx_deny"), "tcp/443") == ("kernel", "nginx", "app")


def test_a_fact_in_redis_keeps_its_ports() -> None:
    """Ban and lift come back as they were told, under a name that an older version takes for no network."""
    ban = replace(Ban.of("203.0.113.5", start=1000.0), ports="tcp/22", version=7)
    for fact in (Fact.of(ban), Fact.lifting(ban, 8)):
        fields = fields_of(fact, 0.0, "new")
        assert fields[0] == "203.0.113.5 tcp/22"
        assert parse_record(str(fields[0]).encode(), record_of(fields), 0.0) == fact
    assert parse_record(b"203.0.113.5 tcp/2222222", record_of(fields_of(Fact.of(ban), 0.0, "new")), 0.0) is None


def test_a_bouncer_apart_is_told_the_ports() -> None:
    """The key names them behind the network; what are no ports is no ban."""
    ban = replace(Ban.of("203.0.113.5", start=1000.0), ports="tcp/22")
    assert block_of(ban.brief) == Block.of(ban.network, ban.end, "tcp/22", "manual")
    assert block_of(("203.0.113.5 tcp/x", "manual", None)) is None
