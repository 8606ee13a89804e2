"""Speaks to the kernel's nf_tables over netlink: questions, and changes of which either all happen or none.

Theory of operation. A message is a header, the family, and attributes: length, type, value, and values may be
attributes again. Changes travel in a batch between two marks and are one transaction. The kernel works while it is
being sent to, so its answers wait when the sending returns; it tells of each message that failed, and of the last
message, which alone asks for it, also if it did not. One without CAP_NET_ADMIN is refused at the first mark, and
nothing else is answered. A batch must fit the socket's send buffer; only CAP_NET_ADMIN outside any user namespace may
make that as large as it likes, so what is larger than `room()` goes in several batches.

Numbers are those of the kernel's linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h; lengths
and attribute types are in the machine's byte order, the values of attributes in the network's.

A socket lives as long as one question or batch, which leaves nothing to keep over forks and failures, except on a
thread that says it is `keeping` one. For after something was removed, closing a socket waits until no processor can see
that any more: 10 milliseconds and more, in which nobody can change anything.
"""

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from appguard.errors import FirewallError, FirewallPermissionError

NEEDS_CAPABILITY = "changing the firewall needs CAP_NET_ADMIN (in a systemd unit: AmbientCapabilities=CAP_NET_ADMIN)"
CREATE, APPEND = 0x400, 0x800
NESTED = 0x8000
SMALL = 65536  # bytes of a batch that fits any send buffer
TYPE_MASK = 0x3FFF  # an attribute's type without the bits for nesting and byte order

_NETLINK_NETFILTER = 12
_NF_TABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_DUMP_INTERRUPTED = 0x10
_ERROR, _DONE = 2, 3
_INET = 1
_CHANGES = 7  # the multicast group
_SOL_NETLINK, _JOIN, _LEAVE, _CAP_ACK = 270, 1, 2, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_LONGEST = 65536
_PATIENCE = 5.0  # seconds; the kernel answers while it is asked
SEND_BUFFER = HEARD_BUFFER = 4 << 20
_SPARE = 4096  # of the send buffer: the two marks, and what the kernel counts besides
_ATTEMPTS = 5  # at a listing that changes under our eyes


@dataclass(frozen=True, slots=True)
class Message:
    """One change: its number in nf_tables, its flags, its attributes, and what an error says it is about."""

    kind: int
    flags: int
    attributes: bytes
    about: str = ""


class SetFullError(FirewallError):
    """A set takes no more elements; `name` is its name."""

    def __init__(self, said: str, name: str) -> None:
        super().__init__(said)
        self.name = name


class _RefusedError(Exception):
    """The kernel refused the message with this number."""

    def __init__(self, code: int, sequence: int) -> None:
        super().__init__(code, sequence)
        self.code = code
        self.sequence = sequence


class _Kept(threading.local):
    """The socket a thread keeps, and whether it keeps one."""

    link: socket.socket | None = None
    is_keeping = False


_kept = _Kept()


@contextmanager
def keeping() -> Generator[None]:
    """Keep one socket for all questions and batches of this thread, which must stay in its network namespace."""
    before, _kept.is_keeping = _kept.is_keeping, True
    try:
        yield
    finally:
        _kept.is_keeping = before
        if _kept.link is not None and not before:
            _kept.link.close()
            _kept.link = None


@contextmanager
def _link() -> Generator[socket.socket]:
    """Give a socket; one with which something went wrong is not kept."""
    link, _kept.link = _kept.link, None
    if link is None:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        link.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)  # errors without a copy of what they are about
    is_well = False
    try:
        yield link
        is_well = True
    except _RefusedError:
        link.setblocking(False)
        hear(link, ())  # what it says of other messages
        is_well = True
        raise
    finally:
        if is_well and _kept.is_keeping:
            _kept.link = link
        else:
            link.close()


def ask(question: int, attributes: bytes, *, many: bool = False) -> list[bytes]:
    """Ask, and give the attributes of every answer; raise `FileNotFoundError` for what is not there, and our errors."""
    flags = _REQUEST | (_DUMP if many else 0)
    try:
        for _ in range(_ATTEMPTS):
            with _link() as link:
                link.settimeout(_PATIENCE)
                link.sendto(_message(Message(question, flags, attributes), 1), (0, 0))
                answers = _answers(link, many=many)
            if answers is not None:
                return answers
    except _RefusedError as error:
        if error.code == errno.ENOENT:  # not kept in a name: that would keep all callers' frames, and what they hold
            raise FileNotFoundError(error.code, os.strerror(error.code)) from error
        raise _error(OSError(error.code, os.strerror(error.code))) from error
    except OSError as error:
        raise _error(error) from error
    raise FirewallError("nf_tables: what was asked for changes all the time")


