"""Our table as messages to the kernel: made, filled, changed, removed and asked about, without a process.

Theory of operation. Only nft understands `table.nft`. So it is asked once to make the table under a name of its own;
what the kernel then says of the sets, chains and rules of that table are the very bytes it takes to make them. From
then on they are sent back, together with the elements, whenever the table is to be made anew (`Template`).

An element is its key, a timeout in milliseconds and the name of the counter of its jail. A network in a set of
intervals is two elements: where it begins, and where it no longer is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from appguard.address import Network
from appguard.firewalls.base import Block
from appguard.firewalls.netlink import APPEND, CREATE, NESTED, Message, ask, attribute, attributes, number, text
from appguard.firewalls.nft_ports import HOST_SETS, PortLists

LONGEST = 10 * 365 * 86400.0  # the longest timeout asked for; the kernel refuses much longer ones
_SET_OF = {(4 if version == 4 else 16, length): name for name, (version, length) in HOST_SETS.items()}  # by bytes
Kind = tuple[int, int, str, str]  # of elements: the bytes of an address, the prefix length, ports and jail
NO_JAIL = "dropped"  # the counter of a block without one
ELEMENTS_MOST = 500  # in one message, whose attributes hold 64 KiB at most

_NEW_TABLE, _GET_TABLE, _DELETE_TABLE = 0, 1, 2
_NEW_CHAIN, _GET_CHAIN = 3, 4
_NEW_RULE, _GET_RULE = 6, 7
_NEW_SET, _GET_SET = 9, 10
_NEW_ELEMENTS, _GET_ELEMENTS, _DELETE_ELEMENTS, _DESTROY_ELEMENTS = 12, 13, 14, 30
_NEW_OBJECT, _GET_OBJECT = 18, 19

TAKEN_OUT = frozenset({_DELETE_ELEMENTS, _DESTROY_ELEMENTS})

_TABLE = 1  # the attribute that names the table, in everything
_SET_NAME, _SET_ID = 2, 10
_ELEMENTS_SET, _ELEMENTS = 2, 3
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4
_COUNTER, _COUNTER_BYTES, _COUNTER_PACKETS = 1, 1, 2
_KEY, _FLAGS, _TIMEOUT, _OBJECT_REF, _INTERVAL_END = 1, 3, 4, 9, 1
_JAIL = "jail_"
_TABLE_HANDLE = 4

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
        found = ask(_GET_TABLE, text(_TABLE, table))
        handle = dict(attributes(found[0]))[_TABLE_HANDLE]  # the rest counts what the table has, which a ban may change
        return handle + b"".join(ask(_GET_RULE, text(_TABLE, table), many=True))
    except FileNotFoundError:
        return None


def counter_of(jail: str) -> str:
    """Give the name of the counter of a jail."""
    return f"{_JAIL}{jail}" if jail else NO_JAIL


def add_counter(table: str, name: str) -> Message:
    """Add a counter that may be there."""
    named = text(_TABLE, table) + text(_OBJECT_NAME, name) + number(_OBJECT_TYPE, _COUNTER)
    return Message(_NEW_OBJECT, CREATE, named + attribute(_OBJECT_DATA | NESTED, b""), name)


def counters(table: str) -> dict[str, tuple[int, int]]:
    """Give the packets and bytes that each counter of a table has counted, by its name; nothing without a table."""
    found: dict[str, tuple[int, int]] = {}
    for answer in _things(_GET_OBJECT, table):
        parts = dict(attributes(answer))
        name = parts[_OBJECT_NAME].rstrip(b"\0").decode(errors="replace")
        data = {kind: int.from_bytes(value, "big") for kind, value in attributes(parts[_OBJECT_DATA])}
        found[name] = data[_COUNTER_PACKETS], data[_COUNTER_BYTES]
    return found


def jail_of(counter: str) -> str | None:
    """Give the jail that a counter counts for, empty for what has none; None for a counter of something else."""
    return "" if counter == NO_JAIL else counter.removeprefix(_JAIL) if counter.startswith(_JAIL) else None


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
        return [*remove_table(table), Message(_NEW_TABLE, CREATE, text(_TABLE, table), table), *self.add(table)]

    def add(self, table: str) -> list[Message]:
        """Make it in a table that is there."""
        name = text(_TABLE, table)
        return [Message(each.kind, each.flags, name + each.attributes, table) for each in self.messages]


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


def taken_out(table: str, told: bytes) -> Iterator[tuple[str, bytes]]:
    """Give the set and the key of each element of a table that a message of `TAKEN_OUT` is about."""
    parts = dict(attributes(told))
    if parts.get(_TABLE) == table.encode() + b"\0":
        name = parts[_ELEMENTS_SET].rstrip(b"\0").decode(errors="replace")
        yield from ((name, key) for key in _keys(parts))


def has_element(table: str, name: str, key: bytes) -> bool:
    """Say whether a set that is no set of intervals has an element now."""
    question = text(_TABLE, table) + text(_ELEMENTS_SET, name)
    try:
        return bool(ask(_GET_ELEMENTS, question + attribute(_ELEMENTS | NESTED, _element(key))))
    except FileNotFoundError:
        return False


def first_keys(table: str, name: str) -> set[bytes]:
    """Give where each interval in a set of them begins, such as a network, and where none is any more."""
    try:
        answers = ask(_GET_ELEMENTS, text(_TABLE, table) + text(_ELEMENTS_SET, name), many=True)
    except FileNotFoundError:
        return set()
    return {key for answer in answers for key in _keys(dict(attributes(answer)))}


def _keys(parts: Mapping[int, bytes]) -> Iterator[bytes]:
    for _, element in attributes(parts.get(_ELEMENTS, b"")):
        key = dict(attributes(element)).get(_KEY)
        if key is not None:
            yield dict(attributes(key))[1]


def set_of(block: Block) -> str:
    """Give the name of the set for a host or an IPv6 /64 of all ports."""
    return _SET_OF[len(block.packed), block.prefixlen]


def by_kind(blocks: Iterable[Block], now: float) -> dict[Kind, list[bytes]]:
    """Give what tells the elements of blocks, which have ends, from others of their kind."""
    found: defaultdict[Kind, list[bytes]] = defaultdict(list)
    for _, packed, prefixlen, end, ports, jail in blocks:  # the fewest calls: there may be a million
        left = 0.0 if end is None else end - now
        timeout = int(left * 1000) or 1 if 0 < left < LONGEST else milliseconds(left)
        found[len(packed), prefixlen, ports, jail].append(packed + _TIMEOUT_MARK + timeout.to_bytes(8, "big"))
    return found


def add_hosts(table: str, kinds: Mapping[Kind, Sequence[bytes]], lists: PortLists) -> Iterator[Message]:
    """Add the hosts and IPv6 /64s among what `by_kind` gives."""
    for (size, prefixlen, ports, jail), elements in kinds.items():
        name = _SET_OF.get((size, prefixlen))
        if name is not None:
            around = _around(size, counter_of(jail), is_timed=True)
            yield from _elements(_NEW_ELEMENTS, table, name + lists.ending(ports), elements, around)


def remove_hosts(table: str, blocks: Iterable[Block], lists: PortLists, *, destroy: bool) -> Iterator[Message]:
    """Remove hosts and IPv6 /64s, of which some may be missing.

    Only kernels from 6.3 on have `destroy`; for others a missing one is an error, and so each is added first, which
    needs the counter that it has if it is there.
    """
    by_set: dict[str, list[bytes]] = {}
    for block in blocks:
        name = set_of(block) + lists.ending(block.ports)
        counter = "" if destroy else counter_of(block.jail)
        before, after = _around(len(block.packed), counter, is_timed=False)
        by_set.setdefault(name, []).append(before + block.packed + after)
    for kind in (_DESTROY_ELEMENTS,) if destroy else (_NEW_ELEMENTS, _DELETE_ELEMENTS):
        for name, elements in by_set.items():
            yield from _elements(kind, table, name, elements)


def allow_networks(table: str, name: str, networks: Iterable[Network]) -> Iterator[Message]:
    """Add networks, which must not overlap, to a set of intervals, for ever."""
    elements = [element for network in networks for element in _interval(network, _untimed(network))]
    yield from _elements(_NEW_ELEMENTS, table, name, elements)


def ban_networks(table: str, name: str, pieces: Iterable[tuple[Network, float, str]]) -> Iterator[Message]:
    """Add networks, which must not overlap, to a map of intervals; each with the seconds left and its jail."""
    elements = [
        element
        for network, left, jail in pieces
        for element in _interval(network, _timed(network, milliseconds(left), counter_of(jail)))
    ]
    yield from _elements(_NEW_ELEMENTS, table, name, elements)


def flush_set(table: str, name: str) -> Message:
    """Take all elements out of a set."""
    return Message(_DELETE_ELEMENTS, 0, text(_TABLE, table) + text(_ELEMENTS_SET, name), name)


def _elements(
    kind: int, table: str, name: str, elements: Sequence[bytes], around: tuple[bytes, bytes] = (b"", b"")
) -> Iterator[Message]:
    """Change elements, before and after each of which some bytes are the same."""
    before, after = around
    where = text(_TABLE, table) + text(_ELEMENTS_SET, name)
    flags = CREATE if kind == _NEW_ELEMENTS else 0
    rest = iter(elements)
    while part := list(islice(rest, ELEMENTS_MOST)):
        listed = before + (after + before).join(part) + after
        yield Message(kind, flags, where + attribute(_ELEMENTS | NESTED, listed), name)


def _interval(network: Network, first: bytes) -> Iterator[bytes]:
    """Give the element a network begins with, and where it no longer is."""
    yield first
    after = int(network.network_address) + network.num_addresses
    if after < 1 << network.max_prefixlen:
        yield _element(after.to_bytes(network.max_prefixlen // 8, "big"), number(_FLAGS, _INTERVAL_END))


def _element(key: bytes, more: bytes = b"") -> bytes:
    return attribute(1 | NESTED, attribute(_KEY | NESTED, attribute(1, key)) + more)


_TIMEOUT_MARK = attribute(_TIMEOUT, bytes(8))[:-8]


@lru_cache(maxsize=1024)
def _around(size: int, counter: str, *, is_timed: bool) -> tuple[bytes, bytes]:
    """Give the bytes before the key of an element, and those after its key or timeout.

    They are the same in all elements of a jail; made anew each time they would cost most of a load.
    """
    after = text(_OBJECT_REF, counter) if counter else b""
    whole = _element(bytes(size), (_TIMEOUT_MARK + bytes(8) if is_timed else b"") + after)
    return whole[: len(whole) - len(after) - size - (12 if is_timed else 0)], after


def _untimed(network: Network) -> bytes:
    before, after = _around(network.max_prefixlen // 8, "", is_timed=False)
    return before + network.network_address.packed + after


def _timed(network: Network, timeout: int, counter: str) -> bytes:
    before, after = _around(network.max_prefixlen // 8, counter, is_timed=True)
    return before + network.network_address.packed + _TIMEOUT_MARK + timeout.to_bytes(8, "big") + after


def milliseconds(seconds: float) -> int:
    """Give a timeout: never 0, which means for ever, and not so long that it is refused."""
    return max(1, int(min(seconds, LONGEST) * 1000))
