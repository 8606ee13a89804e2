"""The last judge: what is refused, one by one, and what may be forced."""

from ipaddress import IPv6Network, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.address import Network, parse_address, parse_network
from appguard.ban import Ban
from appguard.errors import RefusedForSafety
from appguard.host import HostFacts
from appguard.judge import Judge, Protections

FACTS = HostFacts(
    own=tuple(map(parse_network, ("198.51.100.1", "2001:db8:a::1"))),
    on_link=tuple(map(parse_network, ("198.51.100.0/24", "2001:db8:a::/64", "2001:db8:d::/56"))),
    gateways=tuple(map(parse_address, ("198.51.100.254", "2001:db8:a::fe"))),
    resolvers=(parse_address("203.0.113.53"),),
    stores=(parse_address("203.0.113.63"),),
)
SAFELIST = tuple(map(parse_network, ("192.0.2.0/24", "2001:db8:5afe::/48")))
PROXIES = tuple(map(parse_network, ("10.0.0.0/8", "203.0.113.80")))
ADMINISTRATORS = tuple(map(parse_address, ("203.0.113.200", "2001:db8:ad::1")))


@pytest.fixture
def judge() -> Judge:
    """Give a judge who knows all kinds of facts."""
    made = Judge(FACTS, safelist=SAFELIST, proxies=PROXIES)
    made.update(FACTS, ADMINISTRATORS)
    return made


def ban(text: str) -> Ban:
    """Make a ban of a network."""
    return Ban.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.5",
        "203.0.113.0/28",
        "203.1.0.0/16",
        "198.51.100.77",  # a neighbour on an IPv4 link
        "2001:db8:f::/64",
        "2001:db8:f::9",
        "2001:db8:a::9",  # a single neighbour on an IPv6 link
        "2001:db8:d:3::9",
        "2001:db9::/32",
        "172.16.3.4",
        "9.255.255.255",  # just beside the proxies
        "11.0.0.0/16",
        "192.0.3.0/24",
    ],
)
def test_harmless_bans_pass(judge: Judge, text: str) -> None:
    """Strangers, single neighbours and whole networks that hold nobody of ours may be banned."""
    judge.check(ban(text))


NEVER = [
    ("127.0.0.1", "127.0.0.1 lies in 127.0.0.0/8, which is loopback"),
    ("127.5.0.0/16", "loopback"),
    ("::1", "::1 is loopback"),
    ("::/64", "loopback|unspecified"),
    ("0.0.0.0", "the unspecified address"),
    ("::", "the unspecified address"),
    ("169.254.3.4", "link-local"),
    ("fe80::1", "link-local"),
    ("fe80::/64", "link-local"),
    ("224.0.0.251", "multicast"),
    ("ff02::1", "multicast"),
    ("255.255.255.255", "broadcast"),
    ("198.51.100.1", "198.51.100.1 is an address of this host; that is always let in"),
    ("2001:db8:a::1", "an address of this host"),
    ("198.51.100.254", "198.51.100.254 is a gateway of this host"),
    ("2001:db8:a::fe", "a gateway of this host"),
    ("203.0.113.53", "203.0.113.53 is a resolver of this host"),
    ("203.0.113.63", "203.0.113.63 is a host of the store"),
    ("192.0.2.9", "192.0.2.9 lies in 192.0.2.0/24, which is on the safelist"),
    ("192.0.2.0/24", "192.0.2.0/24 is on the safelist"),
    ("192.0.2.128/25", "on the safelist"),
    ("2001:db8:5afe:1::/64", "on the safelist"),
    ("10.1.2.3", "10.1.2.3 lies in 10.0.0.0/8, which is a trusted proxy"),
    ("10.1.0.0/16", "a trusted proxy"),
    ("203.0.113.80", "a trusted proxy"),
    ("0.0.0.0/0", "wider than a /"),
    ("::/0", "wider than a /"),
    ("128.0.0.0/2", "wider than a /"),
    ("2000::/12", "wider than a /"),
]


@pytest.mark.parametrize(("text", "why"), NEVER)
@pytest.mark.parametrize("force", [False, True])
def test_never_banned(judge: Judge, text: str, why: str, force: bool) -> None:
    """These are refused with their reason, whether forced or not."""
    with pytest.raises(RefusedForSafety, match=why):
        judge.check(ban(text), force=force)


