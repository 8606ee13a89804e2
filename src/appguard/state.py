"""The daemon's private state in SQLite: how far logs were read, what jails have counted, bans, totals and settings.

Position and counted events of a chunk are saved in one transaction, so they agree after a crash at any point: no line
is counted twice, none is lost. The write-ahead log makes that cheap (synchronous=NORMAL: a power failure may take the
last transactions back, but each as a whole). The daemon alone has the database open, and it is locked exclusively:
that keeps a second daemon out, and needs no shared memory file that a full disk could break.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import chain
from pathlib import Path

from appguard.ban import Ban, Brief, Fact
from appguard.bantime import Past
from appguard.counted import Failure
from appguard.errors import StateError
from appguard.state_rows import (
    LAST_ROW,
    adopt_positions,
    purge_bans,
    purge_failures,
    purge_lifts,
    purge_positions,
    read_bans,
    read_brief_bans,
    read_failures,
    read_lifts,
    read_pasts,
    read_positions,
    read_setting,
    read_totals,
    save_facts,
    save_failures,
    save_pasts,
    save_positions,
    save_setting,
    save_totals,
)
from appguard.stores.sure_time import SureTime

FILE_NAME = "state.db"
SCHEMA_VERSION = 5
TABLES = ("ban", "past", "lift", "failure", "position", "total", "setting")
APPLICATION_ID = 0x41477264  # "AGrd"
LOCK_WAIT = 2.0  # seconds for a predecessor to end
SURE_TIME = "sure_time"  # a setting
NOTED_EVERY = 60.0  # seconds
FREE_PAGES_MOST = 2_500  # some 10 MB

_ADVICE = {
    "SQLITE_NOTADB": "; it is no state of AppGuard: move it away and the daemon begins anew",
    "SQLITE_CORRUPT": "; move it away and the daemon begins anew",
    "SQLITE_BUSY": "; is a second daemon running?",
    "SQLITE_FULL": "; make room on its disk",
}


@dataclass(slots=True)
class Batch:
    """What changed since the last save.

    `positions` by (source, origin); `failures` by (jail, key), all that is counted for the key now, nothing for a key
    that is gone; `facts` oldest first; `totals` by jail, (failed, banned) since the jail exists; `pasts` by network,
    nothing for one that is forgotten.
    """

    positions: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    failures: dict[tuple[str, str], Sequence[Failure]] = field(default_factory=dict[tuple[str, str], Sequence[Failure]])
    facts: list[Fact] = field(default_factory=list[Fact])
    totals: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    pasts: dict[str, Sequence[Past]] = field(default_factory=dict[str, Sequence[Past]])


class State:
    """The state kept in a directory. `clock` gives Unix seconds. All methods are called from the loop's thread.

    Bans that have ended are dropped by `sure`, which goes on from the time that was kept; else by the clock.

    Every method raises `StateError` if the disk or the database fails; what was saved before is not touched by that,
    and the same call may be repeated.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time, sure: SureTime | None = None) -> None:
        self._sure = sure
        self._noted = 0.0  # the time that was kept
        self._directory = directory
        self._path = directory / FILE_NAME
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._left = LAST_ROW  # before this row no ban was restored

    def open(self) -> None:
        """Open the database; make it, and its directory, if it is not there."""
        if self._connection is not None:
            return
        self._claim_directory()
        self._claim_file()
        connection = sqlite3.connect(self._path, timeout=LOCK_WAIT, isolation_level=None)
        try:
            self._prepare(connection)
            self._resume(read_setting(connection, SURE_TIME))
        except sqlite3.Error as error:
            connection.close()
            raise self._failure(error) from error
        except StateError:
            connection.close()
            raise
        self._connection = connection

    def _resume(self, saved: str | None) -> None:
        if self._sure is not None and saved is not None and saved.isdecimal():
            self._sure.resume(float(saved))

    def _claim_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.stat()
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o700:
                self._directory.chmod(0o700)
        except OSError as error:
            raise StateError(
                f"cannot use the state directory {self._directory}: {error.strerror}; make it for the daemon:"
                f" install -d -m 0700 -o {os.geteuid()} {self._directory}"
            ) from error
        if status.st_uid != os.geteuid():
            raise StateError(
                f"the state directory {self._directory} belongs to user id {status.st_uid}, and the daemon runs as"
                f" {os.geteuid()}: run it as the other, or change the owner of the directory and of all in it"
            )

    def _claim_file(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot write the state {self._path}: {error.strerror}") from error
        try:
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise StateError(f"the state {self._path} belongs to another user: move it away") from error
        finally:
            os.close(descriptor)  # before SQLite opens it: closing any descriptor of a file drops its locks

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = _read_text
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._check_owner(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        for script in ("state.sql", "state_2.sql", "state_3.sql", "state_4.sql", "state_5.sql")[version:]:
            connection.executescript(files("appguard").joinpath(script).read_text(encoding="utf-8"))

    def _check_owner(self, connection: sqlite3.Connection) -> int:
        """Give the version of the database, 0 for a new one; raise `StateError` if it is not ours to write."""
        version, owner = _number(connection, "PRAGMA user_version"), _number(connection, "PRAGMA application_id")
        if owner != APPLICATION_ID:
            if _number(connection, "SELECT count(*) FROM sqlite_master"):
                raise StateError(f"the state {self._path} is the database of another program: move it away")
            return 0
        if version > SCHEMA_VERSION:
            raise StateError(
                f"the state {self._path} was written by a newer AppGuard (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): install that version again, or move the file away"
            )
        return version

    def close(self) -> None:
        """Close the database. May be repeated."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failure(self, error: Exception) -> StateError:
        name: str = getattr(error, "sqlite_errorname", "")  # SQLITE_BUSY, or more exactly SQLITE_BUSY_RECOVERY
        advice = _ADVICE.get("_".join(name.split("_")[:2]), "")
        return StateError(f"the state {self._path} cannot be used: {error}{advice}")

    @contextmanager
    def _database(self) -> Generator[sqlite3.Connection]:
        if self._connection is None:
            raise StateError(f"the state {self._path} is not open")
        try:
            yield self._connection
        except (sqlite3.Error, OverflowError) as error:
            raise self._failure(error) from error

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._database() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def save(self, batch: Batch) -> None:
        """Save a batch as a whole or not at all, and drop bans that have ended."""
        with self._transaction() as connection:
            save_positions(connection, batch.positions, self._clock())
            save_failures(connection, batch.failures)
            save_facts(connection, batch.facts)
            save_totals(connection, batch.totals)
            save_pasts(connection, batch.pasts)
            purge_bans(connection, self._clock(), self._sure)
            self._note_time(connection)

    def _note_time(self, connection: sqlite3.Connection) -> None:
        if self._sure is not None and abs(self._sure.now() - self._noted) > NOTED_EVERY:
            self._noted = self._sure.now()
            save_setting(connection, SURE_TIME, f"{self._noted:.0f}")

    def purge(self, jails: Collection[str], before: float, is_there: Callable[[str], bool] = os.path.exists) -> None:
        """Drop what will never be asked for again: counted events of other jails, positions of logs, old lifts.

        A log has vanished if its position was last saved `before` a time and its path is not there any more; a lift is
        old if it was made before that time. The disk gets back what is free, if that is more than is used.
        """
        with self._transaction() as connection:
            purge_failures(connection, jails)
            purge_positions(connection, before, is_there)
            purge_lifts(connection, before)
        with self._database() as connection:
            free, all_pages = _number(connection, "PRAGMA freelist_count"), _number(connection, "PRAGMA page_count")
            if free > max(FREE_PAGES_MOST, all_pages // 2):
                connection.execute("VACUUM")

    def adopt(self, sources: Mapping[str, Callable[[str], bool]]) -> None:
        """Give the positions of sources that are no more to those that read their origins now, by name.

        A source has another name when its files are chosen anew: it would read them from their beginning. One that was
        never run takes those of others as well.
        """
        with self._transaction() as connection:
            adopt_positions(connection, sources)

    def counts(self) -> dict[str, int]:
        """Give how many rows each table has."""
        with self._database() as connection:
            return {table: _number(connection, f"SELECT count(*) FROM {table}") for table in TABLES}  # noqa: S608

    def remove(self) -> None:
        """Remove the database; whoever opens it next begins anew."""
        self.close()
        try:
            for suffix in ("-wal", "-shm", ""):  # the log first: it would be played into a new database
                self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"the state {self._path} cannot be removed: {error.strerror}") from error

    def lifts(self) -> tuple[Fact, ...]:
        """Give what was lifted lately, the oldest first."""
        with self._database() as connection:
            return read_lifts(connection)

    def pasts(self) -> tuple[Past, ...]:
        """Give the bans of every network, also those that have ended."""
        with self._database() as connection:
            return read_pasts(connection)

    def positions(self, source: str) -> dict[str, str]:
        """Give how far the origins of a source were read."""
        with self._database() as connection:
            return read_positions(connection, source)

    def failures(self, jail: str) -> list[tuple[str, Failure]]:
        """Give what a jail has counted, by key, in the order of time."""
        with self._database() as connection:
            return read_failures(connection, jail)

    def bans(self) -> tuple[Ban, ...]:
        """Give the bans, ended ones that are not dropped yet included."""
        return tuple(chain.from_iterable(self.ban_parts()))

    def ban_parts(self) -> Iterator[tuple[Ban, ...]]:
        """Give the same, the newest first and some milliseconds of work at a time; not what is saved meanwhile."""
        return (part for part, _ in self._parts())

    def restored_parts(self) -> Iterator[tuple[Ban, ...]]:
        """Give them to who puts each part in force at once."""
        for part, row in self._parts():
            self._left = row
            yield part

    def _parts(self) -> Iterator[tuple[tuple[Ban, ...], int]]:
        row = LAST_ROW
        while row > 0:
            with self._database() as connection:
                part, row = read_bans(connection, row)
            yield part, row

    def brief_bans(self) -> Iterator[Brief]:
        """Give what a firewall must know of the bans in force, the newest first: a fraction of the work."""
        return self._brief_bans(LAST_ROW)

    def brief_bans_left(self) -> Iterator[Brief]:
        """Give the same of those that were not restored yet: to pass over very many others holds up everything."""
        return self._brief_bans(self._left)

    def _brief_bans(self, row: int) -> Iterator[Brief]:
        now = self._clock()
        while row > 0:
            with self._database() as connection:
                part, row = read_brief_bans(connection, row, now)
            yield from part

    def totals(self, jail: str) -> tuple[int, int]:
        """Give how many failures and bans a jail has counted since it exists."""
        with self._database() as connection:
            return read_totals(connection, jail)

    def setting(self, name: str) -> str | None:
        """Give the value of a setting, None if it was never set."""
        with self._database() as connection:
            return read_setting(connection, name)

    def set_setting(self, name: str, value: str) -> None:
        """Keep the value of a setting."""
        with self._transaction() as connection:
            save_setting(connection, name, value)


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _read_text(data: bytes) -> str:
    return data.decode(errors="replace")
