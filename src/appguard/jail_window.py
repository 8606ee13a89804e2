"""JailWindow: events in, bans out. Counts the events of each key in a true sliding window; time comes from the event.

A key is banned at its `maxretry`-th counted event within `findtime` seconds, then counted anew. Events may arrive a
little out of order: each is weighed by its own time. Nothing here reads a clock, so a log replayed gives the bans the
log says, and a restart with the saved windows gives the same bans as no restart.

Memory. A jail keeps at most `KEYS_MOST` keys and about `BYTES_MOST` bytes of them, evidence included. What is over
goes, and it is the key that was quiet longest: a flood of new keys cannot be told from an attack by many, and of all
that could be forgotten, this would soonest have left the window anyway.

Most addresses of a flood are heard of once, so that must be cheap: the first event of a key is kept as it is, and only
a second one that meets it in the window makes an object of it. Events told in brief are counted many at a time, which
leads to what counting one by one leads to.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from appguard.address import Grouping, Network, NetworkSet, parse_network
from appguard.ban import PERMANENT, Ban, shared
from appguard.briefs import Briefs, taken
from appguard.counted import (
    FIRST_COST,
    RUNS_MOST,
    Counted,
    Failure,
    First,
    by_key,
    cost_of,
    digest,
    newest_of,
    shortened,
)
from appguard.event import LOGIN_SUCCESS, REQUEST, Event
from appguard.jail import Jail
from appguard.jail_key import ADDRESS, PAIR, USER, key_of, network_of, saved_key, user_of
from appguard.jail_paths import watching
from appguard.ports import ports_text

KEYS_MOST = 100_000
BYTES_MOST = 64 * 1024 * 1024
ROOM_SHARE = 64  # this part of the keys goes at once
LATE_MOST = 60.0  # seconds a line may come late, where findtime is shorter: in a flood, logs are read late
AHEAD_MOST = 60.0  # seconds an event's time may lie in the future

_VALUE_OF: dict[str, Callable[[Event], str]] = {
    "path": lambda event: event.path,
    "user": user_of,
    "user_agent": lambda event: event.user_agent,
    "address": lambda event: event.address.text,
}


class JailWindow:
    """The counted events of one jail, by key. `grouping` is how addresses are counted on this host.

    `dropped` holds the keys that went to make room when the last event was counted; events more than `oldest` seconds
    ago are not to be counted.
    """

    def __init__(
        self,
        jail: Jail,
        grouping: Grouping,
        keys_most: int = KEYS_MOST,
        bytes_most: int = BYTES_MOST,
    ) -> None:
        self.jail = jail
        self.total_failed = 0
        self.is_shared = jail.is_shared
        self.findtime = float(jail.findtime)
        self.oldest = max(self.findtime, LATE_MOST)
        self.dropped: tuple[str, ...] = ()
        self.key = key_of(jail.key, grouping.key)
        self.grouping = grouping
        self._group = grouping.key
        self._maxretry = jail.maxretry
        self._is_by_user = jail.is_by_user
        self._is_by_address = jail.key == ADDRESS
        self._bantime = float(jail.bantime)
        self._ports = ports_text(jail.ports, jail.protocol)
        self._slot = self.findtime / RUNS_MOST if jail.maxretry > RUNS_MOST else 0.0
        self._kinds = frozenset(jail.events)
        self._statuses = frozenset(jail.statuses)
        self._looks_at = watching(jail.paths, jail.exempt_paths)
        self._safelist = NetworkSet(map(parse_network, jail.safelist)) if jail.safelist else None
        self._value_of = _VALUE_OF.get(jail.distinct)
        is_plain = self._value_of is None and not self.is_shared  # and what the fleet counts is told one by one
        self._keeps_first = is_plain and jail.key not in (USER, PAIR) and jail.maxretry > 1
        self.takes_briefs = is_plain and self._is_by_address
        self._keys_most = keys_most
        self._bytes_most = bytes_most
        self._cost = 0
        self._counted = by_key()  # in the order of the latest event
        self._pairs: dict[str, set[str]] | None = {} if jail.key == PAIR else None  # the keys of each network

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
        if self._looks_at is not None and not self._looks_at(event.path):
            return ""
        if self._value_of is not None and not self._value_of(event):
            return ""
        if self._safelist is not None and event.address in self._safelist:
            return ""
        return self._group(event.address) if self._is_by_address else self.key(event)

    def clears(self, event: Event) -> bool:
        """Say whether the event ends what is counted for its user: who could log in was no attacker on that name."""
        if event.kind != LOGIN_SUCCESS or self.jail.key not in (USER, PAIR):
            return False
        return self.is_shared or self.key(event) in self._counted

    def record(self, event: Event, evidence: str = "") -> tuple[Ban, ...]:
        """Count an event; give the bans it leads to. Events that do not count are ignored."""
        self.dropped = ()
        key = self.counted_key(event)
        return self.add(key, event, evidence) if key else ()

    def add(self, key: str, event: Event, evidence: str | bytes = "") -> tuple[Ban, ...]:
        """Count an event whose `counted_key` is known; give the bans it leads to."""
        self.dropped = ()
        self.total_failed += event.count
        if event.count == 1 and self._keeps_first and isinstance(evidence, bytes):
            one = Briefs([(event.kind, event.status)], (), (), (), [event.via], ())
            return tuple(ban for _, ban in self._add_each(one, (0,), (key,), (event.time,), shortened((evidence,))))
        network = self._group(event.address) if self._is_by_user else ""
        counted = self._take(key)
        counted.add(event.time, event.count, evidence, self.value(event), network)
        return self._judge(key, counted, event.kind, event.time, event.via)

    def counted_places(self, briefs: Briefs, places: Sequence[int]) -> Sequence[int]:
        """Give the places of those that add to this jail, of events whose kinds and statuses it may count."""
        if self._looks_at is not None:
            looks_at, paths, path_of = self._looks_at, briefs.paths, briefs.path_of
            looked = {path: looks_at(path_of(path)) for path in set(taken(paths, places))}
            places = [place for place in places if looked[paths[place]]]
        if self._safelist is not None:
            is_safe, hosts = self._safelist.holds, briefs.hosts
            places = [place for place in places if not is_safe(hosts[place])]
        return places

    def add_briefs(self, briefs: Briefs, places: Sequence[int]) -> tuple[Sequence[str], list[tuple[int, Ban]]]:
        """Count the events at some places, which add to this jail; give their keys, and the bans that some lead to."""
        self.dropped = ()
        self.total_failed += len(places)
        keys = self.grouping.keys_of(taken(briefs.hosts, places))
        times, lines = taken(briefs.times, places), shortened(taken(briefs.lines, places))
        bans: list[tuple[int, Ban]] = []
        if not (self._keeps_first and self._add_firsts(keys, times, lines)):
            bans = self._add_each(briefs, places, keys, times, lines)
        return keys, bans

    def _add_firsts(self, keys: Sequence[str], times: Sequence[float], lines: Sequence[bytes]) -> bool:
        """Count events together if each is the first of its key, and if there is room; say whether that is so."""
        counted, before = self._counted, len(self._counted)
        cost = FIRST_COST * len(keys) + sum(map(len, lines))
        has_room = before + len(keys) <= self._keys_most and self._cost + cost <= self._bytes_most
        if not has_room or not counted.keys().isdisjoint(keys):
            return False
        counted.update(zip(keys, zip(times, lines, strict=True), strict=True))
        if len(counted) < before + len(keys):  # some came twice
            for key in keys:
                counted.pop(key, None)
            return False
        self._cost += cost
        return True

    def _add_each(
        self, briefs: Briefs, places: Sequence[int], keys: Sequence[str], times: Sequence[float], lines: Sequence[bytes]
    ) -> list[tuple[int, Ban]]:
        """Count events one by one, each under its key, of a jail that counts nothing but events."""
        bans: list[tuple[int, Ban]] = []
        counted, keeps_first, findtime, whats = self._counted, self._keeps_first, self.findtime, briefs.whats
        keys_most, bytes_most = self._keys_most, self._bytes_most
        for place, key, time, line in zip(places, keys, times, lines, strict=True):
            known = counted.pop(key, None)
            if keeps_first and (known is None or (type(known) is tuple and known[0] <= time - findtime)):
                counted[key] = (time, line)
                self._cost += FIRST_COST + len(line) if known is None else len(line) - len(known[1])
                if self._cost > bytes_most or len(counted) > keys_most:
                    self._make_room()
                continue
            again, what = self._reopened(key, known), whats[place]
            again.add(time, 1, line)
            found = self._judge(key, again, what[0] if what else "", time, briefs.vias[place])
            if found:
                bans += ((place, ban) for ban in found)
        return bans

    def _judge(self, key: str, counted: Counted, kind: str, time: float, via: tuple[str, ...]) -> tuple[Ban, ...]:
        """Put back what is counted for a key, or give the bans it leads to."""
        if counted.total >= self._maxretry:
            self._unlist(key)
            why, lines, total = self.why(kind, counted.total), counted.evidence, counted.total
            networks = self._networks(key, counted)
            return tuple(self._ban(network, time, via, why, lines, total) for network in networks)
        self._keep(key, counted)
        if self._cost > self._bytes_most or len(self._counted) > self._keys_most:
            self._make_room()
        return ()

    def _take(self, key: str) -> Counted:
        """Give what is counted for a key and take it out: it goes back with `_keep`, as the last."""
        return self._reopened(key, self._counted.pop(key, None))

    def _reopened(self, key: str, known: Counted | First | None) -> Counted:
        """Give what counts a key, with what was counted for it, which was just taken out."""
        if known is not None:
            self._cost -= cost_of(known)
        return known if isinstance(known, Counted) else self._opened(key, known)

    def _opened(self, key: str, first: First | None = None) -> Counted:
        """Give what counts a key, with its first event if there was one."""
        is_distinct, is_pair = self._value_of is not None, self._pairs is not None
        counted = Counted(
            key, self.findtime, self._slot, is_distinct=is_distinct, has_addresses=self._is_by_user, is_pair=is_pair
        )
        if first is not None:
            counted.add_first(first)
        return counted

    def _keep(self, key: str, counted: Counted) -> None:
        self._counted[key] = counted
        self._cost += counted.cost
        if self._pairs is not None:
            self._pairs.setdefault(key.partition(" ")[0], set()).add(key)

    def _make_room(self) -> None:
        """Let go of what is over, many keys at a time: a dictionary finds its first slowly. Note them in `dropped`."""
        while len(self._counted) > self._keys_most or (self._cost > self._bytes_most and len(self._counted) > 1):
            first = list(islice(self._counted, max(1, len(self._counted) // ROOM_SHARE)))
            self._cost -= sum(map(cost_of, map(self._counted.pop, first)))
            if self._pairs is not None:
                for key in first:
                    self._unlist(key)
            self.dropped += tuple(first)

    def _networks(self, key: str, counted: Counted) -> tuple[Network, ...]:
        if self._is_by_user:
            return tuple(parse_network(text) for text in counted.addresses)
        return (network_of(key),)

    def why(self, kind: str, total: object) -> str:
        """Give the reason of a ban for so many events, of which the last was of this kind."""
        what = self.jail.distinct
        counted = f"{kind} with {total} different {what} values" if what else f"{total} x {kind}"
        return shared(f"{counted} in {self.findtime:g} s")

    def offer(self, key: str, event: Event) -> Ban:
        """Give the ban that an event just counted leads to if the fleet has counted enough; it has no reason yet."""
        counted = self._counted.get(key)
        network = parse_network(self._group(event.address)) if self._is_by_user else network_of(key)
        lines = counted.evidence if isinstance(counted, Counted) else ()
        return self._ban(network, event.time, event.via, "", lines, 0)

    def value(self, event: Event) -> str:
        """Give the digest of what a distinct jail counts; empty where events are counted."""
        return "" if self._value_of is None else digest(self._value_of(event))

    def _ban(
        self,
        network: Network,
        time: float,
        via: tuple[str, ...],
        why: str,
        lines: tuple[str, ...],
        total: int,
    ) -> Ban:
        end = None if self._bantime == PERMANENT else time + self._bantime
        name, ports = self.jail.name, self._ports
        return Ban(network, name, time, end, why, total, lines, via, automatic=True, ports=ports)

    def forget(self, key: str) -> None:
        """Drop what is counted for a key: its ban was lifted by a person, its user has logged in, or it is banned."""
        known = self._counted.pop(key, None)
        if known is not None:
            self._cost -= cost_of(known)
            self._unlist(key)

    def _unlist(self, key: str) -> None:
        """Take a key that is not counted any more from those of its network."""
        if self._pairs is None:
            return
        network = key.partition(" ")[0]
        keys = self._pairs.get(network, set())
        keys.discard(key)
        if not keys:
            self._pairs.pop(network, None)

    def forget_network(self, network: str) -> set[str]:
        """Drop what is counted for a network, alone or together with a user; give the keys."""
        gone = {network} if self._pairs is None else set(self._pairs.get(network, ()))
        for key in gone:
            self.forget(key)
        return gone

    def keys_of(self, network: str) -> tuple[str, ...]:
        """Give the keys of a network under which something is counted, alone or together with a user."""
        if self._pairs is None:
            return (network,) if network in self._counted else ()
        return tuple(sorted(self._pairs.get(network, ())))

    def sweep(self, now: float) -> list[str]:
        """Drop the keys whose events have all left the window, and to which none can come late; give them.

        So are those that have one of a time to come, which a clock told that was set back since: next to it none of now
        would count.
        """
        before, latest = now - self.oldest, now + AHEAD_MOST
        gone = [key for key, known in self._counted.items() if not before < newest_of(known) <= latest]
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
        known = self._counted.get(key, ())
        return tuple(known if isinstance(known, Counted) else self._opened(key, known or None))

    def restore(self, saved: Iterable[tuple[str, Failure]]) -> set[str]:
        """Take back what was counted before a restart; give the keys there is no room or no use for any more."""
        texts: set[str] = set()
        kept: dict[str, list[Failure]] = {}  # in the order of the latest
        for text, failure in saved:
            texts.add(text)
            key = saved_key(self.jail.key, text)
            if key:
                failures = kept.pop(key, [])
                failures.append(failure)
                kept[key] = failures
        for key, failures in kept.items():
            self._restore_key(key, failures)
        self._make_room()
        return texts - self._counted.keys()

    def _restore_key(self, key: str, failures: Iterable[Failure]) -> None:
        counted = self._take(key)
        for failure in failures:
            counted.add(failure.time, failure.count, failure.evidence, failure.value, failure.network)
        first = counted.first if self._keeps_first else None
        if first is not None:
            self._counted[key] = first
            self._cost += cost_of(first)
        elif counted.total:
            self._keep(key, counted)

    def __iter__(self) -> Iterator[tuple[str, Failure]]:
        for key in self._counted:
            yield from ((key, failure) for failure in self.failures(key))
