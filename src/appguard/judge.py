"""The last judge: which bans would cut off this host or its administrator, whoever asks for them.

Never banned, whatever is asked: loopback, link-local, multicast and unspecified addresses; networks wider than a /8
(IPv4) or /16 (IPv6); and what lies inside a network that is always let in (safelist, trusted proxies, this host's own
addresses, gateways, resolvers, hosts of the store), because the firewall lets it in before it looks for bans, or that
another host of the fleet lets in. Banned only when forced: a network that holds one of those (all of it but those is
shut out then), one wider than a /16 (IPv4) or /32 (IPv6), an address an administrator is logged in from, and an IPv6
network of unrelated hosts (on this host's links, NAT64), where single hosts are banned. Nothing here does I/O; the
bouncer keeps the facts fresh.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appguard.address import NAT64, Address, Network, covers, network_text, overlap, parse_network
from appguard.ban import Ban
from appguard.errors import RefusedForSafety
from appguard.host import HostFacts

WIDEST = {4: 16, 6: 32}
WIDEST_FORCED = {4: 8, 6: 16}
_WIDEST_CLEAR = {32: WIDEST[4], 128: WIDEST[6]}  # by the bits of an address

Protected = Sequence[tuple[Network, str]]  # networks, each with what it is
_Learnt = tuple[HostFacts, Sequence[Address], Protected, Protected]


@dataclass(frozen=True, slots=True)
class _Known:
    """A network and what it is, as a refusal says it."""

    network: Network
    what: str


_SPECIAL = tuple(
    _Known(parse_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "the unspecified address"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::", "the unspecified address"),
        ("::1", "loopback"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)


@dataclass(slots=True)
class Protections:
    """What is let in beside settings and facts, and what other hosts of the fleet let in; judges share it.

    They take what is new in it with their next `update`.
    """

    let_in: Protected = ()
    others: Protected = ()


class Judge:
    """Says which bans are refused. `facts` and administrators may be given later, with `update`."""

    def __init__(
        self,
        facts: HostFacts | None = None,
        *,
        safelist: Iterable[Network] = (),
        proxies: Iterable[Network] = (),
        protections: Protections | None = None,
    ) -> None:
        self._protections = protections or Protections()
        self._configured = (
            *(_Known(network, "on the safelist") for network in safelist),
            *(_Known(network, "a trusted proxy") for network in proxies),
        )
        self._learnt = self._to_learn(facts or HostFacts(), ())
        self._learn(*self._learnt)

    def _to_learn(self, facts: HostFacts, administrators: Sequence[Address]) -> _Learnt:
        return facts, tuple(administrators), self._protections.let_in, self._protections.others

    def _learn(self, facts: HostFacts, administrators: Sequence[Address], let_in: Protected, others: Protected) -> None:
        self._others = tuple(_Known(network, what) for network, what in others)
        self._let_in = (
            *self._configured,
            *(_Known(network, what) for network, what in let_in),
            *(_Known(network, "an address of this host") for network in facts.own),
            *(_Known(parse_network(address.text), "a gateway of this host") for address in facts.gateways),
            *(_Known(parse_network(address.text), "a resolver of this host") for address in facts.resolvers),
            *(_Known(parse_network(address.text), "a host of the store") for address in facts.stores),
        )
        self._sessions = tuple(
            _Known(parse_network(address.text), "where an administrator is logged in from")
            for address in administrators
        )
        self._crowds = tuple(
            _Known(network, what)
            for networks, what in ((NAT64, "shared by hosts behind NAT64"), (facts.on_link, "on a link of this host"))
            for network in networks
            if network.version == 6
        )
        known = (*_SPECIAL, *self._let_in, *self._others, *self._sessions, *self._crowds)
        self._ranges = {
            bits: _Ranges(each.network for each in known if each.network.max_prefixlen == bits) for bits in (32, 128)
        }

    def update(self, facts: HostFacts, administrators: Sequence[Address] = ()) -> bool:
        """Take fresh facts, the addresses administrators are logged in from, and the protections.

        Say whether anything changed.
        """
        learnt = self._to_learn(facts, administrators)
        if learnt == self._learnt:
            return False
        self._learnt = learnt
        self._learn(*learnt)
        return True

    @property
    def let_in(self) -> tuple[Network, ...]:
        """Give the networks a firewall must let in before it looks for bans."""
        return tuple(known.network for known in self._let_in)

    def check(self, ban: Ban, *, force: bool = False) -> None:
        """Raise `RefusedForSafety` if the ban must not be enforced; `force` is a person's word, given on this host."""
        self.check_network(ban.network, force=force)

    def check_network(self, network: Network, *, force: bool = False) -> None:
        """Do so if no ban of this network must be enforced."""
        if self.clears(network.network_address.packed, network.prefixlen):
            return
        _check_width(network, force=force)
        self._check_never(network)
        if not force:
            self._check_unless_forced(network)

    def clears(self, packed: bytes, prefixlen: int) -> bool:
        """Say at once that nothing stands against a ban, forced or not; if something may, `check_network` says what.

        The network is given as a `Block` has it.
        """
        bits = 8 * len(packed)
        if prefixlen == bits:  # as most are
            return not self._ranges[bits].touch(packed, packed)
        return prefixlen >= _WIDEST_CLEAR[bits] and not self._ranges[bits].touch(packed, _last(packed, prefixlen))

    def _check_never(self, network: Network) -> None:
        for known in _SPECIAL:
            if overlap(network, known.network):
                raise RefusedForSafety(f"{_told(network, known)}; it is never banned")
        for known in self._let_in:
            if covers(known.network, network):
                raise RefusedForSafety(
                    f"{_told(network, known)}; that is always let in, so a ban would do nothing"
                    " (settings: safelist, trusted_proxies)"
                )
        for known in self._others:
            if covers(known.network, network):
                raise RefusedForSafety(f"{_told(network, known)}; no host of the fleet bans it")

    def _check_unless_forced(self, network: Network) -> None:
        for known in (*self._let_in, *self._others, *self._sessions):
            if overlap(network, known.network):
                raise RefusedForSafety(f"{_told(network, known)}; ban narrower networks, or use --force")
        for known in () if network.prefixlen == network.max_prefixlen else self._crowds:
            if overlap(network, known.network):
                raise RefusedForSafety(f"{_told(network, known)}; ban single hosts there, or use --force")


