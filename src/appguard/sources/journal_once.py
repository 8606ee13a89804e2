"""Reads what the systemd journal holds now, entry by entry, to its end: for tools, which know no positions."""

import subprocess
from collections.abc import Iterator, Sequence

from appguard.errors import SourceError
from appguard.sources.journal import RECORD_MOST, journalctl
from appguard.sources.journal_entry import Entry, parse_entry
from appguard.sources.lines import LineBuffer

BLOCK_BYTES = 256 * 1024


def read_journal(matches: Sequence[str], directory: str = "") -> Iterator[Entry]:
    """Give the entries that match, of this host's journal or of a directory or file; raise `SourceError`."""
    command = journalctl(directory, "--quiet", *matches)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise SourceError(f"the journal cannot be read: {command[0]}: {error.strerror}") from error
    with process:
        assert process.stdout is not None and process.stderr is not None
        try:
            buffer = LineBuffer(RECORD_MOST)
            while block := process.stdout.read(BLOCK_BYTES):
                yield from _entries(buffer.add(block))
        except GeneratorExit:  # nobody wants the rest
            process.kill()
            raise
        said = process.stderr.read(500).decode(errors="replace").strip()
        if process.wait():
            raise SourceError(f"the journal cannot be read: {said}")


def _entries(records: Sequence[bytes]) -> Iterator[Entry]:
    for record in records:
        try:
            entry = parse_entry(record)
        except ValueError:  # one that was too long, and cut
            continue
        if entry.message:
            yield entry
