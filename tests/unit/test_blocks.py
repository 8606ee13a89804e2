"""What a firewall is to hold, from the text a ban is known by: the quick way finds what the careful one does."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appguard.address import Network, network_text, parse_network
from appguard.blocking import block_of
from appguard.firewalls.base import Block
from appguard.ports import key_of, parse_key

octets = st.one_of(
    st.integers(0, 999).map(str), st.sampled_from(["", "00", "01", "0x7f", " 1", "1 ", "+1", "1_0", "٣"])
)
nearly_v4 = st.lists(octets, min_size=1, max_size=5).map(".".join)
v4 = st.builds(lambda *of: IPv4Network(of, strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32))
v6 = st.builds(lambda *of: IPv6Network(of, strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128))
prefixes = st.integers(0, 2**64 - 1).map(lambda prefix: str(IPv6Address(prefix << 64)))
hosts = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
lengths = st.sampled_from(["/64", "/64", "/064", "%1/64", "/63", "/128", ""])
nearly_v6 = st.tuples(st.one_of(prefixes, hosts), lengths).map("".join)
ports = st.sampled_from(["", "tcp/22", "tcp+udp/53,8000-8010", "tcp"])


@given(st.one_of(st.text(), nearly_v4, nearly_v6, st.builds(key_of, nearly_v4, ports)))
@example("203.0.113.5\0")
@example("203.0.113.5\n")
@example("203.0.113.05")
@example("::ffff:203.0.113.5")
@example("2001:db8::1/64")
@example("2001:db8:0::/64")
@example("2001:DB8::/64")
@example("2001:db8::%1/64")
@example("203.0.113.5/64")
@example("::/64")
@example("203.0.113.5/32")
@example("fe80::1%eth0")
@example("\ud800")
def test_a_key_means_what_the_parser_says(key: str) -> None:
    """Whatever the text is: the same network, or none; and equal networks have one key."""
    try:
        network, of_ports = parse_key(key)
    except ValueError:
        assert block_of((key, "web", None)) is None
        with pytest.raises(ValueError):
            Block.read(key, None, "web")
        return
    block = Block.read(key, 5.0, "web")
    assert block == block_of((key, "web", 5.0)) == Block.of(network, 5.0, of_ports, "web")
    assert block.key == key_of(network_text(network), of_ports)


@given(st.one_of(v4, v6), ports)
def test_a_block_is_its_network(network: Network, of_ports: str) -> None:
    """Nothing of it is lost on the way there and back, by the canonical key or by the network itself."""
    network = parse_network(str(network))  # folds an IPv4 one that is written as IPv6
    block = Block.of(network, None, of_ports, "web")
    assert Block.read(block.key, None, "web") == block
    assert (block.network, block.version, block.ports) == (network, network.version, of_ports)
    assert block.is_host == (
        network.prefixlen == network.max_prefixlen or (network.version, network.prefixlen) == (6, 64)
    )


def test_a_zone_id_is_left_behind() -> None:
    """A zone id may be any text, and neither key nor network of a block has it."""
    block = Block.of(IPv6Network("fe80::1%0; flush ruleset"), None)
    assert (block.key, str(block.network)) == ("fe80::1", "fe80::1/128")