def _check_width(network: Network, *, force: bool) -> None:
    widest = (WIDEST_FORCED if force else WIDEST)[network.version]
    if network.prefixlen < widest:
        way = "ban narrower networks" if force else "ban narrower networks, or use --force"
        raise RefusedForSafety(f"{network} is wider than a /{widest}; {way}")


def _told(network: Network, known: _Known) -> str:
    name = network_text(network)
    if network == known.network:
        return f"{name} is {known.what}"
    relation = "lies in" if covers(known.network, network) else "holds"
    return f"{name} {relation} {network_text(known.network)}, which is {known.what}"


def _last(first: bytes, prefixlen: int) -> bytes:
    """Give the last address of a network; a network's own `broadcast_address` takes a lock and many times as long."""
    bits = 8 * len(first)
    return (int.from_bytes(first) | (1 << bits - prefixlen) - 1).to_bytes(bits // 8)


class _Ranges:
    """Networks of one version as ranges of packed addresses that do not touch, in order."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._firsts: list[bytes] = []
        self._lasts: list[bytes] = []
        for first, prefixlen in sorted((each.network_address.packed, each.prefixlen) for each in networks):
            if self._lasts and first <= self._lasts[-1]:  # of two networks that touch one lies in the other
                continue
            self._firsts.append(first)
            self._lasts.append(_last(first, prefixlen))

    def touch(self, first: bytes, last: bytes) -> bool:
        """Say whether an address from the first to the last is in any."""
        at = bisect_right(self._firsts, last)
        return at > 0 and self._lasts[at - 1] >= first
