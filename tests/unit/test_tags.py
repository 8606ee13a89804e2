"""fail2ban's tags as Python regexes: which text is an address, and where a flag holds."""

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.filters.tags import expand, has_flag_within, plain_name, with_local_flags

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def found(pattern: str, text: str, usedns: str = "warn") -> dict[str, str]:
    """Give the groups that took part in a match."""
    match = re.search(expand(pattern, usedns), text)
    assert match is not None, f"{pattern!r} does not match {text!r}"
    return {plain_name(name): value for name, value in match.groupdict().items() if value is not None}


@given(address=addresses, end=st.sampled_from(["", " ", ":", ",", ": 22", "]", ". Bye", "-1", " port 22"]))
def test_any_address_is_found_whole(address: object, end: str) -> None:
    """Whatever follows an address, all of it is found, by `<HOST>`, `<ADDR>` and the tag of its family."""
    for tag in ("<HOST>", "<ADDR>", "<SUBNET>"):
        groups = found(f"from {tag}", f"Failed from {address}{end}")
        text = groups.get("ip4") or groups["ip6"]
        assert ip_address(text) in (address, getattr(address, "ipv4_mapped", None))


@given(address=st.ip_addresses(v=4))
def test_a_mapped_address_is_that_of_its_client(address: object) -> None:
    """`::ffff:` before an IPv4 address is no part of it."""
    assert found("^<HOST> ", f"::ffff:{address} ")["ip4"] == str(address)
    assert found("^<ADDR>$", f"[::ffff:{address}]")["ip4"] == str(address)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("from <HOST>", "from 192.0.2.1.example.com"),
        ("from .*<HOST>$", "from x.192.0.2.1.example.com"),
        ("from <HOST>$", "from 192.0.2.1.example"),
    ],
)
def test_an_address_within_a_name_is_not_found(pattern: str, text: str) -> None:
    """Who names its host after somebody else's address does not get that address banned."""
    assert "ip4" not in found(pattern, text)


@pytest.mark.parametrize("text", ["from 11192.0.2.1 x", "from 192.0.2.1.5 x", "from 192.0.2.1444 x"])
def test_a_part_of_a_number_is_no_address(text: str) -> None:
    """An address is not found in the middle of a longer number, however greedy the regex before it."""
    assert re.search(expand("from .*<ADDR>.* x"), text) is None
    assert re.search(expand("from .*<ADDR> x"), "from 1 192.0.2.1 x")


@pytest.mark.parametrize(
    "port", [r"\.\d+", r"\.[0-9]{1,5}", r"(?:\.\d+)?", r"[.:]\d+", r"(?:[:.]\d+)?", r"\.<F-PORT/>"]
)
def test_a_port_behind_a_dot(port: str) -> None:
    """Where the regex asks for digits behind a dot, they are no part of the address; names stay names."""
    for tag in ("<HOST>", "<ADDR>", "<IP4>", "<F-ID><ADDR></F-ID>"):
        pattern = f"from {tag}{port} \\S+: error"
        assert found(pattern, "from 192.0.2.1.50550 192.0.2.9.1080: error")["ip4"] == "192.0.2.1"
        for name in ("192.0.2.1.50550.example.com", "192.0.2.1.5x", "192.0.2.1.50550.5", "192.0.2.15x"):
            hit = re.search(expand(pattern), f"from {name} x: error")
            assert hit is None or not hit["ip4"]


def test_names_only_where_they_may_be() -> None:
    """`<HOST>` takes a name unless names are not to be resolved; `<ADDR>` never does."""
    assert found("^<HOST> ", "host-1.example.com ") == {"dns": "host-1.example.com"}
    assert found("^<DNS> ", "host-1.example.com ") == {"dns": "host-1.example.com"}
    assert re.search(expand("^<HOST> ", "no"), "host.example.com ") is None
    assert re.search(expand("^<ADDR> "), "host.example.com ") is None
    assert found("^<SUBNET>$", "[192.0.2.0/24]") == {"ip4": "192.0.2.0", "cidr": "24"}
    assert found("^<IP6>/<CIDR>$", "2001:db8::/32") == {"ip6": "2001:db8::", "cidr": "32"}


def test_captures() -> None:
    """`<F-NAME>` captures, also several times in one regex, and `<F-ID/>` alone takes a word."""
    pattern = "^(?:<F-USER>a+|b</F-USER> <HOST>|<HOST> <F-USER>c</F-USER> <F-MLF-ID>d</F-MLF-ID>)$"
    assert found(pattern, "aa 192.0.2.1") == {"user": "aa", "ip4": "192.0.2.1"}
    assert found(pattern, "192.0.2.1 c d") == {"user": "c", "ip4": "192.0.2.1", "mlf_id": "d"}
    assert found("^<F-ID/> <F-PORT/>$", "x-1 22") == {"fid": "x-1", "port": "22"}
    assert found("(?m)a$<SKIPLINES>^b", "a\n1\n2\nb") == {"skiplines": "1\n2\n"}


@pytest.mark.parametrize(
    ("pattern", "matches", "not_matches"),
    [
        (r"\.(?i)(jpg|png)", [".jpg", ".JPG", ".Png"], ["jpg"]),
        ("a(?i)b|c", ["ab", "aB", "C", "c"], ["Ab", "AB"]),
        ("x((?i)a|b)c", ["xac", "xAc", "xBc"], ["xaC", "Xac"]),
        (r"[(?i)]x\(?i\)?", ["ixi", "(x(i)"], ["Ixi"]),
        ("(?i)abc", ["ABC"], []),
        ("(?:(?i)a)(?s)b.c", ["Ab\nc"], ["AB\nc"]),
    ],
)
def test_a_flag_in_the_middle_holds_to_the_end_of_its_group(
    pattern: str, matches: list[str], not_matches: list[str]
) -> None:
    """Where Python refuses a flag it is made local; one at the beginning stays."""
    regex = re.compile(with_local_flags(pattern))
    assert all(regex.fullmatch(text) for text in matches)
    assert not any(regex.fullmatch(text) for text in not_matches)
    assert has_flag_within(pattern) is (pattern not in ("(?i)abc", r"[(?i)]x\(?i\)?"))


@pytest.mark.filterwarnings("ignore:Possible nested set", "ignore:Possible set ")
@given(pattern=st.text(alphabet="ab|()[]?:i\\<>/FHOST-P=*^", max_size=40))
def test_any_pattern_expands(pattern: str) -> None:
    """What is no regex is expanded all the same, and whatever Python took before it takes then."""
    try:
        re.compile(pattern)
    except re.error:
        expand(pattern)
        return
    re.compile(with_local_flags(pattern))
