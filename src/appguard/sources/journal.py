"""The systemd journal, read by `journalctl`, which follows its files through their rotations.

The position is the cursor of the last entry delivered, whoever reads that journal by whichever matches: who has none of
his own goes on where others were. Reading goes on *at* it, not after it, and the entry itself is
left out if it comes: so nothing is skipped where it is gone, because the journal was vacuumed, and journalctl begins
at the next one. journalctl follows the present boot only unless told otherwise, and shows the last ten entries first;
`--boot=all` and `--no-tail` are against that. A journal never read before is read from a day back.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from appguard.sources.base import Chunk, Deliver, SourceStatus
from appguard.sources.child import PAUSE_FIRST, Child
from appguard.sources.journal_entry import FIELDS, Entry, parse_entry
from appguard.sources.lines import LineBuffer

JOURNALCTL = "journalctl"
FIRST_SINCE = "-1d"
RECORD_MOST = 512 * 1024  # bytes of an entry as journalctl writes it; a longer one is not read
CURSOR = re.compile(r"[a-z]=[0-9a-f]+(;[a-z]=[0-9a-f]+){1,9}")

_log = logging.getLogger(__name__)


def journal_origin(directory: str) -> str:
    """Give what positions in a journal are kept under: that of this host, or the one in a directory."""
    return f"journal:{directory}" if directory else "journal"


def journalctl(directory: str, *more: str) -> tuple[str, ...]:
    """Give the command that writes the entries of a journal (empty: this host's) as `parse_entry` reads them."""
    where = (f"--{'directory' if Path(directory).is_dir() else 'file'}={directory}",) if directory else ()
    options = ("--boot=all", "--output=json", "--all", "--no-pager", f"--output-fields={','.join(FIELDS)}")
    return (JOURNALCTL, *options, *where, *more)


class JournalSource:
    """Follows the journal's entries that match, as `journalctl` means it: `["_SYSTEMD_UNIT=ssh.service", "+", ...]`.

    `directory` holds the journal's files where they are not those of this host, or is a file or glob of them.
    `positions` holds the last position of a chunk that was kept. A line is an entry's message, with who wrote it in
    front as in a syslog file (`host sshd[17]: `), or with `is_bare` alone.
    """

    def __init__(
        self,
        name: str,
        matches: Sequence[str],
        positions: Mapping[str, str],
        *,
        directory: str = "",
        is_bare: bool = False,
        pause_first: float = PAUSE_FIRST,
    ) -> None:
        self.name = name
        self._matches = tuple(matches)
        self._directory = directory
        self._is_bare = is_bare
        self._child = Child(name, pause_first=pause_first)
        self._buffer = LineBuffer(RECORD_MOST)
        self._unreadable = 0
        self._origin = journal_origin(directory)
        self._cursor = positions.get(self._origin) or positions.get(name, "")  # as an earlier version called it
        if self._cursor and not CURSOR.fullmatch(self._cursor):
            _log.warning("the saved position of %r is damaged: the journal is read from a day back", name)
            self._cursor = ""

    def command(self) -> tuple[str, ...]:
        """Give the command that reads on behind what was delivered."""
        begin = f"--cursor={self._cursor}" if self._cursor else f"--since={FIRST_SINCE}"
        return journalctl(self._directory, "--follow", "--no-tail", begin, *self._matches)

    async def run(self, deliver: Deliver) -> None:
        """Deliver entries until cancelled, then end journalctl."""

        def take(block: bytes) -> None:
            if block:
                self._deliver(self._entries(self._buffer.add(block)), deliver)
            else:
                self._buffer.end()  # an entry that was not written to its end comes again

        self._buffer.end()
        await self._child.run(self.command, take)

    def _entries(self, records: Sequence[bytes]) -> list[Entry]:
        entries: list[Entry] = []
        for record in records:
            try:
                entries.append(parse_entry(record))
            except ValueError:
                self._unreadable += 1
        if entries and entries[0].cursor == self._cursor:
            del entries[0]
        return entries

    def _deliver(self, entries: Sequence[Entry], deliver: Deliver) -> None:
        said = [entry for entry in entries if entry.message]
        if said:
            lines = [entry.message if self._is_bare else entry.line for entry in said]
            deliver(Chunk(self._origin, lines, entries[-1].cursor, times=[entry.time for entry in said]))
        if entries:
            self._cursor = entries[-1].cursor

    def status(self) -> SourceStatus:
        """Say what is read, how much of journalctl's output waits, and what is wrong."""
        child = self._child
        complaints = [child.complaint, f"{self._unreadable} entries were too long to read" if self._unreadable else ""]
        advice = "; let the daemon's user into the group systemd-journal" if "permission" in child.complaint else ""
        complaint = "; ".join(said for said in complaints if said) + advice
        return SourceStatus((self.name,), child.behind, complaint, child.lag)
