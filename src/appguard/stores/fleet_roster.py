"""What the hosts of a fleet tell each other through Redis: what each protects, and the safelist they share.

Each daemon tells its record with a lease: a host that is gone protects for a day, so that a host that is repaired is
not banned meanwhile, and one that was given away is not protected for ever. A small question every two seconds tells
whether anything is new. What Redis has lost is told again by every daemon that knows it. Ends are kept by this host's
clock: when a clock was set, all is read anew.

Hosts are known by an id of their state. A host that was cloned with its state has the same, and the two would undo each
other's records: who finds another daemon's record under its id, tells its own again and finds that replaced again too,
goes on under a new id.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from threading import Event
from typing import Any, cast

from appguard.address import Network
from appguard.protection import Protection, parse_protection, write_protection
from appguard.safelisted import ENTRIES_MOST, Safelisted, forgettable, parse_safelisted
from appguard.stores.redis_commands import Commands, Script
from appguard.stores.redis_records import DAEMONS
from appguard.stores.redis_thread import RedisThread
from appguard.stores.redis_uri import parse_redis_uri
from appguard.stores.replica import END_TOLERANCE

LEASE = 86_400.0  # seconds for which a host that is gone protects
TELL_EVERY = LEASE / 24
READ_EVERY = LEASE / 4  # seconds after which the leases of the others are read again
LOOK = 2.0  # seconds between questions
HOSTS_MOST = 10_000
REPLACED_MOST = 1  # times; a server that took over may have an older record of this host

log = logging.getLogger("appguard.stores")


class FleetRoster:
    """Tells and learns. `on_learnt` is called from its thread with the other hosts by id, and the safelist.

    `on_renamed` is called there with the new id of this host, if another has the one it had.
    """

    def __init__(
        self,
        uri: str,
        own_id: str,
        offset: Callable[[], float],
        on_learnt: Callable[[dict[str, Protection], list[Safelisted]], None],
        clock: Callable[[], float] = time.time,
        on_renamed: Callable[[str], None] = lambda new_id: None,
    ) -> None:
        self._keys = f"{DAEMONS}:hosts", f"{DAEMONS}:safelist"
        self._life = secrets.token_hex(8)
        self._id = own_id
        self._replaced = 0  # how often another daemon's record was found under this id
        self._offset = offset  # gives Redis TIME minus this clock
        self._on_learnt = on_learnt
        self._on_renamed = on_renamed
        self._clock = clock
        self._own = ""
        self._told: str = ""  # of it what Redis has
        self._entries: dict[str, Safelisted] = {}
        self._untold: dict[str, Safelisted] = {}
        self._version = b""
        self._tell_at = self._read_at = self._read_offset = 0.0
        self._woken = Event()
        self._script = Script("share")
        self._thread = RedisThread(parse_redis_uri(uri), self._keys[0], "share protections and safelist", self._sharing)

    @property
    def complaint(self) -> str:
        """Say why Redis does not answer; nothing if it does."""
        return self._thread.complaint

    def start(self) -> None:
        """Start telling and learning."""
        self._thread.start()

    def close(self) -> None:
        """Stop. May be repeated."""
        self._thread.stop.set()
        self._woken.set()
        self._thread.close()

    def tell(self, host: str, networks: Iterable[tuple[Network, str]]) -> None:
        """Tell what this host, called so, protects: networks, each with a word why."""
        self._own = write_protection(host, networks, self._life)
        self._woken.set()

    def put(self, entries: Iterable[Safelisted]) -> None:
        """Tell entries of the safelist."""
        for entry in entries:
            self._entries[entry.key] = entry
            self._untold[entry.key] = entry
        self._woken.set()

    def _sharing(self, client: Commands) -> None:
        while not self._thread.stop.is_set():
            self._woken.clear()
            is_at_once = self._ask(client)
            self._thread.works()
            if not is_at_once:
                self._woken.wait(LOOK)

    def _ask(self, client: Commands) -> bool:
        """Tell and learn; say whether there is more to tell at once."""
        now = time.monotonic()
        own, offset = self._own, self._offset()
        is_due = now >= self._tell_at or own != self._told
        untold = dict(self._untold)
        is_clock_set = abs(offset - self._read_offset) >= END_TOLERANCE
        version = b"" if now >= self._read_at or is_clock_set else self._version
        told = [part for entry in untold.values() for part in self._fields(entry)]
        arguments = [version, self._id, int(LEASE * 1000), own if is_due else "", *told]
        reply = cast("list[Any]", self._script.call(client, self._keys, arguments))
        if is_due:
            self._told, self._tell_at = own, now + TELL_EVERY
        for key, entry in untold.items():
            if self._untold.get(key) is entry:
                del self._untold[key]
        if len(reply) == 1:
            return False
        self._read_at, self._read_offset = now + READ_EVERY, offset
        self._version = reply[0]
        return self._learn(reply[1], reply[2])

    def _learn(self, hosts: Sequence[bytes], safelist: Sequence[bytes]) -> bool:
        """Take what all have told; say whether something that was told is lost."""
        found = {key.decode(errors="replace"): value for key, value in zip(hosts[::2], hosts[1::2], strict=True)}
        others = {key: self._protection(value) for key, value in found.items() if key not in (self._id, "version")}
        entries = [self._entry(key, value) for key, value in zip(safelist[::2], safelist[1::2], strict=True)]
        sound = [entry for entry in entries if entry is not None][:ENTRIES_MOST]
        there = {entry.key: entry.version for entry in sound}
        self._entries.update((e.key, e) for e in sound if e.version >= self._version_of(e.key))
        now = self._clock()
        known = list(self._entries.items())  # another thread may add to them
        gone = forgettable((each for _, each in known), now)
        for key in gone:
            self._entries.pop(key, None)
        lost = {key: each for key, each in known if each.version > there.get(key, 0) and key not in gone}
        self._untold.update(lost)
        if self._own and not self._is_told(found):
            self._tell_at = 0.0
        kept = list(others.items())[:HOSTS_MOST]
        self._on_learnt({key: each for key, each in kept if each is not None}, sound)
        return bool(lost) or self._tell_at == 0.0

    def _is_told(self, found: Mapping[str, bytes]) -> bool:
        """Say whether the record of this daemon is there; take another id if another daemon has this one."""
        record = self._protection(found.get(self._id, b""))
        if record is None or record.life == self._life:
            return record is not None
        self._replaced += 1
        if self._replaced > REPLACED_MOST:
            self._replaced, self._id = 0, secrets.token_hex(8)
            log.warning(
                "the daemon of %s tells Redis under the identity of this host what it protects, as a copy of this"
                " host's state.db makes it do: this daemon goes on under a new identity",
                record.host,
            )
            self._on_renamed(self._id)
        return False

    def _version_of(self, key: str) -> int:
        known = self._entries.get(key)
        return 0 if known is None else known.version

    def _protection(self, value: bytes) -> Protection | None:
        until, _, record = value.decode(errors="replace").partition(" ")
        if not until.isdecimal() or len(until) > 15:
            return None
        return parse_protection(record, int(until) / 1000 - self._offset())

    def _fields(self, entry: Safelisted) -> list[object]:
        until = 0 if entry.until is None else round((entry.until + self._offset()) * 1000)
        return [entry.key, entry.version, until, entry.to_text()]

    def _entry(self, key: bytes, value: bytes) -> Safelisted | None:
        """Read an entry; its end is by the clock of whoever wrote it, which Redis knows by its own."""
        _, _, rest = value.decode(errors="replace").partition(" ")
        until, _, record = rest.partition(" ")
        entry = parse_safelisted(key.decode(errors="replace"), record)
        if entry is None or not until.isdecimal() or len(until) > 15:
            return None
        end = None if until == "0" else int(until) / 1000 - self._offset()
        return replace(entry, until=end)
