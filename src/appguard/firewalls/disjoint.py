"""Cuts overlapping networks into pieces that do not overlap, for sets of intervals, which take no others.

Every address keeps the latest end of all networks that hold it. So where a /16 ends before a /24 inside it, the
pieces are the /24 and what is left of the /16 around it, and nothing has to be done when the /16 ends.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from appguard.address import Network, covers

End = TypeVar("End", float, tuple[float, str])  # the later one wins; with it may come whose it is


def disjoint(ends: Mapping[Network, End]) -> Iterator[tuple[Network, End]]:
    """Give the pieces, each with its end."""
    for outermost, inside in _families(ends):
        yield from _pieces(outermost, inside, ends[outermost], ends)


def _families(networks: Iterable[Network]) -> Iterator[tuple[Network, Sequence[Network]]]:
    """Give each network that lies in no other, with those inside it; widest first, then by address."""
    outermost: Network | None = None
    inside: list[Network] = []
    for network in sorted(networks, key=lambda one: (one.version, int(one.network_address), one.prefixlen)):
        if outermost is not None and covers(outermost, network):
            inside.append(network)
            continue
        if outermost is not None:
            yield outermost, inside
        outermost, inside = network, []
    if outermost is not None:
        yield outermost, inside


def _pieces(
    network: Network, inside: Sequence[Network], end: End, ends: Mapping[Network, End]
) -> Iterator[tuple[Network, End]]:
    """Cut one network, held until `end`, into halves as long as something inside it ends later."""
    if inside and inside[0] == network:
        end = max(end, ends[network])
    later = [one for one in inside if ends[one] > end]
    if not later:
        yield network, end
        return
    for half in network.subnets():
        yield from _pieces(half, [one for one in later if covers(half, one)], end, ends)
