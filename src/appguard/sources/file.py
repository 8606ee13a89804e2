"""Log files as a source: which paths there are, when to look at them, and whose turn it is.

One task reads all of them, a chunk of each in turn, and gives the loop its chance after every chunk, so that neither a
long backlog nor a busy file keeps the others waiting. How much a chunk is depends on how long the last ones took to be
counted: a slow filter gets little at a time, and what was read to its end is read on with little. Inotify tells when to
read; a look once a second finds whatever it did not tell, and is all there is where inotify is not to be had. How one
path is followed through its rotations is in `tail.py`.
"""

import asyncio
import glob
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice, zip_longest
from pathlib import Path

from appguard.sources.base import Block, Chunk, Deliver, Lag, SourceStatus
from appguard.sources.generation import Generation, Mark, Position, position_text
from appguard.sources.pace import Pace
from appguard.sources.siblings import is_packed, rotated_from, undated
from appguard.sources.tail import Identity, Tail
from appguard.sources.watch import DirectoryWatch

POLL_EVERY = 1.0
QUIET_AFTER = 60.0  # a renamed file nobody wrote to for so long is closed
LOOK_APART = 0.05  # names are looked at no more often, whatever goes on in the directories
LOOK_SHARE = 20  # and if it takes long, because a directory is full, it takes no more than this part of the time
LEFT_AFTER = 600.0  # seconds: a log written so long before one of its name and a date is not what that was rotated from
COALESCE = 0.002  # a busy file is read no more often
REST_AFTER = 0.002  # seconds of reading after which others have the loop for a while, whatever they begin
REST_SHARE = 8  # which is this part of that time
FILES_MOST = 256
NAMES_MOST = 4096  # of those a glob matches
POSITIONS_MOST = 4096  # of logs not read now, where more are gone by now
COMPLAINTS_SHOWN = 3
ANY = ""  # the origin of the position that a log has of which nothing was kept yet
CLOCK_OF_FILES = 5  # CLOCK_REALTIME_COARSE, which the times of files are taken from

_log = logging.getLogger(__name__)


