"""What administrators put on the safelist while daemons run: for how long, why, and how hosts agree on it.

An entry is a versioned fact, as a ban is: of two about one network the one with the higher version wins, so that what
was removed on one host does not come back from another. What has ended, by itself or because it was removed, is
remembered for 30 days: a host that was away may know it with another end, or for ever.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from appguard.address import Network, network_text, parse_network
from appguard.ban import HOST_MOST, REASON_MOST
from appguard.errors import AddressError, ConfigError

REMEMBERED = 30 * 86_400.0  # seconds
ENTRIES_MOST = 10_000
ENDED_MOST = 2_000  # of these, also in share.lua
WIDEST = {4: 8, 6: 16}
VERSION_MOST = 2**52


@dataclass(frozen=True, slots=True)
class Safelisted:
    """A network on the safelist until `until` (Unix seconds; None: for ever); `is_removed`: it was taken off then."""

    network: Network
    until: float | None
    reason: str
    host: str
    version: int
    is_removed: bool = False
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the key once."""
        object.__setattr__(self, "key", network_text(self.network))

    def in_force(self, now: float) -> bool:
        """Say whether its network is on the safelist."""
        return not self.is_removed and (self.until is None or self.until > now)

    def is_over(self, now: float) -> bool:
        """Say whether it ended so long ago that it can be forgotten."""
        return self.until is not None and self.until + REMEMBERED <= now

    def to_text(self) -> str:
        """Write all of it but the network as JSON."""
        record = [self.until, self.reason, self.host, self.version, self.is_removed]
        return json.dumps(record, separators=(",", ":"))


def parse_safelisted(network: str, text: str) -> Safelisted | None:
    """Read an entry; None for anything else."""
    try:
        until, reason, host, version, is_removed = cast("list[object]", json.loads(text))
        where = parse_network(network)
    except (ValueError, TypeError, AddressError, RecursionError):
        return None
    is_sound = (until is None or (isinstance(until, int | float) and 0 < until < VERSION_MOST)) and (
        isinstance(version, int) and 0 < version < VERSION_MOST and where.prefixlen >= WIDEST[where.version]
    )
    if not is_sound or not isinstance(reason, str) or not isinstance(host, str) or not isinstance(is_removed, bool):
        return None
    end = None if until is None else float(cast("float", until))
    return Safelisted(
        where, end, _line(reason)[:REASON_MOST], _line(host)[:HOST_MOST], cast("int", version), is_removed
    )


def forgettable(entries: Iterable[Safelisted], now: float) -> set[str]:
    """Give the keys of what ended long ago, and of all that has ended but the newest `ENDED_MOST`."""
    ended = [entry for entry in entries if not entry.in_force(now)]
    gone = {entry.key for entry in ended if entry.is_over(now)}
    if len(ended) > ENDED_MOST:
        ended.sort(key=lambda entry: entry.version, reverse=True)
        gone |= {entry.key for entry in ended[ENDED_MOST:]}
    return gone


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class SharedSafelist:
    """The entries that are known, ended ones too."""

    def __init__(self) -> None:
        self._entries: dict[str, Safelisted] = {}

    def merge(self, entry: Safelisted) -> bool:
        """Take an entry unless it or a newer one is known; say whether it was news, be it only another end."""
        known = self._entries.get(entry.key)
        if known is not None and (known.version > entry.version or known == entry):
            return False
        if known is None and len(self._entries) >= ENTRIES_MOST:
            return False
        self._entries[entry.key] = entry
        return True

    def add(  # each is a part of the entry
        self, network: Network, seconds: float | None, reason: str, host: str, now: float, offset: float = 0.0
    ) -> Safelisted:
        """Put a network on the safelist from now on, for ever if no seconds are given; raise `ConfigError`.

        `offset` is the clock by which hosts agree what came later, minus this one.
        """
        if network.prefixlen < WIDEST[network.version]:
            widest = WIDEST[network.version]
            raise ConfigError(f"{network_text(network)} is wider than a /{widest}: nobody could be banned any more")
        until = None if seconds is None else now + seconds
        entry = Safelisted(network, until, _line(reason)[:REASON_MOST], host, self._next(network, now + offset))
        if not self.merge(entry):
            raise ConfigError(
                f"the safelist is full: it has {ENTRIES_MOST} entries; remove some, or add a wider network"
            )
        return entry

    def remove(self, network: Network, host: str, now: float, offset: float = 0.0) -> Safelisted | None:
        """Take exactly this network off the safelist; give the removal, None if it was not there."""
        known = self._entries.get(network_text(network))
        if known is None or not known.in_force(now):
            return None
        entry = Safelisted(network, now, "", host, self._next(network, now + offset), is_removed=True)
        self.merge(entry)
        return entry

    def _next(self, network: Network, now: float) -> int:
        known = self._entries.get(network_text(network))
        return max(int(now * 1_000_000), known.version + 1 if known is not None else 0)

    def purge(self, now: float) -> bool:
        """Forget what ended long ago; say whether there was anything."""
        gone = forgettable(self._entries.values(), now)
        for key in gone:
            del self._entries[key]
        return bool(gone)

    def in_force(self, now: float) -> tuple[Safelisted, ...]:
        """Give what is on the safelist now."""
        return tuple(entry for entry in self._entries.values() if entry.in_force(now))

    def __iter__(self) -> Iterator[Safelisted]:
        return iter(tuple(self._entries.values()))

    def to_text(self) -> str:
        """Write all entries as JSON."""
        return json.dumps({key: entry.to_text() for key, entry in self._entries.items()})

    def restore(self, text: str | None) -> None:
        """Take back what `to_text` wrote; what is none is left out."""
        try:
            found = cast("object", json.loads(text or "{}"))
        except ValueError:
            return
        for key, entry in cast("dict[str, object]", found).items() if isinstance(found, dict) else ():
            parsed = parse_safelisted(key, entry) if isinstance(entry, str) else None
            if parsed is not None:
                self.merge(parsed)
