"""The client behind proxies: who is believed, who is unknown, and what an attacker's headers cost."""

import tracemalloc
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, parse_address, parse_network
from appguard.proxies import (
    MOST_HOPS,
    UNKNOWN_HOP,
    UNKNOWN_PEER,
    UNKNOWN_PROXY,
    Client,
    ClientFinder,
    Proxies,
    forwarded_for,
    parse_hop,
)

NGINX = "10.0.0.1"
BALANCER = "198.51.100.7"
PROXIES = Proxies((parse_network("10.0.0.0/24"), parse_network("198.51.100.7"), parse_network("2001:db8:ffff::/48")))
CLIENT = "203.0.113.9"


def client_of(peer: str | None, forwarded: str | None, proxies: Proxies = PROXIES, **options: bool) -> Client:
    """Give the client a fresh finder finds."""
    finder = ClientFinder(proxies)
    return finder.behind(finder.peer(peer), forwarded, **options)


def texts_of(client: Client) -> tuple[str, ...]:
    """Give the addresses of the proxies walked."""
    return tuple(address.text for address in client.via)


def test_public_peer_is_the_client_whatever_it_forwards() -> None:
    """A stranger's forwarding header is not looked at."""
    finder = ClientFinder(PROXIES)
    peer = finder.peer("203.0.113.1")
    assert not peer.forwards
    for forwarded in (None, CLIENT, "garbage"):
        assert finder.behind(peer, forwarded).address == parse_address("203.0.113.1")


def test_trusted_peer_without_header_is_the_client() -> None:
    """A proxy's own request, such as a health check, is its own."""
    assert client_of(NGINX, None) == Client(parse_address(NGINX), NGINX)


@pytest.mark.parametrize(
    ("forwarded", "client", "via"),
    [
        (CLIENT, CLIENT, (NGINX,)),
        (f"192.0.2.66, {CLIENT}", CLIENT, (NGINX,)),
        (f"{CLIENT}, {BALANCER}", CLIENT, (NGINX, BALANCER)),
        (f"192.0.2.66,{CLIENT}:4711 , [2001:db8:ffff::1]:80,{BALANCER}", CLIENT, (NGINX, BALANCER, "2001:db8:ffff::1")),
        (f"::ffff:{CLIENT}", CLIENT, (NGINX,)),
        ("10.0.0.2", "10.0.0.2", (NGINX,)),
        (f"{BALANCER}, 10.0.0.2", BALANCER, (NGINX, "10.0.0.2")),
        ("[2001:db8::5]:4711", "2001:db8::5", (NGINX,)),
    ],
)
def test_header_is_walked_from_the_right(forwarded: str, client: str, via: tuple[str, ...]) -> None:
    """The client is the first hop from the right that is no trusted proxy, or the leftmost if all are."""
    found = client_of(NGINX, forwarded)
    assert found.address == parse_address(client)
    assert found.key == Grouping().key(parse_address(client))
    assert (texts_of(found), found.unknown) == (via, "")


@given(st.text())
def test_what_stands_left_of_the_client_is_never_read(spoofed: str) -> None:
    """Whatever a stranger writes before the proxy appends the true address changes nothing."""
    assert client_of(NGINX, f"{spoofed},{CLIENT}") == client_of(NGINX, CLIENT)


@pytest.mark.parametrize("hop", ["", "unknown", "_x", "a.example", "203.0.113.9 203.0.113.8", "203.0.113.9<10.0.0.2"])
def test_malformed_hop_is_an_unknown_client(hop: str) -> None:
    """What a trusted proxy forwards and is no address makes the client unknown, not the proxy the client."""
    for forwarded in (hop, f"{hop},10.0.0.2", f"{CLIENT},{hop},{BALANCER}"):
        found = client_of(NGINX, forwarded)
        assert (found.address, found.key, found.unknown, found.evidence) == (None, "", UNKNOWN_HOP, hop)


def test_private_peer_that_forwards_untrusted_is_unknown() -> None:
    """A proxy somebody forgot to list is not taken for the client of all its requests."""
    for peer in ("127.0.0.1", "::1", "192.168.1.1", "172.17.0.1", "100.64.0.1", "fd00::1", "fe80::1%eth0"):
        found = client_of(peer, CLIENT)
        assert (found.address, found.unknown) == (None, UNKNOWN_PROXY)
        assert parse_hop(peer) == parse_address(found.evidence)
        assert client_of(peer, None).address == parse_hop(peer)


def test_rewritten_peer_is_the_client() -> None:
    """Where the server has already put the forwarded address in the peer's place, no header is read again."""
    assert client_of(CLIENT, "192.0.2.66", is_rewritten=True).address == parse_address(CLIENT)
    assert client_of(NGINX, "192.0.2.66", is_rewritten=True).address == parse_address(NGINX)
    assert client_of("127.0.0.1", "192.0.2.66", is_rewritten=True).address == parse_address("127.0.0.1")


def test_unix_peer_is_believed_only_if_listed() -> None:
    """Who connects over a unix socket has no address: a trusted proxy with `unix:`, else an unknown client."""
    listed = client_of(None, f"192.0.2.66, {CLIENT}", Proxies(unix=True))
    assert (listed.address, listed.via) == (parse_address(CLIENT), ())
    assert client_of(None, None, Proxies(unix=True)).unknown == UNKNOWN_PEER
    for forwarded in (None, CLIENT):
        assert client_of(None, forwarded).unknown == UNKNOWN_PEER


def test_peer_that_is_no_address_is_unknown() -> None:
    """A test client or a strange server gives no key."""
    found = client_of("testclient", CLIENT)
    assert (found.address, found.unknown, found.evidence) == (None, UNKNOWN_PEER, "testclient")


