"""Our table as messages to the kernel: made, filled, changed, removed and asked about, without a process.

Theory of operation. Only nft understands `table.nft`. So it is asked once to make the table under a name of its own;
what the kernel then says of the sets, chains and rules of that table are the very bytes it takes to make them. From
then on they are sent back, together with the elements, whenever the table is to be made anew (`Template`).

An element is its key and a timeout in milliseconds. A network in a set of intervals is two elements: where it begins,
and where it no longer is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from appguard.address import Network
from appguard.firewalls.netlink import APPEND, CREATE, NESTED, Message, ask, attribute, attributes, number, text

LONGEST = 10 * 365 * 86400.0  # the longest timeout asked for; the kernel refuses much longer ones
HOST_SETS = {"ban4": (4, 32), "ban6": (6, 128), "ban6_64": (6, 64)}  # with version and prefix length of the elements
_SET_OF = {kind: name for name, kind in HOST_SETS.items()}
ELEMENTS_MOST = 700  # in one message, whose attributes hold 64 KiB at most

_NEW_TABLE, _GET_TABLE, _DELETE_TABLE = 0, 1, 2
_NEW_CHAIN, _GET_CHAIN = 3, 4
_NEW_RULE, _GET_RULE = 6, 7
_NEW_SET, _GET_SET = 9, 10
_NEW_ELEMENTS, _GET_ELEMENTS, _DELETE_ELEMENTS, _DESTROY_ELEMENTS = 12, 13, 14, 30
_NEW_OBJECT, _GET_OBJECT = 18, 19

_TABLE = 1  # the attribute that names the table, in everything
_SET_NAME, _SET_ID = 2, 10
_ELEMENTS_SET, _ELEMENTS = 2, 3
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4
_COUNTER, _COUNTER_PACKETS = 1, 2
_KEY, _FLAGS, _TIMEOUT, _INTERVAL_END = 1, 3, 4, 1

# What is told of a thing and also says how to make it; the rest numbers it or counts its uses.
_OBJECT_PARTS = frozenset({_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA})
_SET_PARTS = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18})  # from its name to its expressions
_CHAIN_PARTS = frozenset({3, 4, 5, 7})  # name, hook, policy, type
_RULE_PARTS = frozenset({2, 4, 7})  # chain, expressions, comment


def table_identity(table: str) -> bytes | None:
    """Give bytes that stay the same as long as the table and its rules do, whatever its sets hold; None without it.

    A table made anew has another identity even if it looks alike, since tables are numbered.
    """
    try:
        return b"".join([*ask(_GET_TABLE, text(_TABLE, table)), *ask(_GET_RULE, text(_TABLE, table), many=True)])
    except FileNotFoundError:
        return None


def counted_packets(table: str, counter: str) -> int:
    """Give the packets a named counter has counted; 0 if there is no such counter."""
    question = text(_TABLE, table) + text(_OBJECT_NAME, counter) + number(_OBJECT_TYPE, _COUNTER)
    try:
        answers = ask(_GET_OBJECT, question)
    except FileNotFoundError:
        return 0
    data = dict(attributes(answers[0]))[_OBJECT_DATA]
    return int.from_bytes(dict(attributes(data))[_COUNTER_PACKETS], "big")


def second_table(table: str) -> str:
    """Give the name of the table that shuts out while the first is made anew; one killed then leaves it behind."""
    return f"{table}_second"


def remove_table(table: str) -> list[Message]:
    """Remove a table that may be missing."""
    name = text(_TABLE, table)
    return [Message(_NEW_TABLE, CREATE, name, table), Message(_DELETE_TABLE, 0, name, table)]


@dataclass(frozen=True, slots=True)
class Template:
    """How to make what a table holds when it is new; each message lacks the table's name."""

    messages: tuple[Message, ...]

    @classmethod
    def read(cls, table: str) -> "Template":
        """Learn from a table in the kernel; raise `FileNotFoundError` if it is gone."""
        objects = [_parts(each, _OBJECT_PARTS) for each in _things(_GET_OBJECT, table)]
        sets = list(_things(_GET_SET, table))
        numbered = [_parts(each, _SET_PARTS) + number(_SET_ID, order) for order, each in enumerate(sets, 1)]
        chains = [_parts(each, _CHAIN_PARTS) for each in _things(_GET_CHAIN, table)]
        rules = [_parts(each, _RULE_PARTS) for each in _things(_GET_RULE, table)]
        return cls(
            (
                *(Message(_NEW_OBJECT, CREATE, each) for each in objects),
                *(Message(_NEW_SET, CREATE, each) for each in numbered),
                *(message for each in sets for message in _constants(table, dict(attributes(each))[_SET_NAME])),
                *(Message(_NEW_CHAIN, CREATE, each) for each in chains),
                *(Message(_NEW_RULE, CREATE | APPEND, each) for each in rules),
            )
        )

    def make(self, table: str) -> list[Message]:
        """Make the table in place of whatever has its name."""
        name = text(_TABLE, table)
        made = (Message(each.kind, each.flags, name + each.attributes, table) for each in self.messages)
        return [*remove_table(table), Message(_NEW_TABLE, CREATE, name, table), *made]


