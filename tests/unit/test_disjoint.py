"""Overlapping networks cut into pieces that do not overlap."""

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Network
from appguard.firewalls.disjoint import disjoint

WHOLE4 = IPv4Network("192.0.2.0/26")
WHOLE6 = IPv6Network("2001:db8::/122")


def inside(whole: Network) -> st.SearchStrategy[Network]:
    """Give networks of every length inside a network of 64 addresses."""

    def make(number: int, length: int) -> Network:
        return ip_network((int(whole.network_address) + number, whole.prefixlen + length), strict=False)

    return st.builds(make, st.integers(0, 63), st.integers(0, 6))


@given(st.dictionaries(inside(WHOLE4) | inside(WHOLE6), st.integers(1, 5).map(float), max_size=12))
def test_every_address_keeps_its_latest_end(ends: dict[Network, float]) -> None:
    """Each address of the networks is in exactly one piece, with the latest end of the networks that hold it."""
    pieces = list(disjoint(ends))
    for address in (*WHOLE4, *WHOLE6):
        held = [end for network, end in pieces if address in network]
        latest = max((end for network, end in ends.items() if address in network), default=None)
        assert held == ([] if latest is None else [latest])


def test_networks_that_do_not_overlap_stay_whole() -> None:
    """Neighbours are not merged and nothing is cut without need."""
    ends: dict[Network, float] = {
        IPv4Network("192.0.2.0/25"): 1.0,
        IPv4Network("192.0.2.128/25"): 1.0,
        IPv6Network("2001:db8::/48"): 2.0,
    }
    assert dict(disjoint(ends)) == ends


def test_a_network_that_ends_no_later_than_one_around_it_is_left_out() -> None:
    """What the wider network covers for as long needs no piece of its own."""
    ends: dict[Network, float] = {IPv4Network("192.0.2.0/24"): 5.0, IPv4Network("192.0.2.0/28"): 5.0}
    assert dict(disjoint(ends)) == {IPv4Network("192.0.2.0/24"): 5.0}


def test_a_long_ban_in_a_short_one_costs_a_piece_per_bit_between_them() -> None:
    """A /127 inside a /32 leads to 95 pieces around it, not to millions."""
    outer, inner = IPv6Network("2001:db8::/32"), IPv6Network("2001:db8::/127")
    pieces = dict(disjoint({outer: 1.0, inner: 2.0}))
    assert pieces.pop(inner) == 2.0
    assert len(pieces) == 95
