"""Ban: who is shut out, by which jail, from when to when and why; and the rule by which two facts about it merge.

A ban is a versioned fact. Of two facts about the same network the one with the higher version wins, whoever tells it
and in whatever order they arrive. What a person says (ban, unban) always takes a new version; an automatic ban only
ever extends. Nothing here reads a clock: times are Unix seconds and arguments.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b

from appguard.address import Address, Network, NetworkMap, network_text, parse_network
from appguard.errors import ConfigError
from appguard.ports import is_web, key_of

PERMANENT = -1
JAIL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(mo|ms|s|m|h|d|w|y)?\s*")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 2_592_000, "y": 31_536_000}
DURATION_MOST = 100 * _UNITS["y"]
REASON_MOST = 256
EVIDENCE_MOST = 10
HOST_MOST = 64  # characters of the name of a host
EVIDENCE_TEXT_MOST = 256  # characters of a line kept as evidence: strangers choose how long lines are

Kind = tuple[str, tuple[str, ...], str]  # what many bans have in common: jail, via and ports


@lru_cache(maxsize=4096)
def shared(text: str) -> str:
    """Give one text for all that are equal: many bans say the same, and each copy would take some seventy bytes."""
    return text


def parse_duration(value: object, what: str = "duration") -> float:
    """Read seconds from `"10m"`, `"1d12h"`, a number of seconds, or -1 for ever; raise `ConfigError`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value == PERMANENT or 0 < value <= DURATION_MOST:
            return value
    elif isinstance(value, str):
        if value.strip() in ("-1", "permanent"):
            return PERMANENT
        parts = list(_DURATION.finditer(text := value.strip()))
        seconds = sum(float(part[1]) * _UNITS[part[2] or "s"] for part in parts)
        if 0 < seconds <= DURATION_MOST and "".join(part[0] for part in parts) == text:
            return seconds
    raise ConfigError(f"{what} = {value!r}: expected a duration such as 600, '10m', '1d12h', or -1 for ever")


