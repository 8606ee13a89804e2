"""Addresses: canonical forms, folding, keys, and networks found by address."""

import pickle
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import (
    Grouping,
    Network,
    NetworkMap,
    NetworkSet,
    host_network,
    host_text,
    network_text,
    overlap,
    parse_address,
    parse_network,
)
from appguard.errors import AddressError
from appguard.proxies import parse_hop
from tests.strategies import any_v4, any_v6, near_networks, near_texts


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("::FFFF:CB00:7105", "203.0.113.5"),
        ("fe80::1%eth0", "fe80::1"),
        ("64:ff9b::203.0.113.5", "64:ff9b::cb00:7105"),
        ("::1", "::1"),
    ],
)
def test_address_is_canonical(text: str, canonical: str) -> None:
    """Every spelling of an address becomes one text; IPv4-mapped IPv6 becomes IPv4 and a zone is dropped."""
    assert parse_address(text).text == str(parse_address(text)) == canonical
    assert parse_address(text) == parse_address(canonical)
    assert hash(parse_address(text)) == hash(parse_address(canonical))


@pytest.mark.parametrize(
    "text",
    ["", "%eth0", "testclient", "203.0.113", "203.0.113.256", "0203.0.113.5", "203.0.113.5 ", "1", "203.0.113.5/32",
     "2001:db8::1::2", "[::1]", "\uff12\uff10\uff13.0.113.5", "203.0.113.5\n", "::ffff:203.0.113.5:80", "\ud800"],
)  # fmt: skip
def test_what_is_no_address_is_an_error(text: str) -> None:
    """Whatever is not exactly an address is refused, octal-looking and non-ASCII digits too."""
    with pytest.raises(AddressError, match="is not an IP address"):
        parse_address(text)
    assert parse_hop(text) is None or text in ("203.0.113.5 ", "[::1]", "203.0.113.5\n")


@given(any_v4)
def test_ipv4_round_trip(ip: IPv4Address) -> None:
    """An IPv4 address keeps its value, also when it comes mapped into IPv6 in either spelling."""
    address = parse_address(str(ip))
    assert (address.version, address.bits, address.number, address.text) == (4, 32, int(ip), str(ip))
    mapped = IPv6Address((0xFFFF << 32) | int(ip))
    assert parse_address(str(mapped)) == parse_address(mapped.exploded) == address


@given(any_v6)
def test_ipv6_round_trip(ip: IPv6Address) -> None:
    """An IPv6 address keeps its value in every spelling, and its key is the /64 that holds it."""
    address = parse_address(ip.exploded.upper())
    assert (address.version, address.bits, address.number, address.text) == (6, 128, int(ip), str(ip))
    assert address == parse_address(str(ip))
    slash64 = ip_network(address.slash64)
    assert slash64.prefixlen == 64
    assert ip in slash64


def test_zones_fill_no_memory() -> None:
    """A zone id may be of any length, and none is kept."""
    parse_address("fe80::1")
    tracemalloc.start()
    try:
        for number in range(1_000):
            parse_address(f"fe80::1%{number}{'x' * 10_000}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.77/24", "203.0.113.0/24"),
        ("203.0.113.77/255.255.255.0", "203.0.113.0/24"),
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.5/32", "203.0.113.5"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("fe80::1%eth0/64", "fe80::/64"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5/120", "203.0.113.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_network_is_canonical(text: str, canonical: str) -> None:
    """Host bits are dropped, mapped networks fold to IPv4, and a single host is written without its length."""
    assert network_text(parse_network(text)) == canonical
    assert parse_network(canonical) == parse_network(text)


@pytest.mark.parametrize("text", ["", "/", "203.0.113.5/", "203.0.113.5/33", "::/129", "a/8", "203.0.113.0/24/24", "*"])
def test_what_is_no_network_is_an_error(text: str) -> None:
    """Whatever is not an address or network is refused with the text."""
    with pytest.raises(AddressError) as caught:
        parse_network(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.5", "203.0.113.5"),
        (" 203.0.113.5\t", "203.0.113.5"),
        ("203.0.113.5:4711", "203.0.113.5"),
        ('"203.0.113.5:4711"', "203.0.113.5"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ('"[2001:db8::1]:4711"', "2001:db8::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("[::ffff:203.0.113.5]:80", "203.0.113.5"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("testclient", None),
        ("unix:", None),
        ("1.2.3.4, 5.6.7.8", None),
        ("203.0.113.5" + " " * 200, None),
        ("\ud800", None),
    ],
)
def test_hop(hop: str, address: str | None) -> None:
    """A hop loses its port, brackets, quotes and zone; what is no address, or too long for one, is none."""
    found = parse_hop(hop)
    assert (found.text if found else None) == address


@given(st.text())
def test_hop_never_raises(text: str) -> None:
    """Any text is an address or none."""
    found = parse_hop(text)
    assert found is None or parse_address(found.text) == found


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("64:ff9b::203.0.113.5", "64:ff9b::cb00:7105"),
        ("64:ff9b:1:2::5", "64:ff9b:1:2::5"),
        ("2001:db8:aaaa::7", "2001:db8:aaaa::7"),
        ("2001:db8:aaaa:1::7", "2001:db8:aaaa:1::/64"),
    ],
)
def test_key(address: str, key: str) -> None:
    """A client is counted by address or /64, and singly where one /64 holds many: NAT64 and on-link prefixes."""
    grouping = Grouping([parse_network("2001:db8:aaaa::/64")])
    assert grouping.key(parse_address(address)) == key


