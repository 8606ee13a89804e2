"""Jail: events in, bans out. Counts the events of each key in a true sliding window; time comes from the event.

A key is banned at its `maxretry`-th counted event within `findtime` seconds, then counted anew. Events may arrive a
little out of order: each is weighed by its own time. Nothing here reads a clock, so a log replayed gives the bans the
log says, and a restart with the saved windows gives the same bans as no restart.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from appguard.address import Address, parse_network
from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST, JAIL_NAME, PERMANENT, Ban, parse_duration
from appguard.errors import ConfigError
from appguard.event import KINDS, LOGIN_FAIL, Event

KEYS_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Jail:
    """The settings of one jail; durations are seconds or texts such as `"10m"`, `bantime` -1 is for ever.

    `events` are the kinds of event it counts. Raise `ConfigError` for a value that cannot be.
    """

    name: str
    maxretry: int = 5
    findtime: float | str = 600
    bantime: float | str = 600
    events: Sequence[str] = (LOGIN_FAIL,)

    def __post_init__(self) -> None:
        """Check every value and turn durations into seconds; raise `ConfigError`."""
        if not JAIL_NAME.fullmatch(self.name):
            raise ConfigError(f"jail name {self.name!r}: expected 1 to 64 letters, digits, '-', '_', '.'")
        if not isinstance(self.maxretry, int) or isinstance(self.maxretry, bool) or not 1 <= self.maxretry <= 10_000:
            raise ConfigError(
                f"jail {self.name}: maxretry = {self.maxretry!r}: expected a whole number from 1 to 10000"
            )
        findtime = parse_duration(self.findtime, f"jail {self.name}: findtime")
        if findtime == PERMANENT:
            raise ConfigError(f"jail {self.name}: findtime cannot be for ever")
        object.__setattr__(self, "findtime", findtime)
        object.__setattr__(self, "bantime", parse_duration(self.bantime, f"jail {self.name}: bantime"))
        kinds = (self.events,) if isinstance(self.events, str) else tuple(self.events)
        object.__setattr__(self, "events", kinds)
        if not kinds or not set(kinds) <= set(KINDS):
            raise ConfigError(f"jail {self.name}: events = {list(kinds)!r}: expected some of {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class Failure:
    """One counted event of one key, as kept: when, how much it counts, and its line as evidence."""

    time: float
    count: int
    evidence: str = ""


def _time(failure: Failure) -> float:
    return failure.time


class JailWindow:
    """The counted events of one jail, by key."""

    def __init__(self, jail: Jail, key_of: Callable[[Address], str], keys_most: int = KEYS_MOST) -> None:
        self.jail = jail
        self.total_failed = 0
        self.findtime = float(jail.findtime)
        self._bantime = float(jail.bantime)
        self._kinds = frozenset(jail.events)
        self.key = key_of
        self._keys_most = keys_most
        self._failures: dict[str, list[Failure]] = {}  # each list in the order of time

    def counts(self, event: Event) -> bool:
        """Say whether the event adds to this jail. One that a jail of the app has counted does not."""
        return event.kind in self._kinds and event.count > 0 and not event.jail

    def record(self, event: Event, evidence: str = "") -> Ban | None:
        """Count an event; give the ban it leads to, if it does. Events that do not count are ignored."""
        if not self.counts(event):
            return None
        self.total_failed += event.count
        key = self.key(event.address)
        failures = self._failures.pop(key, [])
        insort(failures, Failure(event.time, event.count, evidence[:EVIDENCE_TEXT_MOST]), key=_time)
        begin = failures[-1].time - self.findtime
        failures = [failure for failure in failures if failure.time > begin]
        if sum(failure.count for failure in failures) >= self.jail.maxretry:
            return self._ban(key, failures, event)
        self._failures[key] = failures  # last in the dictionary: the order is by latest event
        if len(self._failures) > self._keys_most:
            del self._failures[next(iter(self._failures))]
        return None

    def next_out(self) -> tuple[str, ...]:
        """Give the key that is dropped if another comes; none while there is room."""
        return (next(iter(self._failures)),) if len(self._failures) >= self._keys_most else ()

    def _ban(self, key: str, failures: list[Failure], event: Event) -> Ban:
        end = None if self._bantime == PERMANENT else event.time + self._bantime
        count = sum(failure.count for failure in failures)
        lines = tuple(failure.evidence for failure in failures if failure.evidence)[-EVIDENCE_MOST:]
        reason = f"{count} x {event.kind} in {self.findtime:g} s"
        return Ban(
            parse_network(key),
            self.jail.name,
            event.time,
            end,
            reason,
            count,
            lines,
            event.via,
            automatic=True,
        )

    def forget(self, key: str) -> None:
        """Drop what is counted for a key: it was lifted by a person."""
        self._failures.pop(key, None)

    def sweep(self, now: float) -> list[str]:
        """Drop the keys whose events have all left the window; give them."""
        gone = [key for key, failures in self._failures.items() if failures[-1].time <= now - self.findtime]
        for key in gone:
            del self._failures[key]
        return gone

    @property
    def currently_failed(self) -> int:
        """Give the number of keys with counted events."""
        return len(self._failures)

    def failures(self, key: str) -> tuple[Failure, ...]:
        """Give what is counted for a key."""
        return tuple(self._failures.get(key, ()))

    def restore(self, saved: Iterable[tuple[str, Failure]]) -> None:
        """Take back what was counted before a restart."""
        for key, failure in saved:
            insort(self._failures.setdefault(key, []), failure, key=_time)

    def __iter__(self) -> Iterator[tuple[str, Failure]]:
        for key, failures in self._failures.items():
            yield from ((key, failure) for failure in failures)
