"""A fact as Redis keeps it: "version end automatic details", where the end is in milliseconds of Redis TIME.

It stands under the network, or under network and ports (`ports.py`), which who does not know ports passes over. End 0
is for ever, -1 lifted. Whoever may write to Redis may write anything, so what is read is checked like a log line.
"""

import json
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple, cast

from appguard.ban import (
    DURATION_MOST,
    EVIDENCE_MOST,
    EVIDENCE_TEXT_MOST,
    HOST_MOST,
    JAIL_NAME,
    REASON_MOST,
    Ban,
    Fact,
    shared,
)
from appguard.errors import AddressError
from appguard.ports import parse_key

FACTS, CHANGES = "appguard:b:{main}:facts", "appguard:b:{main}:changes"  # in braces what a Cluster keeps together
DAEMONS = "appguard:d:{main}"  # what keys begin with that only daemons use
VERSION_MOST = 2**52  # Lua counts in doubles; microseconds reach this in the year 2112
TIME_MOST = VERSION_MOST / 1_000_000
VIA_MOST = 32
FAILURES_MOST = 2**31
_HEAD = re.compile(rb"([0-9]{1,16}) ([0-9]{1,16}) [01] ")
_VERSION_DIGITS = 16  # of a version since 2001: such versions are ordered as their texts are
_OCTET = b"(?:1[0-9]?[0-9]?|2(?:[0-4][0-9]?|5[0-5]?|[6-9])?|[3-9][0-9]?|0)"
_PLAIN = re.compile(  # a line with a network, which is captured if it is plain, and a line with its record
    rb"(?:((?:%b\.){3}%b)\n[0-9]{%d} [0-9]{1,16} [01] [^\n]*+|[^\n]*+\n[^\n]*+)(?:\n|\Z)"
    % (_OCTET, _OCTET, _VERSION_DIGITS)
)


class Head(NamedTuple):
    """What orders facts: the version, and the end in milliseconds of Redis TIME, 0 for ever."""

    version: int
    ends: float


def fields_of(fact: Fact, offset: float, how: str) -> list[object]:
    """Give what `merge.lua` takes of a fact; `offset` is Redis TIME minus our clock, `how` as that script says."""
    ban = fact.ban
    ends = -1.0 if ban is None else 0.0 if ban.end is None else (ban.end + offset) * 1000
    is_automatic = int(ban is not None and ban.automatic)
    return [fact.key, fact.version, f"{ends:.0f}", how, is_automatic, _details(ban, fact.host)]


def record_of(fields: Sequence[object]) -> bytes:
    """Give the record that `merge.lua` makes of these fields, if it takes them as they are."""
    _, version, ends, _, is_automatic, details = fields
    return f"{version} {ends} {is_automatic} {details}".encode()


def _details(ban: Ban | None, host: str) -> str:
    if ban is None:
        return json.dumps({"host": host[:HOST_MOST]}, separators=(",", ":")) if host else "{}"
    details: dict[str, object] = {
        "start": ban.start,
        "jail": ban.jail,
        "reason": ban.reason,
        "failures": ban.failures,
        "evidence": [text[:EVIDENCE_TEXT_MOST] for text in ban.evidence[:EVIDENCE_MOST]],
        "via": list(ban.via[:VIA_MOST]),
    }
    if ban.host:
        details["host"] = ban.host[:HOST_MOST]
    told = {
        name: value for name, value in details.items() if value or name == "start"
    }  # half of most records would say nothing
    return json.dumps(told, separators=(",", ":"))


def parse_record(network: bytes, record: bytes, offset: float) -> Fact | None:
    """Read a fact; None for anything else."""
    try:
        return _parse(network.decode(errors="replace"), record.decode(errors="replace"), offset)
    except (ValueError, AddressError, AttributeError, OverflowError, RecursionError):
        return None


def head_of(record: bytes) -> Head | None:
    """Read the head of a ban's record; None for a lift and for anything else. The rest is not looked at."""
    found = _HEAD.match(record)
    version = int(found[1]) if found else 0
    return Head(version, int(found[2])) if found and 0 < version < VERSION_MOST else None


def host_of(network: bytes) -> str | None:
    """Give the text of an IPv4 address or an IPv6 /64 that is written canonically; None for anything else.

    Most networks are one or the other, and this takes a tenth of the time of `parse_network`.
    """
    try:
        if not network.endswith(b"::/64"):
            text = network.decode("ascii")
            return text if socket.inet_ntoa(socket.inet_pton(socket.AF_INET, text)) == text else None
        text = network[:-3].decode("ascii")
        packed = socket.inet_pton(socket.AF_INET6, text)
        is_canonical = not any(packed[8:]) and socket.inet_ntop(socket.AF_INET6, packed) == text
        return f"{text}/64" if is_canonical else None
    except (OSError, ValueError):
        return None


def plain_hosts(found: Sequence[bytes]) -> tuple[dict[str, bytes], int]:
    """Give the records of banned IPv4 hosts among networks and records in turn, and the highest version of them.

    What `host_of` and `head_of` say of each is said of thousands at once here, which takes a tenth of the time. Where
    something is odd none are given.
    """
    lines = b"\n".join(found)
    if lines.count(b"\n") != len(found) - 1:
        return {}, 0
    hosts = b"\n".join(_PLAIN.findall(lines)).decode("ascii").split("\n")
    plain = dict(zip(hosts, found[1::2], strict=True))
    plain.pop("", None)  # what is not plain
    versions = plain.values()
    least, most = (int(pick(versions, default=b"0")[:_VERSION_DIGITS]) for pick in (min, max))
    return (plain, most) if least > 0 and most < VERSION_MOST else ({}, 0)


def _parse(network: str, record: str, offset: float) -> Fact | None:
    version_text, ends_text, automatic, details = record.split(" ", 3)
    version, ends, (where, ports) = int(version_text), int(ends_text), parse_key(network)
    if not 0 < version < VERSION_MOST:
        return None
    found = cast("dict[str, object]", json.loads(details))
    host = shared(_text(found.get("host"), HOST_MOST))
    if ends == -1:
        return Fact(where, version, None, ports, host)
    end = None if ends == 0 else ends / 1000 - offset
    jail, start = found.get("jail"), _number(found.get("start"))
    if not isinstance(jail, str) or not JAIL_NAME.fullmatch(jail) or start is None:
        return None
    if end is not None and not 0 < end < start + 2 * DURATION_MOST:
        return None
    ban = Ban(
        where,
        shared(jail),
        start,
        end,
        shared(_text(found.get("reason"), REASON_MOST)),
        int(min(max(_number(found.get("failures")) or 0, 0), FAILURES_MOST)),
        _texts(found.get("evidence"), EVIDENCE_MOST),
        _texts(found.get("via"), VIA_MOST),
        automatic == "1",
        version,
        ports,
        host,
    )
    return Fact.of(ban)


def _number(value: object) -> float | None:
    """Give a number that a time or an amount may be."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -TIME_MOST < value < TIME_MOST:
        return None
    return float(value)


def _text(value: object, most: int) -> str:
    text = value[:most] if isinstance(value, str) else ""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _texts(value: object, most: int) -> tuple[str, ...]:
    found = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(_text(item, EVIDENCE_TEXT_MOST) for item in found[:most] if isinstance(item, str))
