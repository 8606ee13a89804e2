"""A replica that takes over a whole ban set of Redis at once, most of it as records."""

import time
from collections.abc import Callable, Sequence

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.stores.base import Snapshot
from appguard.stores.recorded_bans import RecordedBans
from appguard.stores.redis_records import Head, head_of, host_of, parse_record, plain_hosts
from appguard.stores.replica import END_TOLERANCE, Replica
from appguard.stores.sure_time import SureTime

RECORDS_AT_LEAST = 1_000  # of fewer all bans are made at once, and whoever follows is told each
SWEPT_AT_ONCE = 5_000
MADE_AT_ONCE = 200
MADE_APART = 0.001  # seconds


class RecordedReplica(Replica):
    """A replica of which most is records until somebody asks for all bans, as daemons do and apps do not."""

    def __init__(self, clock: Callable[[], float] = time.time, sure: SureTime | None = None) -> None:
        super().__init__(clock, sure)
        self._offset = 0.0  # Redis TIME minus this clock, seconds
        self._recorded = RecordedBans(self._ban_of)
        self._table = self._recorded
        self._is_followed = False  # by somebody who is told when all bans are made
        self._has_news = False  # that nobody who follows was told of

    def _ban_of(self, key: str, record: bytes) -> Ban | None:
        fact = parse_record(key.encode(), record, self._offset)
        return fact.ban if fact else None

    def snapshot(self) -> Snapshot:
        """Give all bans in force; to who follows, those that are made."""
        if not self._is_followed:
            self._make_all()
        return super().snapshot()

    def facts(self) -> list[Fact]:
        """Give all that is known: bans in force, and lifts."""
        self._make_all()
        return super().facts()

    def _make_all(self) -> None:
        """Make all bans, some at a time: who wants to ban meanwhile waits some milliseconds only."""
        while self._recorded.recorded_hosts:
            with self._bans_lock:
                for ban in self._recorded.make_some(MADE_AT_ONCE):
                    self._put(ban)
            time.sleep(MADE_APART)  # else this thread would take the lock again before any other could

    def tell_records(self) -> None:
        """Let who follows know that it needs a new snapshot, if there were records: they are too many to tell each."""
        with self._bans_lock:
            if self._has_news:
                self._break_history()
            self._has_news = False

    def shift(self, seconds: float) -> None:
        """Move the ends of all bans; those of records are reckoned when they are asked for."""
        self._recorded.forget_made()
        super().shift(seconds)

    def expire(self) -> list[Ban]:
        """Drop bans that have ended, some thousands at a time; give them."""
        ended = super().expire()
        now_there = (self._sure.now() + self._offset) * 1000
        with self._bans_lock:
            for key in self._recorded.take_records(SWEPT_AT_ONCE):
                head = head_of(self._recorded.record(key) or b"")
                if head is not None and 0 < head.ends <= now_there:
                    network = parse_network(key)
                    ban = self._recorded.exact(network)
                    ended.extend([ban] if ban else [])
                    self._recorded.drop(network)
        return ended

    def networks(self) -> set[str]:
        """Give the networks about which anything is known."""
        with self._bans_lock:
            return {ban.key for ban in self._table} | self._recorded.recorded() | set(self._lifted)

    def merge_records(self, found: Sequence[bytes]) -> list[str]:
        """Take networks and records in turn from the truth; give the networks of which no more is known here.

        Who follows is told by `tell_records`.
        """
        if len(found) < 2 * RECORDS_AT_LEAST:
            return self._merge_parsed(found)
        others: list[bytes] = []
        with self._bans_lock:
            agreed, rest = self._take_plain(found)
            is_changed = bool(agreed)
            for network, record in rest:
                key, head = host_of(network), head_of(record)
                if key is None or head is None:
                    others += network, record
                    continue
                known = self._known_head(key)
                if known is not None and self._recorded.record(key) is None and not _is_same(head, known):
                    others += network, record  # never without its ban, not for a moment
                elif known is None or known.version <= head.version:
                    agreed.append(key)
                    is_changed |= self._take_record(key, head, record, known)
            self._has_news |= is_changed
        return agreed + self._merge_parsed(others)

    def _take_plain(self, found: Sequence[bytes]) -> tuple[list[str], list[tuple[bytes, bytes]]]:
        """Take the records of IPv4 hosts of which nothing is known; give those hosts, and the rest of what was found.

        Of a whole ban set that is nearly all.
        """
        plain, version = plain_hosts(found)
        known = self._recorded.known(plain.keys()) | (plain.keys() & self._lifted.keys())
        for key in known:
            del plain[key]
        self._recorded.put_records(plain)
        self._version = max(self._version, version)
        pairs = zip(found[::2], found[1::2], strict=True)
        if 2 * len(plain) == len(found):
            return list(plain), []
        return list(plain), [(network, record) for network, record in pairs if network.decode("latin-1") not in plain]

    def _merge_parsed(self, found: Sequence[bytes]) -> list[str]:
        agreed: list[str] = []
        for network, record in zip(found[::2], found[1::2], strict=True):
            fact = parse_record(network, record, self._offset)
            if fact is None:
                continue
            known = self.known(fact)
            if known is None or known.version <= fact.version:
                agreed.append(fact.key)
                self.merge(fact)
        return agreed

    def _take_record(self, key: str, head: Head, record: bytes, known: Head | None) -> bool:
        """Take the record of a host of which nothing newer is known, and no ban made; say whether that is new."""
        if known is not None and _is_same(head, known):
            return False
        self._recorded.put_record(key, record)
        self._version = max(self._version, head.version)
        return True

    def _known_head(self, key: str) -> Head | None:
        record = self._recorded.record(key)
        if record is not None:
            return head_of(record)
        if not (key in self._lifted or self._recorded.made_hosts):
            return None
        fact = self.known(Fact(parse_network(key), 0, None))
        if fact is None or fact.ban is None:
            return Head(fact.version, -1.0) if fact else None
        return Head(fact.version, 0.0 if fact.ban.end is None else (fact.ban.end + self._offset) * 1000)


def _is_same(one: Head, other: Head) -> bool:
    return one.version == other.version and abs(one.ends - other.ends) < END_TOLERANCE * 1000
