"""Whose packets the kernel sees, and who shuts a client out."""

import pytest

from appguard.address import parse_network
from appguard.host import HostFacts
from appguard.reach import Reach, enforcers

FACTS = HostFacts(
    own=(parse_network("192.0.2.10"), parse_network("2001:db8::10")),
    on_link=(parse_network("192.0.2.0/24"), parse_network("172.18.0.0/16")),
    containers=(parse_network("172.18.0.0/16"),),
)


@pytest.mark.parametrize(
    ("via", "others"),
    [
        ((), ()),
        (("127.0.0.1", "::1"), ()),
        (("192.0.2.10", "2001:db8::10"), ()),
        (("172.18.0.3",), ()),
        (("127.0.0.1", "192.0.2.11"), ("192.0.2.11",)),
        (("198.51.100.0/24",), ("198.51.100.0/24",)),
        (("172.18.0.0/15",), ("172.18.0.0/15",)),
        (("2001:db8::11", "10.0.0.1"), ("2001:db8::11", "10.0.0.1")),
        (("no address",), ("no address",)),
    ],
)
def test_a_hop_is_another_machine_unless_it_is_this_host_or_its_container(
    via: tuple[str, ...], others: tuple[str, ...]
) -> None:
    """Loopback, own addresses and containers are this host; a neighbour, a network partly ours and nonsense are not."""
    reach = Reach(FACTS)
    assert reach.others(via) == others
    assert reach.others(via) == others


@pytest.mark.parametrize(
    ("others", "kinds", "found"),
    [
        ((), ("nftables",), ("kernel", "app")),
        ((), ("apart", "nginx_deny"), ("kernel", "nginx", "app")),
        (("192.0.2.11",), ("nftables",), ("app",)),
        (("192.0.2.11",), ("nftables", "nginx_deny"), ("nginx", "app")),
        ((), ("dry_run",), ("app",)),
    ],
)
def test_who_shuts_a_client_out(others: tuple[str, ...], kinds: tuple[str, ...], found: tuple[str, ...]) -> None:
    """The kernel does where it sees the client, nginx where it is told of the bans, and the app always."""
    assert enforcers(others, kinds) == found
