"""The embedded store of one host: bans published by the daemon as read-only files, counters shared by an app's workers.

Theory of operation. The daemon owns a directory that apps may only read. In it are two files. `bans` is text, one fact
per line: first all bans in force, then every change since, appended with one write; when the changes outgrow the bans
the daemon writes a new file and renames it over the old. `bans.seq` holds one 64-bit word that the daemon changes after
each write. An app maps that word and compares it at every request (about 50 ns); only when it differs, or twice a
second in case the daemon died between the two writes, does it look at the file: the same inode means read on from
where it stopped, another one means read all of it anew, a long one aside while the old one still counts. Nobody takes
a lock, the daemon never reads these files back and never shortens a file an app may have mapped, so whatever an app
does to them delays no ban.
"""

import contextlib
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock, Thread

from appguard.address import Address, Network, network_text
from appguard.ban import Ban, Fact
from appguard.config import RUNTIME_DIRECTORY
from appguard.errors import StoreError
from appguard.fork import in_every_child
from appguard.ports import key_of
from appguard.stores.base import Changes, Closing, Snapshot
from appguard.stores.fact_lines import fact_line
from appguard.stores.local_counters import LocalCounters
from appguard.stores.published_file import Rewriting, lines_of, new_file, write_all
from appguard.stores.published_table import PublishedTable, inode_of

WORD = 8
COMPACT_AT_LEAST = 1_000  # changes below this number are not worth a new file
ASIDE_AT_LEAST = 5_000  # bans that a thread writes anew; fewer are written at once
AT_ONCE_MOST = 1 << 20  # bytes of a new file that a request may read; a longer one is read aside
RECHECK = 0.5  # seconds; with the reading, an app is never behind for more than one

log = logging.getLogger("appguard.stores.local")