UNLESS_FORCED = [
    ("203.0.0.0/15", "203.0.0.0/15 is wider than a /16; ban narrower networks, or use --force"),
    ("2001:4000::/31", "2001:4000::/31 is wider than a /32"),
    ("198.51.100.0/24", "198.51.100.0/24 holds 198.51.100.1, which is an address of this host"),
    ("203.0.113.48/29", "holds 203.0.113.53, which is a resolver of this host"),
    ("198.51.100.128/25", "holds 198.51.100.254, which is a gateway of this host"),
    ("203.0.113.64/26", "holds 203.0.113.80, which is a trusted proxy"),
    ("192.0.0.0/16", "holds 192.0.2.0/24, which is on the safelist"),
    ("2001:db8:5a00::/40", "on the safelist"),
    ("203.0.113.200", "203.0.113.200 is where an administrator is logged in from"),
    ("203.0.113.192/26", "holds 203.0.113.200, which is where an administrator is logged in from"),
    ("2001:db8:ad::/64", "holds 2001:db8:ad::1, which is where an administrator is logged in from"),
    (
        "2001:db8:d:5::/64",
        "2001:db8:d:5::/64 lies in 2001:db8:d::/56, which is on a link of this host; ban single hosts",
    ),
    ("2001:db8:d::/48", "on a link of this host"),
    ("64:ff9b::/96", "shared by hosts behind NAT64"),
    ("64:ff9b::cb00:7100/120", "shared by hosts behind NAT64"),
]


@pytest.mark.parametrize(("text", "why"), UNLESS_FORCED)
def test_banned_only_if_forced(judge: Judge, text: str, why: str) -> None:
    """These are refused with their reason and pass if a person on this host insists."""
    with pytest.raises(RefusedForSafety, match=why):
        judge.check(ban(text))
    judge.check(ban(text), force=True)


def test_facts_may_change(judge: Judge) -> None:
    """What is refused follows the facts, and the judge says whether they changed."""
    new = HostFacts(own=(parse_network("203.0.113.5"),))
    assert judge.update(new)
    assert not judge.update(new)
    judge.check(ban("198.51.100.1"))
    judge.check(ban("203.0.113.200"))
    with pytest.raises(RefusedForSafety):
        judge.check(ban("203.0.113.5"))
    assert judge.update(new, ADMINISTRATORS)


def test_those_let_in_are_all_but_sessions(judge: Judge) -> None:
    """A firewall lets in safelist, proxies, own addresses, gateways, resolvers, stores; a session is no free pass."""
    hosts = ("198.51.100.1", "2001:db8:a::1", "198.51.100.254", "2001:db8:a::fe", "203.0.113.53", "203.0.113.63")
    assert set(judge.let_in) == {*SAFELIST, *PROXIES, *map(parse_network, hosts)}


def networks() -> st.SearchStrategy[Network]:
    """Give small networks close together, so that they often overlap."""

    def make(number: int, length: int) -> Network:
        return ip_network((0xCB007100 + number, length), strict=False)

    return st.builds(make, st.integers(0, 15), st.integers(28, 32))


@given(st.lists(networks(), max_size=6), networks())
@example([parse_network("203.0.113.1")], parse_network("203.0.113.0/31"))
@example([parse_network("203.0.113.0/24")], parse_network("203.0.113.255"))
def test_every_overlap_with_the_safelist_is_found(safelist: list[Network], banned: Network) -> None:
    """A ban passes exactly if it shares no address with the safelist."""
    judge = Judge(safelist=safelist)
    if any(banned.overlaps(each) for each in safelist):
        with pytest.raises(RefusedForSafety):
            judge.check(Ban(banned, "test", 0.0, None))
    else:
        judge.check(Ban(banned, "test", 0.0, None))


def test_a_network_is_protected_beside_a_narrower_one_with_a_zone_id() -> None:
    """To `ipaddress` a network with a zone id is no smaller and no larger than another that begins with its address."""
    judge = Judge(safelist=[IPv6Network("2001:db8::%1/64"), IPv6Network("2001:db8::/48")])
    with pytest.raises(RefusedForSafety):
        judge.check(ban("2001:db8:0:5::/64"))


def test_judges_of_a_fleet_take_what_is_protected() -> None:
    """What other hosts let in is refused by whoever asks, is not let in here, and may be banned when they are gone."""
    protections = Protections()
    judge = Judge(FACTS, protections=protections)
    other, wide = ban("203.0.113.7"), ban("203.0.113.0/24")
    judge.check(other)
    protections.let_in = ((parse_network("203.0.113.9"), "on the safelist"),)
    protections.others = ((parse_network("203.0.113.7"), "an address of web-2"),)
    assert judge.update(FACTS)
    assert not judge.update(FACTS)
    with pytest.raises(RefusedForSafety, match=r"203\.0\.113\.7 is an address of web-2; no host of the fleet bans it"):
        judge.check(other, force=True)
    with pytest.raises(RefusedForSafety, match="always let in"):
        judge.check(ban("203.0.113.9"))
    with pytest.raises(RefusedForSafety, match="ban narrower networks"):
        judge.check(wide)
    judge.check(wide, force=True)
    assert parse_network("203.0.113.9") in judge.let_in
    assert parse_network("203.0.113.7") not in judge.let_in
    protections.let_in = protections.others = ()
    assert judge.update(FACTS)
    judge.check(other)