def listen() -> socket.socket:
    """Give a socket that has something to read after every change of nf_tables, whoever made it."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
    try:
        _set_first(link, (_SO_RCVBUFFORCE, socket.SO_RCVBUF), HEARD_BUFFER)
        link.bind((0, 1 << _CHANGES - 1))
    except OSError:
        link.close()
        raise
    return link


def listen_again(link: socket.socket) -> None:
    """Undo `listen_not`; raise `OSError`."""
    link.setsockopt(_SOL_NETLINK, _JOIN, _CHANGES)


def listen_not(link: socket.socket) -> None:
    """Have such a socket told of no change any more; what it was told waits to be read. Raise `OSError`."""
    link.setsockopt(_SOL_NETLINK, _LEAVE, _CHANGES)


def hear(link: socket.socket, wanted: Collection[int], most: int = sys.maxsize) -> tuple[list[bytes], bool]:
    """Read what waits on such a socket: the attributes of the wanted messages, and whether none were lost.

    There may be more where it was `most` datagrams.
    """
    kinds = frozenset(_NF_TABLES << 8 | kind for kind in wanted)
    found: list[bytes] = []
    is_whole = True
    for _ in range(most):
        try:
            told = link.recv(_LONGEST)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            is_whole = False  # more happened than it had room for
            continue
        found += [body[_FAMILY.size :] for kind, _, _, body in messages(told) if kind in kinds]
    return found, is_whole


def room() -> int:
    """Give how many bytes of messages one batch may have."""
    with _link() as link:
        return _enlarge(link) - _SPARE


def commit(messages: Sequence[Message]) -> None:
    """Have all changes made in one transaction, or none and an error raised."""
    if not messages:
        return
    *first, last = (_message(message, sequence) for sequence, message in enumerate(messages, 1))
    batch = b"".join((_mark(_BATCH_BEGIN), *first, _with_ack(last), _mark(_BATCH_END)))
    try:
        with _link() as link:
            link.settimeout(None)
            if len(batch) > SMALL:
                _enlarge(link)
            link.sendto(batch, (0, 0))
            _confirm(link, len(messages))
    except _RefusedError as error:
        about = messages[error.sequence - 1].about if error.sequence else ""  # 0: the mark at the beginning
        raise _error(OSError(error.code, os.strerror(error.code)), about) from error
    except OSError as error:
        raise _error(error) from error


def _enlarge(link: socket.socket) -> int:
    """Make the send buffer large, as far as we may; give its size."""
    _set_first(link, (_SO_SNDBUFFORCE, socket.SO_SNDBUF), SEND_BUFFER)
    return link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _set_first(link: socket.socket, options: Iterable[int], size: int) -> None:
    """Set the first option that we may set."""
    for option in options:
        try:
            link.setsockopt(socket.SOL_SOCKET, option, size)
        except PermissionError:
            continue
        return


def _confirm(link: socket.socket, last: int) -> None:
    """Read what the kernel says to a batch until it has spoken of the last message or of a failure."""
    while True:
        data = link.recv(_LONGEST, socket.MSG_DONTWAIT)
        for kind, _, sequence, body in messages(data):
            if kind != _ERROR:
                continue
            if code := code_of(body):
                raise _RefusedError(code, sequence)
            if sequence == last:
                return


def _answers(link: socket.socket, *, many: bool) -> list[bytes] | None:
    """Read answers to their end; give None if the tables were changed meanwhile, so that some may be missing."""
    found: list[bytes] = []
    interrupted = 0
    while True:
        for kind, flags, _, body in messages(link.recv(_LONGEST)):
            interrupted |= flags & _DUMP_INTERRUPTED if many else 0
            if kind == _ERROR and (code := code_of(body)):
                raise _RefusedError(code, 0)
            if kind in (_ERROR, _DONE):
                return None if interrupted else found
            found.append(body[_FAMILY.size :])
            if not many:
                return found


def code_of(body: bytes) -> int:
    """Give the number of the error that the body of an error message tells of, 0 for none; raise `OSError`."""
    if len(body) < _CODE.size:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    return -int(_CODE.unpack_from(body)[0])


def _error(error: OSError, about: str = "") -> FirewallError:
    said = f"nf_tables: {about}: {error.strerror or error}" if about else f"nf_tables: {error.strerror or error}"
    match error.errno:
        case errno.EPERM:
            return FirewallPermissionError(f"{NEEDS_CAPABILITY}; {said}")
        case errno.ENFILE | errno.ENOSPC:
            return SetFullError(f"nf_tables: {about} is full: {error.strerror}", about)
        case errno.ENOENT:
            return FirewallError(f"{said}: the table or an element of it is not there")
        case errno.EEXIST:
            return FirewallError(f"{said}: what is there already overlaps")
        case errno.EMSGSIZE:
            return FirewallError(f"{said}: raise net.core.wmem_max, or run with CAP_NET_ADMIN outside a user namespace")
        case errno.EAGAIN:
            return FirewallError("nf_tables does not answer")
        case _:
            return FirewallError(said)


def _message(message: Message, sequence: int) -> bytes:
    length = _HEADER.size + _FAMILY.size + len(message.attributes)
    kind = _NF_TABLES << 8 | message.kind
    header = _HEADER.pack(length, kind, _REQUEST | message.flags, sequence, 0)
    return header + _FAMILY.pack(_INET, 0, 0) + message.attributes


def _with_ack(packed: bytes) -> bytes:
    length, kind, flags, sequence, port = _HEADER.unpack_from(packed)
    return _HEADER.pack(length, kind, flags | _ACK, sequence, port) + packed[_HEADER.size :]


def _mark(kind: int) -> bytes:
    return _HEADER.pack(_HEADER.size + _FAMILY.size, kind, _REQUEST, 0, 0) + _FAMILY.pack(0, 0, _NF_TABLES)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Give the kind, flags, sequence number and body of each message; raise `OSError` for what is none."""
    while data:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
        if not _HEADER.size <= length <= len(data):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind, flags, sequence, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the attributes in some bytes, each with its type and value."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def attribute(kind: int, value: bytes) -> bytes:
    """Make an attribute; `kind` with `NESTED` if its value is attributes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (_aligned(length) - length)


def text(kind: int, value: str) -> bytes:
    """Make an attribute of a text."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Make an attribute of a number of 32 bits."""
    return attribute(kind, struct.pack("!I", value))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