def test_two_hosts_of_one_slash64_share_a_key() -> None:
    """Walking through one's own /64 gives no new key."""
    key = Grouping().key
    assert key(parse_address("2001:db8::1")) == key(parse_address("2001:db8::ffff:ffff:ffff:ffff"))
    assert key(parse_address("2001:db8::1")) != key(parse_address("2001:db8:0:1::1"))


@given(near_networks, near_networks)
def test_two_networks_overlap_as_they_say_themselves(one: Network, other: Network) -> None:
    """It is asked about every ban there is, so unlike their own answer it leaves nothing at them."""
    before = [set(vars(each)) for each in (one, other)]
    answer = overlap(one, other)
    assert [set(vars(each)) for each in (one, other)] == before
    assert answer == one.overlaps(other)


@given(st.lists(st.tuples(st.booleans(), near_networks)), st.lists(near_texts, min_size=1), near_networks)
def test_network_map_is_a_plain_list_of_networks(
    steps: list[tuple[bool, Network]], texts: list[str], probe: Network
) -> None:
    """Whatever is added and removed, a map answers as if it looked at every network."""
    found: NetworkMap[int] = NetworkMap()
    model: dict[Network, int] = {}
    for number, (is_added, network) in enumerate(steps):
        if is_added:
            found.add(network, number)
            model[network] = number
        else:
            found.remove(network)
            model.pop(network, None)
    assert dict(found) == model
    assert (len(found), bool(found)) == (len(model), bool(model))
    assert found.get(probe) == model.get(probe)
    overlapping = found.overlapping(probe)
    mine = [network for network in model if network.version == probe.version and network.overlaps(probe)]
    assert overlapping in mine if mine else overlapping is None
    for text in texts:
        address = parse_address(text)
        holding = [network for network in model if ip_address(text) in network]
        holding.sort(key=lambda network: -network.prefixlen)
        assert list(found.holding(address)) == [model[network] for network in holding]
        assert found.find(address) == (model[holding[0]] if holding else None)
        assert (address in NetworkSet(model)) == bool(holding)


@given(any_v4)
def test_network_of_one_address_is_an_ordinary_one(address: IPv4Address) -> None:
    """It equals, hashes, reads and overlaps as the one `ipaddress` makes."""
    ours, plain = host_network(int(address)), IPv4Network(address)
    assert (ours, hash(ours), str(ours), ours.prefixlen) == (plain, hash(plain), str(plain), 32)
    assert ours.overlaps(IPv4Network((address, 8), strict=False))
    assert address in ours
    assert pickle.loads(pickle.dumps(ours)) == plain


def test_network_of_one_address_takes_little() -> None:
    """A thousand of them take about half of what they would."""

    def kept(make: Callable[[int], IPv4Network]) -> int:
        tracemalloc.start()
        try:
            networks = list(map(make, range(1 << 24, (1 << 24) + 1_000)))
            return tracemalloc.get_traced_memory()[0] if networks else 0
        finally:
            tracemalloc.stop()

    assert kept(host_network) < 0.6 * kept(IPv4Network)


def test_network_map_finds_the_longest() -> None:
    """The value of the narrowest network wins, and the wider one is found again when it is gone."""
    found = NetworkMap([(IPv4Network("203.0.113.0/24"), "wide"), (IPv4Network("203.0.113.128/25"), "narrow")])
    address = parse_address("203.0.113.200")
    assert found.find(address) == "narrow"
    found.remove(IPv4Network("203.0.113.128/25"))
    assert found.find(address) == "wide"


def test_everything_holds_everything_of_its_version_only() -> None:
    """The whole of IPv4 holds no IPv6 address."""
    everything = NetworkSet([IPv4Network("0.0.0.0/0")])
    assert parse_address("255.255.255.255") in everything
    assert parse_address("::1") not in everything
    assert everything.overlapping(IPv6Network("::/0")) is None


words = st.lists(st.sampled_from([0, 0, 1, 0x10, 0x64, 0xFF9B, 0x2001, 0xDB8, 0xAAAA]), min_size=8, max_size=8)
zeros_v6 = words.map(lambda words: IPv6Address(b"".join(word.to_bytes(2) for word in words)))


@given(ip=st.one_of(any_v4, any_v6, zeros_v6), length=st.integers(0, 32))
def test_in_brief_an_address_is_what_it_is_as_a_whole(ip: IPv4Address | IPv6Address, length: int) -> None:
    """A set of networks, a grouping and the text of an address say of it in brief what they say of it as a whole."""
    networks = NetworkSet([parse_network(f"203.0.113.0/{length}"), parse_network("2001:db8::/32")])
    grouping = Grouping([parse_network("2001:db8:aaaa::/64"), parse_network("2001:1::/112")])
    address = parse_address(str(ip))
    host = str(ip) if isinstance(ip, IPv4Address) else int(ip)
    assert host_text(host) == address.text
    assert networks.holds(host) == (address in networks)
    assert not NetworkSet().holds(host)
    assert grouping.key_of(host) == grouping.key(address)


@given(ip=st.one_of(any_v6, zeros_v6))
def test_a_slash64_is_written_as_networks_are(ip: IPv6Address) -> None:
    """What an IPv6 address is counted under is the canonical text of its network."""
    slash64 = IPv6Network((int(ip) >> 64 << 64, 64))
    assert parse_address(str(ip)).slash64 == str(slash64) == network_text(slash64)
