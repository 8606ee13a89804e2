"""JailWindow: events in, bans out. Counts the events of each key in a true sliding window; time comes from the event.

A key is banned at its `maxretry`-th counted event within `findtime` seconds, then counted anew. Events may arrive a
little out of order: each is weighed by its own time. Nothing here reads a clock, so a log replayed gives the bans the
log says, and a restart with the saved windows gives the same bans as no restart.

Memory. A jail keeps at most `KEYS_MOST` keys and about `BYTES_MOST` bytes of them, evidence included. What is over
goes, and it is the key that was quiet longest: a flood of new keys cannot be told from an attack by many, and of all
that could be forgotten, this would soonest have left the window anyway.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from appguard.address import Address, Network, NetworkSet, parse_network
from appguard.ban import PERMANENT, Ban
from appguard.counted import RUNS_MOST, Counted, Failure, digest
from appguard.event import LOGIN_SUCCESS, REQUEST, Event
from appguard.jail import Jail
from appguard.jail_key import ADDRESS, PAIR, USER, key_of, network_of, saved_key, user_of
from appguard.jail_paths import holding
from appguard.ports import ports_text

KEYS_MOST = 100_000
BYTES_MOST = 64 * 1024 * 1024
LATE_MOST = 60.0  # seconds a line may come late, where findtime is shorter: in a flood, logs are read late

_VALUE_OF: dict[str, Callable[[Event], str]] = {
    "path": lambda event: event.path,
    "user": user_of,
    "user_agent": lambda event: event.user_agent,
    "address": lambda event: event.address.text,
}


class JailWindow:
    """The counted events of one jail, by key. `group` is how an address is counted on this host.

    `dropped` holds the keys that went to make room when the last event was counted; events more than `oldest` seconds
    ago are not to be counted.
    """

    def __init__(
        self,
        jail: Jail,
        group: Callable[[Address], str],
        keys_most: int = KEYS_MOST,
        bytes_most: int = BYTES_MOST,
    ) -> None:
        self.jail = jail
        self.total_failed = 0
        self.findtime = float(jail.findtime)
        self.oldest = max(self.findtime, LATE_MOST)
        self.dropped: tuple[str, ...] = ()
        self.key = key_of(jail.key, group)
        self._group = group
        self._maxretry = jail.maxretry
        self._is_by_user = jail.is_by_user
        self._is_by_address = jail.key == ADDRESS
        self._bantime = float(jail.bantime)
        self._ports = ports_text(jail.ports, jail.protocol)
        self._slot = self.findtime / RUNS_MOST if jail.maxretry > RUNS_MOST else 0.0
        self._kinds = frozenset(jail.events)
        self._statuses = frozenset(jail.statuses)
        self._is_watched = holding(jail.paths) if jail.paths else None
        self._is_exempt = holding(jail.exempt_paths) if jail.exempt_paths else None
        self._safelist = NetworkSet(map(parse_network, jail.safelist)) if jail.safelist else None
        self._value_of = _VALUE_OF.get(jail.distinct)
        self._keys_most = keys_most
        self._bytes_most = bytes_most
        self._cost = 0
        self._counted: OrderedDict[str, Counted] = OrderedDict()  # in that of the latest event; a dict's first is slow

    def may_count(self, kind: str, status: int) -> bool:
        """Say whether an event of this kind, with this status, may add to this jail."""
        if kind not in self._kinds and not (status and REQUEST in self._kinds):
            return False
        return not self._statuses or status in self._statuses

    def counts(self, event: Event) -> bool:
        """Say whether the event adds to this jail. One that a jail of the app has counted does not."""
        return self.counted_key(event) != ""

    def counted_key(self, event: Event, *, may_count: bool = False) -> str:
        """Give the key under which the event adds to this jail; empty if it does not.

        `may_count`: this was asked before and is true.
        """
        if not event.count or event.jail or not (may_count or self.may_count(event.kind, event.status)):
            return ""
        if self._is_watched is not None and not self._is_watched(event.path):
            return ""
        if self._is_exempt is not None and self._is_exempt(event.path):
            return ""
        if self._value_of is not None and not self._value_of(event):
            return ""
        if self._safelist is not None and event.address in self._safelist:
            return ""
        return self._group(event.address) if self._is_by_address else self.key(event)

    def clears(self, event: Event) -> bool:
        """Say whether the event ends what is counted for its user: who could log in was no attacker on that name."""
        return event.kind == LOGIN_SUCCESS and self.jail.key in (USER, PAIR) and self.key(event) in self._counted

    def record(self, event: Event, evidence: str = "") -> tuple[Ban, ...]:
        """Count an event; give the bans it leads to. Events that do not count are ignored."""
        self.dropped = ()
        key = self.counted_key(event)
        return self.add(key, event, evidence) if key else ()

    def add(self, key: str, event: Event, evidence: str | bytes = "") -> tuple[Ban, ...]:
        """Count an event whose `counted_key` is known; give the bans it leads to."""
        self.dropped = ()
        self.total_failed += event.count
        value = "" if self._value_of is None else digest(self._value_of(event))
        network = self._group(event.address) if self._is_by_user else ""
        counted = self._take(key)
        counted.add(event.time, event.count, evidence, value, network)
        if counted.total >= self._maxretry:
            return tuple(self._ban(network, counted, event) for network in self._networks(key, counted))
        self._keep(key, counted)
        if self._cost > self._bytes_most or len(self._counted) > self._keys_most:
            self.dropped = self._make_room()
        return ()

    def _take(self, key: str) -> Counted:
        """Give what is counted for a key and take it out: it goes back with `_keep`, as the last."""
        counted = self._counted.pop(key, None)
        if counted is not None:
            self._cost -= counted.cost
            return counted
        is_distinct = self._value_of is not None
        return Counted(key, self.findtime, self._slot, is_distinct=is_distinct, has_addresses=self._is_by_user)

    def _keep(self, key: str, counted: Counted) -> None:
        self._counted[key] = counted
        self._cost += counted.cost

    def _make_room(self) -> tuple[str, ...]:
        gone: list[str] = []
        while len(self._counted) > self._keys_most or (self._cost > self._bytes_most and len(self._counted) > 1):
            key, counted = self._counted.popitem(last=False)
            self._cost -= counted.cost
            gone.append(key)
        return tuple(gone)

    def _networks(self, key: str, counted: Counted) -> tuple[Network, ...]:
        if self._is_by_user:
            return tuple(parse_network(text) for text in counted.addresses)
        return (network_of(key),)

    def _ban(self, network: Network, counted: Counted, event: Event) -> Ban:
        end = None if self._bantime == PERMANENT else event.time + self._bantime
        different = f" with {counted.total} different {self.jail.distinct} values" if self.jail.distinct else ""
        times = "" if self.jail.distinct else f"{counted.total} x "
        return Ban(
            network,
            self.jail.name,
            event.time,
            end,
            f"{times}{event.kind}{different} in {self.findtime:g} s",
            counted.total,
            counted.evidence,
            event.via,
            automatic=True,
            ports=self._ports,
        )

    def forget(self, key: str) -> None:
        """Drop what is counted for a key: its ban was lifted by a person, its user has logged in, or it is banned."""
        counted = self._counted.pop(key, None)
        if counted is not None:
            self._cost -= counted.cost

    def forget_network(self, network: str) -> set[str]:
        """Drop what is counted for a network, alone or together with a user; give the keys."""
        gone = {network} if self.jail.key != PAIR else {k for k in self._counted if k.partition(" ")[0] == network}
        for key in gone:
            self.forget(key)
        return gone

    def keys_of(self, network: str) -> tuple[str, ...]:
        """Give the keys of a network under which something is counted, alone or together with a user."""
        keys = (network,) if self.jail.key != PAIR else self._counted
        return tuple(key for key in keys if key in self._counted and key.partition(" ")[0] == network)

    def sweep(self, now: float) -> list[str]:
        """Drop the keys whose events have all left the window, and to which none can come late; give them."""
        gone = [key for key, counted in self._counted.items() if counted.newest <= now - self.oldest]
        for key in gone:
            self.forget(key)
        return gone

    @property
    def currently_failed(self) -> int:
        """Give the number of keys with counted events."""
        return len(self._counted)

    @property
    def cost(self) -> int:
        """Give about how many bytes this jail keeps."""
        return self._cost

    def failures(self, key: str) -> tuple[Failure, ...]:
        """Give what is counted for a key."""
        return tuple(self._counted.get(key, ()))

    def restore(self, saved: Iterable[tuple[str, Failure]]) -> set[str]:
        """Take back what was counted before a restart; give the keys there is no room or no use for any more."""
        texts: set[str] = set()
        for text, failure in saved:
            texts.add(text)
            key = saved_key(self.jail.key, text)
            if key:
                counted = self._take(key)
                counted.add(failure.time, failure.count, failure.evidence, failure.value, failure.network)
                self._keep(key, counted)
        for key in [key for key, counted in self._counted.items() if not counted.total]:
            self.forget(key)
        self._make_room()
        return texts - self._counted.keys()

    def __iter__(self) -> Iterator[tuple[str, Failure]]:
        for key, counted in self._counted.items():
            yield from ((key, failure) for failure in counted)
