"""Which ports a ban is about. Everywhere but in settings that is one canonical text, empty for all there is.

`tcp/22` is a port of one protocol, `tcp+udp/53,8000-8010` are some of two, and `tcp` is all of one. Two texts are equal
if and only if they mean the same. So a ban is known by its network and this text: jails that watch different ports may
ban the same address, and each of these bans begins and ends by itself.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from appguard.address import Network, parse_network
from appguard.errors import ConfigError

PROTOCOLS = ("tcp", "udp")
LAST = 65535
RANGES_MOST = 64  # in one text
TEXT_MOST = 800  # characters; so many ranges take no more
WEB = ("http", "https")
# Fixed here, because /etc/services differs from host to host, and all hosts of a fleet must mean the same.
SERVICES = {
    "ftp-data": 20,
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "http": 80,
    "pop3": 110,
    "imap": 143,
    "imap2": 143,
    "snmp": 161,
    "imap3": 220,
    "ldap": 389,
    "https": 443,
    "urd": 465,
    "smtps": 465,
    "submissions": 465,
    "ssmtp": 465,
    "submission": 587,
    "ldaps": 636,
    "ftps-data": 989,
    "ftps": 990,
    "imaps": 993,
    "pop3s": 995,
    "socks": 1080,
    "openvpn": 1194,
    "ms-sql-s": 1433,
    "nfs": 2049,
    "mysql": 3306,
    "sieve": 4190,
    "sip": 5060,
    "sip-tls": 5061,
    "xmpp-client": 5222,
    "postgresql": 5432,
    "http-alt": 8080,
    "webmin": 10000,
}
_TEXT = re.compile(r"(tcp|udp|tcp\+udp)(?:/(\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*))?")
_RANGE = re.compile(r"(\w[\w-]*?)(?:-(\d+))?", re.ASCII)

Range = tuple[int, int]  # the first and the last port


def ports_text(ports: Iterable[object], protocols: Iterable[object], what: str = "ports") -> str:
    """Give the canonical text of what settings say: numbers, texts such as `"8000-8010"`, names of services.

    No ports are all ports, no protocols all that have ports; neither is everything. Raise `ConfigError`.
    """
    chosen, ranges = tuple(protocols), list(_joined(_read(port, what) for port in ports))
    if not set(chosen) <= set(PROTOCOLS):
        raise ConfigError(f"{what}: protocol = {list(chosen)!r}: expected 'tcp', 'udp' or both")
    if len(ranges) > RANGES_MOST:
        raise ConfigError(f"{what}: {len(ranges)} ports and ranges: expected at most {RANGES_MOST}; join neighbours")
    return _text(chosen or PROTOCOLS, ranges) if chosen or ranges else ""


def _read(port: object, what: str) -> Range:
    if isinstance(port, int) and not isinstance(port, bool):
        return _checked(port, port, what)
    if isinstance(port, str) and port.lower() in SERVICES:
        number = SERVICES[port.lower()]
        return number, number
    found = _RANGE.fullmatch(port) if isinstance(port, str) else None
    if found is not None and found[1].isdigit():
        return _checked(int(found[1]), int(found[2] or found[1]), what)
    raise ConfigError(
        f"{what}: {port!r}: expected a port from 0 to {LAST}, a range such as '8000-8010', or a service of"
        f" {', '.join(SERVICES)}; of any other service write the number"
    )


def _checked(first: int, last: int, what: str) -> Range:
    if 0 <= first <= last <= LAST:
        return first, last
    raise ConfigError(f"{what}: {first}-{last}: expected ports from 0 to {LAST}, the lower one first")


def _joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Give ranges in order, those that touch as one."""
    held: Range | None = None
    for first, last in sorted(ranges):
        if held is not None and first <= held[1] + 1:
            held = held[0], max(held[1], last)
            continue
        if held is not None:
            yield held
        held = first, last
    if held is not None:
        yield held


def _text(protocols: Iterable[object], ranges: Sequence[Range]) -> str:
    names = "+".join(name for name in PROTOCOLS if name in set(protocols))
    if not ranges or ranges == [(0, LAST)]:
        return names
    return f"{names}/{','.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges)}"


@lru_cache(maxsize=256)
def split_ports(text: str) -> tuple[tuple[str, ...], tuple[Range, ...]]:
    """Give the protocols and the ranges of a canonical text that is not empty; raise `ValueError` for any other."""
    found = _TEXT.fullmatch(text) if len(text) <= TEXT_MOST else None
    if found is None:
        raise ValueError(f"{text[:TEXT_MOST]!r} are no ports")
    parts = [part.partition("-") for part in (found[2] or f"0-{LAST}").split(",")]
    ranges = [(int(first), int(last or first)) for first, _, last in parts]
    protocols = found[1].split("+")
    if any(last > LAST for _, last in ranges) or _text(protocols, list(_joined(ranges))) != text:
        raise ValueError(f"{text!r} are no ports as they are written here")
    return tuple(protocols), tuple(ranges)


@lru_cache(maxsize=256)
def is_web(text: str) -> bool:
    """Say whether such a ban is about what web clients ask: all there is, or TCP ports with 80 or 443 among them.

    An app and nginx cannot tell which port a client has dialled, but they answer nobody else.
    """
    if not text:
        return True
    protocols, ranges = split_ports(text)
    return "tcp" in protocols and any(a <= SERVICES[name] <= b for name in WEB for a, b in ranges)


def spoken(text: str) -> str:
    """Write ports for people: `tcp 22`, `tcp+udp 53, 8000-8010`, `all tcp`."""
    names, _, ports = text.partition("/")
    return f"{names} {ports.replace(',', ', ')}" if ports else f"all {names}" if names else "all"


def key_of(network: str, ports: str) -> str:
    """Give the text a ban is known by: its network and, where it is not about all ports, those."""
    return f"{network} {ports}" if ports else network


def parse_key(text: str) -> tuple[Network, str]:
    """Read such a text; raise `AddressError` or `ValueError`."""
    network, space, ports = text.partition(" ")
    if space:
        split_ports(ports)
    return parse_network(network), ports
