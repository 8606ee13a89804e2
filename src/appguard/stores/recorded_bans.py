"""Bans as a replica keeps those it was told all at once: as the records that came, made into bans when asked for.

A hundred thousand bans take seconds to make and kilobytes each to keep, and of most of them nobody ever asks. Of such
a record only the head is read at first: version and end.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from itertools import islice

from appguard.address import Address, Network, network_text
from appguard.ban import Ban, BanTable, is_host

MADE_MOST = 4_096  # bans of clients that ask again and again


class RecordedBans(BanTable):
    """A table of bans, some of which are records; `make` gives the ban of a key and its record, None for nonsense."""

    def __init__(self, make: Callable[[str, bytes], Ban | None]) -> None:
        super().__init__()
        self._make = make
        self._records: dict[str, bytes] = {}
        self._made: dict[str, Ban] = {}
        self._round: Iterator[str] = iter(())

    def find(self, address: Address, now: float) -> Ban | None:
        """Give the ban in force that shuts the address out of what the web serves."""
        if self._records:
            for key in (address.text,) if address.version == 4 else (address.text, address.slash64):
                ban = self._recorded(key) if key in self._records else self._hosts.get(key)
                if ban is not None and ban.in_force(now):
                    return ban
        return super().find(address, now)

    def may_hold(self, address: Address) -> bool:
        """Say whether a ban may hold the address, without a look at the time."""
        text = address.text
        return text in self._records or text in self._hosts or self._has_wider or address.version == 6

    def exact(self, network: Network, ports: str = "") -> Ban | None:
        """Give the ban of exactly this network and these ports, in force or not."""
        may_be = self._records and not ports and is_host(network)
        ban = self._recorded(network_text(network)) if may_be else None
        return super().exact(network, ports) if ban is None else ban

    def same(self, ban: Ban) -> Ban | None:
        """Give the ban of the same network, in force or not."""
        found = self._recorded(ban.key) if self._records else None
        return super().same(ban) if found is None else found

    def put(self, ban: Ban) -> None:
        """Set the ban of its network."""
        super().put(ban)
        self._forget(ban.key)

    def drop(self, network: Network, ports: str = "") -> None:
        """Forget the ban of a network and these ports."""
        super().drop(network, ports)
        if self._records and not ports:
            self._forget(network_text(network))

    def put_record(self, key: str, record: bytes) -> None:
        """Set the ban of a host that has none, or none but a record."""
        self._made.pop(key, None)
        self._records[key] = record

    def put_records(self, records: Mapping[str, bytes]) -> None:
        """Set the bans of hosts that have none."""
        self._records.update(records)

    def known(self, keys: Set[str]) -> set[str]:
        """Give those of some hosts that have a ban or a record."""
        if keys.isdisjoint(self._records.keys()) and keys.isdisjoint(self._hosts.keys()):
            return set()  # found in a third of the time
        return {*(keys & self._records.keys()), *(keys & self._hosts.keys())}

    def record(self, key: str) -> bytes | None:
        """Give the record kept for a host."""
        return self._records.get(key)

    def take_records(self, most: int) -> list[str]:
        """Give the next hosts with a record, in rounds: each comes once in a round."""
        keys = list(islice(self._round, most))
        if len(keys) < most:
            self._round = iter(tuple(self._records))
        return [key for key in keys if key in self._records]

    def recorded(self) -> set[str]:
        """Give the hosts with a record."""
        return set(self._records)

    @property
    def recorded_hosts(self) -> int:
        """Give how many hosts have a record."""
        return len(self._records)

    @property
    def made_hosts(self) -> int:
        """Give how many hosts have a ban and no record."""
        return len(self._hosts)

    def forget_made(self) -> None:
        """Make the bans of records anew: what they are made of has changed."""
        self._made = {}

    def make_some(self, most: int) -> list[Ban]:
        """Keep bans instead of some of the records; give them."""
        keys = list(islice(self._records, most))
        made = [ban for ban in map(self._recorded, keys) if ban is not None]
        for ban in made:
            super().put(ban)
        for key in keys:
            self._forget(key)
        return made

    def __len__(self) -> int:
        return super().__len__() + len(self._records)

    def _forget(self, key: str) -> None:
        if self._records.pop(key, None) is not None:
            self._made.pop(key, None)

    def _recorded(self, key: str) -> Ban | None:
        record = self._records.get(key)
        if record is None:
            return None
        ban = self._made.get(key) or self._make(key, record)
        if ban is not None:
            if len(self._made) >= MADE_MOST:
                self._made = {}
            self._made[key] = ban
        return ban