def _things(question: int, table: str) -> Iterator[bytes]:
    """Give what the kernel says of each thing of a kind in a table, in order."""
    name = table.encode() + b"\0"
    for answer in ask(question, text(_TABLE, table), many=True):
        if dict(attributes(answer)).get(_TABLE) == name:  # of chains all are told
            yield answer


def _parts(thing: bytes, kept: frozenset[int]) -> bytes:
    return b"".join(attribute(kind, value) for kind, value in attributes(thing) if kind in kept)


def _constants(table: str, name: bytes) -> Iterator[Message]:
    """Give what fills a set that is part of a rule, such as a list of packet types."""
    for answer in ask(_GET_ELEMENTS, text(_TABLE, table) + attribute(_ELEMENTS_SET, name), many=True):
        elements = dict(attributes(answer)).get(_ELEMENTS)
        if elements:
            yield Message(
                _NEW_ELEMENTS, CREATE, attribute(_ELEMENTS_SET, name) + attribute(_ELEMENTS | NESTED, elements)
            )


def set_of(network: Network) -> str | None:
    """Give the name of the set for a host or an IPv6 /64; None for any other network."""
    return _SET_OF.get((network.version, network.prefixlen))


def add_hosts(table: str, ends: Iterable[tuple[Network, float]], now: float) -> Iterator[Message]:
    """Add the hosts and IPv6 /64s among networks, with the end of each."""
    by_set: dict[str | None, list[bytes]] = {name: [] for name in (*HOST_SETS, None)}
    for network, end in ends:  # the fewest calls: there may be a million
        left = end - now
        timeout = int(left * 1000) or 1 if 0 < left < LONGEST else milliseconds(left)
        name = _SET_OF.get((network.version, network.prefixlen))
        by_set[name].append(_timed(network.network_address.packed, timeout))
    for name in HOST_SETS:
        yield from _elements(_NEW_ELEMENTS, table, name, by_set[name])


def remove_hosts(table: str, hosts: Iterable[Network], *, destroy: bool) -> Iterator[Message]:
    """Remove hosts and IPv6 /64s, of which some may be missing.

    Only kernels from 6.3 on have `destroy`; for others a missing one is an error, and so each is added first.
    """
    by_set: dict[str | None, list[bytes]] = {name: [] for name in (*HOST_SETS, None)}
    for host in hosts:
        by_set[set_of(host)].append(_untimed(host.network_address.packed))
    for kind in (_DESTROY_ELEMENTS,) if destroy else (_NEW_ELEMENTS, _DELETE_ELEMENTS):
        for name in HOST_SETS:
            yield from _elements(kind, table, name, by_set[name])


def add_networks(table: str, name: str, networks: Iterable[tuple[Network, float | None]]) -> Iterator[Message]:
    """Add networks, which must not overlap, to a set of intervals; with the seconds left, or None for ever."""
    elements = [element for network, left in networks for element in _interval(network, left)]
    yield from _elements(_NEW_ELEMENTS, table, name, elements)


def flush_set(table: str, name: str) -> Message:
    """Take all elements out of a set."""
    return Message(_DELETE_ELEMENTS, 0, text(_TABLE, table) + text(_ELEMENTS_SET, name), name)


def _elements(kind: int, table: str, name: str, elements: Sequence[bytes]) -> Iterator[Message]:
    where = text(_TABLE, table) + text(_ELEMENTS_SET, name)
    flags = CREATE if kind == _NEW_ELEMENTS else 0
    rest = iter(elements)
    while part := list(islice(rest, ELEMENTS_MOST)):
        yield Message(kind, flags, where + attribute(_ELEMENTS | NESTED, b"".join(part)), name)


def _interval(network: Network, left: float | None) -> Iterator[bytes]:
    key = network.network_address.packed
    yield _untimed(key) if left is None else _timed(key, milliseconds(left))
    after = int(network.network_address) + network.num_addresses
    if after < 1 << network.max_prefixlen:
        yield _element(after.to_bytes(len(key), "big"), number(_FLAGS, _INTERVAL_END))


def _element(key: bytes, more: bytes = b"") -> bytes:
    return attribute(1 | NESTED, attribute(_KEY | NESTED, attribute(1, key)) + more)


# The bytes around key and timeout are the same in all elements; made anew each time they would cost most of a load.
_WITHOUT_TIMEOUT = {size: _element(bytes(size))[:-size] for size in (4, 16)}
_TIMEOUT_MARK = attribute(_TIMEOUT, bytes(8))[:-8]
_WITH_TIMEOUT = {size: _element(bytes(size), attribute(_TIMEOUT, bytes(8)))[: -size - 12] for size in (4, 16)}


def _untimed(key: bytes) -> bytes:
    return _WITHOUT_TIMEOUT[len(key)] + key


def _timed(key: bytes, timeout: int) -> bytes:
    return _WITH_TIMEOUT[len(key)] + key + _TIMEOUT_MARK + timeout.to_bytes(8, "big")


def milliseconds(seconds: float) -> int:
    """Give a timeout: never 0, which means for ever, and not so long that it is refused."""
    return max(1, int(min(seconds, LONGEST) * 1000))
