"""Asks the kernel about one nf_tables table over netlink. It only asks: changes go through `nft`.

`nft` reads every element of every set before it answers anything about a table, a second and more with 200,000 bans.
These two questions cost some 50 microseconds whatever is in the sets. Numbers are those of the kernel's
linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h; lengths and attribute types are in the
machine's byte order, the values of attributes in the network's.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from appguard.errors import FirewallError, FirewallPermissionError

NEEDS_CAPABILITY = "changing the firewall needs CAP_NET_ADMIN (in a systemd unit: AmbientCapabilities=CAP_NET_ADMIN)"

_NETLINK_NETFILTER = 12
_NF_TABLES = 10 << 8
_GET_TABLE = _NF_TABLES | 1
_GET_RULE = _NF_TABLES | 7
_GET_OBJECT = _NF_TABLES | 19
_REQUEST = 1
_DUMP = 0x300
_ERROR = 2
_DONE = 3
_INET = 1
_TABLE = 1  # the attribute that names the table, in all three questions
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4
_COUNTER = 1
_COUNTER_PACKETS = 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_LONGEST = 65536
_PATIENCE = 5.0  # seconds; the kernel answers while it is asked


def table_identity(table: str) -> bytes | None:
    """Give bytes that stay the same as long as the table and its rules do, whatever its sets hold; None without it.

    A table made anew has another identity even if it looks alike, since tables are numbered.
    """
    try:
        found = _ask(_GET_TABLE, 0, _text(_TABLE, table))
        return b"".join([*found, *_ask(_GET_RULE, _DUMP, _text(_TABLE, table))])
    except FileNotFoundError:
        return None


def counted_packets(table: str, counter: str) -> int:
    """Give the packets a named counter has counted; 0 if there is no such counter."""
    question = _text(_TABLE, table) + _text(_OBJECT_NAME, counter) + _number(_OBJECT_TYPE, _COUNTER)
    try:
        answers = _ask(_GET_OBJECT, 0, question)
    except FileNotFoundError:
        return 0
    data = dict(_attributes(answers[0]))[_OBJECT_DATA]
    return int.from_bytes(dict(_attributes(data))[_COUNTER_PACKETS], "big")


def _ask(question: int, flags: int, attributes: bytes) -> list[bytes]:
    """Ask, and give the attributes of every answer; raise `FileNotFoundError` for what is not there."""
    length = _HEADER.size + _FAMILY.size + len(attributes)
    message = _HEADER.pack(length, question, _REQUEST | flags, 1, 0) + _FAMILY.pack(_INET, 0, 0) + attributes
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
            link.settimeout(_PATIENCE)
            link.sendto(message, (0, 0))
            return list(_answers(link, many=bool(flags & _DUMP)))
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise FirewallPermissionError(f"{NEEDS_CAPABILITY}: {error.strerror}") from error
    except OSError as error:
        raise FirewallError(f"nf_tables does not answer: {error}") from error


def _answers(link: socket.socket, *, many: bool) -> Iterator[bytes]:
    while True:
        for kind, body in _messages(link.recv(_LONGEST)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, os.strerror(code))
            yield body[_FAMILY.size :]
            if not many:
                return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]  # without the bits for nesting and byte order
        data = data[_aligned(length) :]


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("!I", number))


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