class Publisher:
    """The daemon's side: writes the published files. Errors are `OSError`, for the daemon to report and retry."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "bans"
        self._new_path = directory / "bans.new"
        self._word_path = directory / "bans.seq"
        self._word = -1
        self._file = -1
        self._sequence = 0
        self._changes = self._compact_at = 0
        self._is_veiled = False
        self._rewriting: Rewriting | None = None

    def publish_all(self, bans: Iterable[Ban]) -> None:
        """Replace what is published by these bans."""
        bans = tuple(bans)
        self.begin()
        try:
            write_all(self._file, lines_of(bans))
        except OSError:
            self.close()
            raise
        self.unveil(len(bans))

    def begin(self) -> None:
        """Begin a new file; apps go on reading the old one until `unveil`."""
        self._drop_rewriting()
        self._take(new_file(self._new_path))
        self._is_veiled = True

    def renew(self, bans_in_force: Callable[[], Sequence[Ban]]) -> None:
        """Begin to replace what is published by the bans in force, which a thread asks for and writes.

        Until `finish` apps go on reading the old file, to which changes go too.
        """
        self._drop_rewriting()
        self._rewriting = Rewriting(self._new_path, bans_in_force)

    def finish(self) -> None:
        """Put the file in place that a thread has written, if it has."""
        rewriting = self._rewriting
        if rewriting is not None and rewriting.is_over:
            self._rewriting = None
            file, bans = rewriting.finish()
            self._take(file)
            self.unveil(bans)

    def _take(self, file: int) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._changes = file, 0

    def _drop_rewriting(self) -> None:
        if self._rewriting is not None:
            self._rewriting.drop()
            self._rewriting = None

    def unveil(self, bans: int) -> None:
        """Put the new file, which holds that many bans, in place of the old one."""
        try:
            self._new_path.replace(self._path)
        except OSError:
            self.close()
            raise
        self._changes, self._is_veiled = 0, False
        self._compact_at = max(COMPACT_AT_LEAST, bans)
        self._raise_word()

    def publish(self, facts: Sequence[Fact], bans_in_force: Callable[[], Sequence[Ban]]) -> None:
        """Append changes; when they outgrow the bans in force, publish those anew: many on a thread."""
        if not facts:
            return
        self._changes += len(facts)
        is_due = self._changes > self._compact_at and not self._is_veiled and self._rewriting is None
        if self._file < 0 or (is_due and self._compact_at < ASIDE_AT_LEAST):
            self.publish_all(bans_in_force())
            return
        if is_due:
            self.renew(bans_in_force)
        self._append(b"".join(map(fact_line, facts)))
        self.finish()

    def _append(self, lines: bytes) -> None:
        try:
            write_all(self._file, lines)
        except OSError:
            self.close()  # a torn line may stand at the end: the next publish writes a new file
            raise
        if self._rewriting is not None:
            self._rewriting.add(lines)
        if not self._is_veiled:
            self._raise_word()

    def _raise_word(self) -> None:
        if self._word < 0:
            self._word = os.open(self._word_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            os.fchmod(self._word, 0o644)
            self._sequence = time.time_ns()  # whatever the word was before, this differs
        self._sequence += 1
        os.pwrite(self._word, self._sequence.to_bytes(WORD, "little"), 0)

    def beat(self) -> None:
        """Show that the daemon lives: an app whose daemon has died follows Redis by itself."""
        if self._word >= 0:
            os.utime(self._word)

    def close(self) -> None:
        """Close the files; what is published stays."""
        self._drop_rewriting()
        for file in (self._file, self._word):
            if file >= 0:
                os.close(file)
        self._file = self._word = -1
        self._is_veiled = False


class PublishedBans:
    """An app's side: the published bans, read without locks. `clock` gives Unix seconds, `monotonic` any."""

    def __init__(
        self,
        directory: Path = RUNTIME_DIRECTORY,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = directory / "bans"
        self._word_path = directory / "bans.seq"
        self._clock = clock
        self._monotonic = monotonic
        self._reset()
        self._renew()
        in_every_child(self, PublishedBans._renew)

    def _renew(self) -> None:
        """Begin anew in a forked child, where another thread may have been in the middle of reading."""
        self._bans_lock = Lock()
        self._seen = -1
        self._anew = True
        self._loading: object | None = None  # what a thread reads

    def _reset(self) -> None:
        self._table = PublishedTable()
        self._word: memoryview | tuple[int] = (0,)
        self._word_inode = (0, 0)
        self._seen = -1
        self._look_again = 0.0
        self._file_number = 0
        self.lifts = 0  # changes when bans were lifted, as far as was read
        self._anew = False
        self._loading = None
        self._complained = ""

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that holds the address."""
        monotonic = self._monotonic  # `opened` says why
        if self._word[0] != self._seen or monotonic() >= self._look_again:
            with self._bans_lock:
                self._refresh()
        table = self._table
        if not table.marks[address.code % table.width] and address.version <= table.version_at_most:
            return None
        return table.find(address, self._clock())

    def snapshot(self) -> Snapshot:
        """Give all bans in force."""
        now = self._clock()
        with self._bans_lock:
            self._refresh()
            return Snapshot(self._seen, tuple(ban for ban in self._table if ban.in_force(now)))

    def follow(self, cursor: int) -> Changes | None:
        """Give an empty change for the current cursor, else None: the published files keep no history to replay."""
        with self._bans_lock:
            self._refresh()
            return Changes(cursor, ()) if cursor == self._seen else None

    def ban(self, ban: Ban) -> Ban | None:
        """Refuse: only the daemon writes these bans."""
        raise StoreError(f"{ban.key}: the bans of local:// are the daemon's: use `appguard ban {ban.key}`")

    def unban(self, network: Network, ports: str = "") -> Ban | None:
        """Refuse: only the daemon writes these bans."""
        key = key_of(network_text(network), ports)
        raise StoreError(f"{key}: the bans of local:// are the daemon's: use `appguard unban {key}`")

    def _refresh(self) -> None:
        self._look_again = self._monotonic() + RECHECK
        try:
            self._map_word()
            seen = self._word[0]
            self._read_on()
            self.lifts = self._file_number * 1_000_000_000 + self._table.lifts
            self._seen = seen
            self._complained = ""
        except OSError as error:  # the last known bans stay in force
            self._seen = self._word[0]
            self._anew = True
            if str(error) != self._complained:
                self._complained = str(error)
                level = logging.DEBUG if isinstance(error, FileNotFoundError) else logging.ERROR
                log.log(level, "published bans cannot be read: %s", error)

    def _map_word(self) -> None:
        if inode_of(self._word_path.stat()) == self._word_inode:
            return
        file = os.open(self._word_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if status.st_size < WORD:
                return
            mapped = mmap.mmap(file, WORD, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        # A thread may be reading the old word: it is not closed but left to its last reader.
        self._word, self._word_inode = memoryview(mapped).cast("Q"), inode_of(status)

    def _read_on(self) -> None:
        table = self._table
        if not self._anew:
            table.read_on()  # also the last of an old file
        status = self._path.stat()
        is_new = self._anew or table.is_crowded or inode_of(status) != table.inode
        if self._loading is not None or not is_new:
            return
        if table.file < 0 or status.st_size < AT_ONCE_MOST or not self._begin_load():
            self._take(self._whole())

    def _begin_load(self) -> bool:
        """Read a big new file on a thread, while requests go on with the old one; say whether that is possible."""
        self._loading = loading = object()
        try:
            Thread(target=self._load, args=(loading,), name="appguard-bans", daemon=True).start()
        except RuntimeError:
            self._loading = None
        return self._loading is not None

    def _load(self, loading: object) -> None:
        table = None
        try:
            with contextlib.suppress(OSError):  # said where it is tried again
                table = self._whole()
        finally:
            with self._bans_lock:
                if self._loading is loading:  # neither closed meanwhile nor forked
                    self._loading = None
                    if table is not None:
                        self._take(table)

    def _whole(self) -> PublishedTable:
        table = PublishedTable(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
        table.read_on()
        return table

    def _take(self, table: PublishedTable) -> None:
        """Answer with another table, which is whole: nobody ever finds it half read."""
        self._file_number += 1
        self.lifts = self._file_number * 1_000_000_000  # first: a lift that is found is seen to be one
        self._table, self._anew, self._seen = table, False, -1

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        with self._bans_lock:
            self._reset()  # the file is closed with its table, when the last thread has looked


class LocalStore(LocalCounters, PublishedBans, Closing):
    """The daemon's bans of this host, and counters of one app."""

    name = "local://"

    def __init__(
        self,
        directory: Path = RUNTIME_DIRECTORY,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        app: str = "app",
    ) -> None:
        LocalCounters.__init__(self, app, monotonic=monotonic)
        PublishedBans.__init__(self, directory, clock, monotonic)

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        PublishedBans.close(self)
        self.close_table()

    async def close_async(self) -> None:
        """Close the files; the next use opens them again."""
        self.close()