class FileSource:
    """Follows log files by path or glob (`~` is expanded).

    `positions` holds, by path, the last position of a chunk that was kept. A log without one is read from its
    beginning, and so are those of its earlier files that came since this was first run. `use_inotify` False leaves only
    polling. `may_be_slow`: some line may take a filter long.
    """

    def __init__(
        self,
        name: str,
        patterns: Sequence[str],
        positions: Mapping[str, str],
        *,
        may_be_slow: bool = False,
        use_inotify: bool = True,
        poll_every: float = POLL_EVERY,
        quiet_after: float = QUIET_AFTER,
    ) -> None:
        self.name = name
        self._patterns = list(map(whole_pattern, patterns))
        self._positions = dict(positions)
        self._positions_most = max(POSITIONS_MOST, 2 * len(self._positions))
        self._use_inotify = use_inotify
        self._poll_every = poll_every
        self._quiet_after = quiet_after
        self._tails: dict[str, Tail] = {}
        self._watch = DirectoryWatch(self._on_event)
        self._wake = asyncio.Event()
        self._has_changed = True
        self._looked_at = float("-inf")
        self._look_took = 0.0
        self._read_at = float("-inf")
        self._pace = Pace(may_be_slow=may_be_slow)
        self._unrested = 0.0  # seconds
        self._lag = Lag()
        self._complaints: list[str] = []
        self._logged: set[str] = set()

    async def run(self, deliver: Deliver) -> None:
        """Deliver chunks until cancelled. May be run again, and then continues behind what was delivered."""
        self._wake = asyncio.Event()
        self._looked_at = float("-inf")
        if self._use_inotify:
            self._watch.open(asyncio.get_running_loop())
        self._begin(deliver)
        try:
            while True:
                if time.monotonic() >= self._look_due:
                    self._look()
                has_more = await self._read_all(deliver)
                self._pace.end_round(has_more=has_more)
                if not has_more:
                    self._lag.caught_up()
                    await self._pause()
        finally:
            self._watch.close()
            for path in list(self._tails):
                self._drop(path)

    def _begin(self, deliver: Deliver) -> None:
        """Have kept when this was first run: else a log that is rotated before anything of it is kept would be lost."""
        if ANY not in self._positions:
            position = position_text(Position(since_ns=time.clock_gettime_ns(CLOCK_OF_FILES)))
            deliver(Chunk(ANY, Block(), position))
            self._positions[ANY] = position

    @property
    def _look_due(self) -> float:
        apart = LOOK_APART if self._has_changed else self._poll_every
        return self._looked_at + max(apart, self._look_took * LOOK_SHARE)

    def _look(self) -> None:
        now, began = time.monotonic(), time.thread_time()
        is_first, self._looked_at = self._looked_at < 0, now
        self._has_changed = False
        self._complaints = []
        paths = self._find_paths()
        self._make_room(paths)
        for path in self._with_vanished(paths) if is_first else paths:
            if path not in self._tails and len(self._tails) < FILES_MOST:
                saved = self._positions.get(path, self._positions[ANY])
                self._tails[path] = Tail(path, saved, self._reader_of, self._quiet_after, self._mark_of)
        for path, tail in list(self._tails.items()):
            tail.look(now)
            if tail.is_idle and path not in paths:
                self._drop(path)
        self._watch.keep(self._directories())
        self._log_complaints()
        self._look_took = time.thread_time() - began

    def _with_vanished(self, paths: Iterable[str]) -> list[str]:
        """Add the logs that were read before and may have been renamed meanwhile; what has a position comes first.

        A file that has another log's name now is so read on as the log that it was.
        """
        return sorted([*paths, *filter(None, self._positions)], key=lambda path: path not in self._positions)

    def _make_room(self, paths: Mapping[str, None]) -> None:
        """Close what is read and not wanted any more, if there are others to be read in its place."""
        over = len(self._tails) + sum(path not in self._tails for path in paths) - FILES_MOST
        unwanted = [path for path, tail in self._tails.items() if path not in paths and not tail.behind]
        for path in unwanted[: max(0, over)]:
            self._drop(path)

    def _find_paths(self) -> dict[str, None]:
        """Give the paths to follow: first those read before, so that a file with two names is read on by the same."""
        found = list(dict.fromkeys(path for pattern in self._patterns for path in self._expand(pattern)))
        if len(found) > FILES_MOST:
            which = f"only the {FILES_MOST} written last are read"
            self._complaints.append(f"{len(found)} files are too many: {which}; narrow the pattern")
            found = _written_last({*found, *self._tails})
        found.sort(key=lambda path: path not in self._tails and path not in self._positions)
        return dict.fromkeys(found)

    def _expand(self, pattern: str) -> Iterable[str]:
        if not _is_glob(pattern):
            return [pattern]
        names = glob.iglob(pattern)  # noqa: PTH207 - the pattern is a whole path
        found = sorted(islice(names, NAMES_MOST))
        if next(names, ""):
            self._complaints.append(f"{pattern} matches more than {NAMES_MOST} names: not all are seen; narrow it")
        logs = {*found, *self._tails, *self._positions}
        return [path for path in found if self._is_log(path, logs)]

    def _is_log(self, path: str, logs: set[str]) -> bool:
        """Say whether a file found by a glob is a log of its own: not an earlier generation of another."""
        if not path.isprintable():  # a name with surrogates cannot be kept, one with a newline not be shown
            if len(self._complaints) < COMPLAINTS_SHOWN:
                self._complaints.append(f"{path!r} is not read: rename it to something printable")
            return False
        directory, _, name = path.rpartition("/")
        origins = {f"{directory}/{log}" for log in rotated_from(name)} & logs
        is_dated = origins == {f"{directory}/{undated(name)}"}
        return not is_packed(name) and (not origins or (is_dated and self._is_left(origins.pop(), path)))

    def _is_left(self, log: str, dated: str) -> bool:
        """Say whether a log is not written any more, but one with a date in its name, which nobody reads as another."""
        with suppress(OSError):
            left, status = Path(log).stat(), Path(dated).stat()
            reader = self._reader_of((status.st_dev, status.st_ino))
            return status.st_mtime > left.st_mtime + LEFT_AFTER and reader in ("", dated)
        return False

    def _reader_of(self, identity: Identity) -> str:
        return next((path for path, tail in self._tails.items() if tail.reads(identity)), "")

    def _mark_of(self, generation: Generation) -> Mark | None:
        """Give how far a file was read as a log that it is no more: it was renamed to what is another log."""
        return next(filter(None, (tail.hand_over(generation) for tail in self._tails.values())), None)

    def _directories(self) -> set[str]:
        """Give the directories where something may happen that concerns us."""
        found = {directory for tail in self._tails.values() for directory in tail.directories}
        for pattern in filter(_is_glob, self._patterns):
            parent = pattern.rpartition("/")[0]
            found.update(os.path.realpath(directory) for directory in glob.glob(parent or "/"))  # noqa: PTH207
        return found

    def _drop(self, path: str) -> None:
        tail = self._tails.pop(path)
        tail.close()
        self._positions.pop(path, None)
        if tail.has_read:
            self._positions[path] = tail.position
        if len(self._positions) > self._positions_most:
            self._forget_vanished()

    def _forget_vanished(self) -> None:
        """Forget logs that are gone: who owns a directory may make new ones all the time, and have them read."""
        there = {path: text for path, text in self._positions.items() if not path or os.path.lexists(path)}
        self._positions, self._positions_most = there, max(POSITIONS_MOST, 2 * len(there))

    async def _read_all(self, deliver: Deliver) -> bool:
        """Deliver one chunk of every file that has one; say whether there may be more."""
        may_have_more = False
        for tail in list(self._tails.values()):
            now = time.monotonic()
            if tail.read(deliver, now, self._pace.bytes):
                may_have_more = True
                self._read_at = now
                took = time.monotonic() - now
                self._pace.took(took)
                self._unrested += took
                await self._rest()
        return may_have_more

    async def _rest(self) -> None:
        """Let others have their turn on the loop, and from time to time more than one: a pause takes time itself."""
        rest, self._unrested = (self._unrested, 0.0) if self._unrested >= REST_AFTER else (0.0, self._unrested)
        await asyncio.sleep(rest / REST_SHARE)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._look_due - time.monotonic()):
                await self._wake.wait()
        rest = self._read_at + COALESCE - time.monotonic()
        if rest > 0:
            await asyncio.sleep(rest)
        self._wake.clear()

    def _on_event(self, has_changed: bool) -> None:
        self._has_changed = self._has_changed or has_changed
        self._wake.set()

    def status(self) -> SourceStatus:
        """Say which paths are followed, how far reading is behind, and what is wrong."""
        tails = self._tails.values()
        complaints = self._all_complaints()
        shown = "; ".join(complaints[:COMPLAINTS_SHOWN])
        if len(complaints) > COMPLAINTS_SHOWN:
            shown += f"; and {len(complaints) - COMPLAINTS_SHOWN} more"
        behind = sum(tail.behind for tail in tails)
        return SourceStatus(tuple(self._tails), behind, shown, self._lag.seconds(behind))

    def _all_complaints(self) -> list[str]:
        said = [*(tail.complaint for tail in self._tails.values()), *self._complaints, self._watch.complaint]
        return [complaint for complaint in said if complaint]

    def _log_complaints(self) -> None:
        """Log what is new; a complaint that lasts is in the status, not in the log again and again."""
        complaints = self._all_complaints()
        for complaint in complaints:
            if complaint not in self._logged:
                _log.warning("source %s: %s", self.name, complaint)
        self._logged.intersection_update(complaints)
        self._logged.update(complaints)


def whole_pattern(pattern: str) -> str:
    """Give a path, or a pattern of paths, from the root on."""
    return os.path.abspath(Path(pattern).expanduser())  # noqa: PTH100 - no links


def _written_last(paths: Iterable[str]) -> list[str]:
    """Give the files written last, oldest first, of every directory as many.

    Who owns one directory must not crowd out the logs in others.
    """
    directories: dict[str, list[str]] = {}
    for path in sorted(paths, key=_written_ns, reverse=True):
        directories.setdefault(path.rpartition("/")[0], []).append(path)
    in_turn = chain.from_iterable(zip_longest(*directories.values()))
    return list(islice(filter(None, in_turn), FILES_MOST))[::-1]


def _written_ns(path: str) -> int:
    with suppress(OSError):
        return Path(path).stat().st_mtime_ns
    return 0


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")