@dataclass(frozen=True, slots=True)
class Ban:
    """One network shut out by one jail from `start` to `end` (None: for ever), in Unix seconds.

    `automatic` tells a jail's decision from a person's. `version` is given by the ban set. `failures` and `evidence`
    say what led to it; `via` the proxies the attacker came through. `ports` is the canonical text of the ports it is
    about, empty for all (`ports.py`). `host` is where it was decided.
    """

    network: Network
    jail: str
    start: float
    end: float | None
    reason: str = ""
    failures: int = 0
    evidence: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    automatic: bool = False
    version: int = 0
    ports: str = ""
    host: str = field(default="", compare=False)
    where: str = field(init=False, repr=False, compare=False)  # the canonical text of the network
    key: str = field(init=False, repr=False, compare=False)  # the same, and the ports: what the ban is known by

    def __post_init__(self) -> None:
        """Write the key once: it is asked for again and again."""
        where = network_text(self.network)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "key", key_of(where, self.ports) if self.ports else where)

    @classmethod
    def of(
        cls,
        address: str,
        *,
        jail: str = "manual",
        bantime: object = 600,
        start: float = 0.0,
        reason: str = "",
    ) -> "Ban":
        """Make a ban from texts; `start` 0 means from when a ban set takes it.

        Raise `AddressError` or `ConfigError`.
        """
        seconds = parse_duration(bantime, "bantime")
        if not JAIL_NAME.fullmatch(jail):
            raise ConfigError(f"jail = {jail!r}: expected 1 to 64 letters, digits, '-', '_', '.'")
        end = None if seconds == PERMANENT else start + seconds
        return cls(parse_network(address), jail, start, end, reason[:REASON_MOST])

    @property
    def ref(self) -> str:
        """Give the short reference a shut-out person can quote: the same for the same network and version."""
        digest = blake2b(f"{self.where} {self.version}".encode(), digest_size=5).digest()
        return base64.b32encode(digest).decode()

    @property
    def kind(self) -> Kind:
        """Give what is the same in most bans."""
        return self.jail, self.via, self.ports

    @property
    def brief(self) -> "Brief":
        """Give what a firewall must know of the ban."""
        return self.key, self.jail, self.end

    def in_force(self, now: float) -> bool:
        """Say whether the ban has not ended."""
        return self.end is None or self.end > now

    def starting(self, now: float) -> "Ban":
        """Give this ban with its start set: a ban made without one starts now and lasts as long."""
        if self.start:
            return self
        return replace(self, start=now, end=None if self.end is None else now + self.end)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of one network, and of some of its ports alone or of all, since `version`: banned, or lifted (None).

    `ports` are those of the ban, or of the ban that was lifted; `host` is where that was decided, if it is known.
    """

    network: Network
    version: int
    ban: Ban | None
    ports: str = ""
    host: str = field(default="", compare=False)

    @classmethod
    def of(cls, ban: Ban) -> "Fact":
        """Give the fact that this ban was put in force."""
        return cls(ban.network, ban.version, ban, ban.ports, ban.host)

    @classmethod
    def lifting(cls, ban: Ban, version: int, host: str = "") -> "Fact":
        """Give the fact that this ban was lifted."""
        return cls(ban.network, version, None, ban.ports, host)

    @property
    def key(self) -> str:
        """Give what the ban is known by."""
        return key_of(network_text(self.network), self.ports) if self.ban is None else self.ban.key


def supersedes(new: Ban, old: Ban | None, now: float) -> bool:
    """Say whether a new ban replaces what is in force: a person's always does, a jail's only if it ends later."""
    if old is None or not old.in_force(now) or not new.automatic:
        return True
    if old.end is None:
        return False
    return new.end is None or new.end > old.end


# What a firewall must know of a ban: its key, its jail (None: the ban was lifted) and its end (None: for ever).
Brief = tuple[str, str | None, float | None]


def in_brief(fact: Fact) -> Brief:
    """Give what a firewall must know of a fact."""
    return (fact.key, None, None) if fact.ban is None else fact.ban.brief


class BanTable:
    """Bans in memory: hosts and /64s in one dictionary by key, other networks by prefix length.

    Bans of some ports alone stand apart, by network and ports. `kinds` says how many there are of each kind.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, Ban] = {}
        self._networks: NetworkMap[Ban] = NetworkMap()
        self._ported: NetworkMap[dict[str, Ban]] = NetworkMap()
        self._ported_number = 0
        self.kinds: Counter[Kind] = Counter()
        self._has_wider = False  # whether an address may be banned otherwise than as a host of all ports

    def may_hold(self, address: Address) -> bool:
        """Say whether a ban may hold the address, without a look at the time."""
        return address.text in self._hosts or self._has_wider or address.version == 6

    def find(self, address: Address, now: float) -> Ban | None:
        """Give the ban in force that shuts the address out of what the web serves."""
        ban = self._hosts.get(address.text)
        if ban is not None and ban.in_force(now):
            return ban
        return self._find_wider(address, now) if self._has_wider or address.version == 6 else None

    def _find_wider(self, address: Address, now: float) -> Ban | None:
        ban = self._hosts.get(address.slash64) if address.version == 6 else None
        if ban is not None and ban.in_force(now):
            return ban
        for ban in self._networks.holding(address):
            if ban.in_force(now):
                return ban
        if not self._ported_number:
            return None
        return next((ban for ban in self.ported(address, now) if is_web(ban.ports)), None)

    def ported(self, address: Address, now: float) -> Iterator[Ban]:
        """Give the bans in force that shut the address out of some ports alone."""
        for bans in self._ported.holding(address):
            yield from (ban for ban in bans.values() if ban.in_force(now))

    def exact(self, network: Network, ports: str = "") -> Ban | None:
        """Give the ban of exactly this network and these ports, in force or not."""
        if ports:
            return (self._ported.get(network) or {}).get(ports)
        return self._hosts.get(network_text(network)) if is_host(network) else self._networks.get(network)

    def same(self, ban: Ban) -> Ban | None:
        """Give the ban of the same network and ports, in force or not."""
        if ban.ports or not is_host(ban.network):
            return self.exact(ban.network, ban.ports)
        return self._hosts.get(ban.key)

    @property
    def has_ports(self) -> bool:
        """Say whether there are bans of some ports alone."""
        return self._ported_number > 0

    def of_web(self, network: Network, now: float) -> Ban | None:
        """Give the longest ban in force of exactly this network that shuts out of what the web serves."""
        bans = [ban for ban in self.of_network(network) if ban.in_force(now)]
        ends = {ban: float("inf") if ban.end is None else ban.end for ban in bans if is_web(ban.ports)}
        return max(ends, key=ends.__getitem__, default=None)

    def put(self, ban: Ban) -> None:
        """Set the ban of its network and ports."""
        if ban.ports:
            before = self._put_ported(ban.network, ban.ports, ban)
        elif is_host(ban.network):
            before = self._hosts.get(ban.key)
            self._hosts[ban.key] = ban
        else:
            before = self._networks.get(ban.network)
            self._networks.add(ban.network, ban)
        self.kinds[ban.kind] += 1
        self._count_out(before)
        self._has_wider = bool(self._networks) or self._ported_number > 0

    def drop(self, network: Network, ports: str = "") -> None:
        """Forget the ban of a network and these ports."""
        if ports:
            before = self._put_ported(network, ports, None)
        elif is_host(network):
            before = self._hosts.pop(network_text(network), None)
        else:
            before = self._networks.get(network)
            self._networks.remove(network)
        self._count_out(before)
        self._has_wider = bool(self._networks) or self._ported_number > 0

    def _count_out(self, ban: Ban | None) -> None:
        if ban is not None:
            self.kinds[ban.kind] -= 1
            if not self.kinds[ban.kind]:
                del self.kinds[ban.kind]

    def _put_ported(self, network: Network, ports: str, ban: Ban | None) -> Ban | None:
        """Change the bans of a network in a new dictionary, as readers may walk the old one; give the ban before."""
        before = self._ported.get(network) or {}
        after = {kept: held for kept, held in before.items() if kept != ports} | ({} if ban is None else {ports: ban})
        self._ported_number += len(after) - len(before)
        if after:
            self._ported.add(network, after)
        else:
            self._ported.remove(network)
        return before.get(ports)

    def of_network(self, network: Network) -> tuple[Ban, ...]:
        """Give all bans of exactly this network, in force or not."""
        whole = self.exact(network)
        return (*([whole] if whole else ()), *(self._ported.get(network) or {}).values())

    def all(self) -> list[Ban]:
        """Give all bans, in force or not."""
        return [*self._hosts.values(), *self._others()]

    def in_force(self, now: float) -> list[Ban]:
        """Give the bans in force, with as little work for each as can be."""
        hosts = [ban for ban in self._hosts.values() if ban.end is None or ban.end > now]
        return hosts + [ban for ban in self._others() if ban.in_force(now)]

    def __iter__(self) -> Iterator[Ban]:
        yield from self._hosts.values()
        yield from self._others()

    def _others(self) -> Iterator[Ban]:
        yield from (ban for _, ban in self._networks)
        yield from (ban for _, bans in self._ported for ban in bans.values())

    def __len__(self) -> int:
        return len(self._hosts) + len(self._networks) + self._ported_number


def is_host(network: Network) -> bool:
    """Say whether a network is what one attacker is banned by: a single address or an IPv6 /64."""
    return network.prefixlen == network.max_prefixlen or (network.version == 6 and network.prefixlen == 64)
