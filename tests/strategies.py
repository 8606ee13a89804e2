"""What property tests draw from."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from appguard.address import Network

# Small families of addresses, so that drawn networks and addresses meet.
near_v4 = st.integers(0, 255).map(lambda low: IPv4Address((203 << 24) + (113 << 8) + low))
near_v6 = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
    lambda parts: IPv6Address((0x20010DB8 << 96) + (parts[0] << 64) + parts[1])
)
any_v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
any_v6 = st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda address: address.ipv4_mapped is None)

near_networks: st.SearchStrategy[Network] = st.one_of(
    st.tuples(near_v4, st.integers(20, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(near_v6, st.sampled_from([32, 48, 62, 63, 64, 65, 128])).map(
        lambda pair: IPv6Network(pair, strict=False)
    ),
)
near_texts = st.one_of(near_v4, near_v6).map(str)

# Whatever a stranger can send as a name or path, and what has broken such formats before.
hostile_text = st.one_of(
    st.text(st.characters(exclude_categories=())),  # with lone surrogates and control characters
    st.sampled_from(
        [
            "\n",
            '"',
            "\\",
            '","source_ip":"192.0.2.66","user":"',
            '\n{"time":"2026-11-20T09:11:02.000000Z","event":"authn_login_fail","source_ip":"192.0.2.66"}',
            "\0",
            "\ud800",
            "\u2028",
            "\x85",
            "\x1b[31m",
            "😀" * 2000,
            "\x01" * 2000,
        ]
    ),
)