def test_endless_chain_is_unknown() -> None:
    """A chain of more trusted proxies than anybody has is a forgery; one of the most allowed is walked."""
    longest = [f"10.0.0.{number}" for number in range(2, 1 + MOST_HOPS)]
    assert client_of(NGINX, ",".join([CLIENT, *longest])).address == parse_address(CLIENT)
    assert client_of(NGINX, ",".join([CLIENT, "10.0.0.100", *longest])).unknown == UNKNOWN_HOP
    assert client_of(NGINX, ",".join(["10.0.0.2"] * 10_000)).unknown == UNKNOWN_HOP


HOPS = (NGINX, BALANCER, "10.0.0.2", " 10.0.0.3:80", CLIENT, "192.0.2.66", "2001:db8::5", "", "x", "x<10.0.0.2")


def naive(peer: str, forwarded: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Walk the hops as the design says, with nothing remembered."""
    via: list[str] = []
    client: str | None = peer
    for hop in reversed(forwarded):
        if client is None or not any(ip_address(client) in network for network in PROXIES.networks):
            break
        via.append(client)
        address = parse_hop(hop)
        client = address.text if address else None
    return client, tuple(via)


@given(st.lists(st.lists(st.sampled_from(HOPS), min_size=1, max_size=6), min_size=1, max_size=20))
def test_memo_changes_no_answer(headers: list[list[str]]) -> None:
    """A finder that remembers gives what the plain walk gives, in any order of requests and with the smallest memo."""
    for size in (1, 8192):
        finder = ClientFinder(PROXIES, memo_size=size)
        for forwarded in headers * 2:
            found = finder.behind(finder.peer(NGINX), ",".join(forwarded))
            assert (found.address.text if found.address else None, texts_of(found)) == naive(NGINX, forwarded)


def test_memo_mixes_up_no_hops() -> None:
    """A single hop that looks like a chain is not taken for the chain that was walked before, nor the reverse."""
    for separator in "<,;|> ":
        for first, second in ((f"{CLIENT},10.0.0.2", f"{CLIENT}{separator}10.0.0.2"), ("10.0.0.2", "10.0.0.2,")):
            finder = ClientFinder(PROXIES)
            for forwarded in (first, second, first):
                found = finder.behind(finder.peer(NGINX), forwarded)
                assert found == client_of(NGINX, forwarded)


def test_attackers_fill_no_memory() -> None:
    """Neither many clients nor long garbage makes a finder grow: not as hops, not as peers."""
    finder = ClientFinder(PROXIES, memo_size=1_000)
    peer = finder.peer(NGINX)
    tracemalloc.start()
    try:
        for number in range(1_900):
            finder.behind(peer, f"203.0.{number >> 8}.{number & 255}")
            finder.behind(peer, f"{number}{'x' * 50_000}")
            finder.behind(peer, f"{number}{'x' * 50_000},10.0.0.2")
            finder.peer(f"{number}{'x' * 50_000}")
            finder.peer(f"2001:db8:{number:x}::1")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_500_000  # most of it in the memo of parsed addresses, which is bounded too


@pytest.mark.parametrize(
    ("header", "hops"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
        ("proto=https;FOR=203.0.113.9", "203.0.113.9"),
        ('for=192.0.2.66, for="[2001:db8::5]:4711"', '192.0.2.66,"[2001:db8::5]:4711"'),
        ("proto=https", ""),
        ("for=192.0.2.66, proto=https", "192.0.2.66,"),
        ("for=unknown", "unknown"),
        ('for="203.0.113.9,192.0.2.66"', ""),
        ("", ""),
        ("for=203.0.113.9;", "203.0.113.9"),
        # What a stranger puts into a quoted `host` opens no new element and no new parameter.
        ('for=203.0.113.9;host="x,for=192.0.2.66"', "203.0.113.9"),
        ('host="x,for=192.0.2.66";for=203.0.113.9', "203.0.113.9"),
        ('host="x;for=192.0.2.66";for=203.0.113.9', "203.0.113.9"),
        (r'host="x\",for=192.0.2.66;for=192.0.2.67";for=203.0.113.9', "203.0.113.9"),
        (r'host="x\\";for=203.0.113.9', "203.0.113.9"),
    ],
)
def test_forwarded_header(header: str, hops: str) -> None:
    """The `for` of each element becomes a hop; an element without one becomes a hop that is no address."""
    assert forwarded_for(header) == hops


@given(
    st.text(st.sampled_from('for=;,"\\ 192.0.2.66x')),
    st.text(st.sampled_from('for=;, 192.0.2.66x"\\')).map(lambda host: host.replace("\\", r"\\").replace('"', r"\"")),
    st.sampled_from(
        [
            "for={client}",
            'for={client};host="{host}"',
            'host="{host}";for={client}',
            'proto=https;host="{host}";by=_b;for={client}',
        ]
    ),
)
def test_forwarded_header_cannot_be_forged_from_the_left_or_inside(spoofed: str, host: str, element: str) -> None:
    """What a stranger sends as this header, or as a host the proxy quotes, never changes whom the proxy names."""
    header = element.format(client=CLIENT, host=host)
    assert client_of(NGINX, forwarded_for(f"{spoofed},{header}")) == client_of(NGINX, CLIENT)


@pytest.mark.parametrize("piece", [",", ";", '"', '\\"', '"\\', "for=10.0.0.2,", "a;"])
def test_forwarded_header_is_read_no_further_than_any_chain(piece: str) -> None:
    """A header as long as servers allow is given up after the longest chain there may be."""
    assert forwarded_for(piece * 30_000).count(",") <= 4 * MOST_HOPS
    assert client_of(NGINX, forwarded_for(piece * 30_000)).unknown == UNKNOWN_HOP
