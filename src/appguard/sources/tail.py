"""Follow one path through its generations, so that every line written to it is delivered once and in order.

Oldest first: a file that was renamed away is read to its end before the file that took its place, and is kept open
until it has been quiet for a while and the newer one has lines, because a writer goes on writing to the renamed file
until it reopens its log. What was closed is remembered by its mark, so that it is never taken for a file not yet read.
A file that came and went between two looks is found among the siblings; so is the copy that `copytruncate` made. All
this holds across a restart too, also for a log that was renamed away and has no successor yet, and for one of which
nothing was kept before it was rotated: what came after the source was first followed is never older than that.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appguard.errors import SourceError
from appguard.sources.base import Block, Chunk, Deliver
from appguard.sources.generation import (
    CHUNK_BYTES,
    TRUNCATED,
    Generation,
    Mark,
    Position,
    Reading,
    parse_position,
    position_text,
)
from appguard.sources.opening import open_log
from appguard.sources.siblings import Siblings

OPEN_MOST = 8  # generations kept open because they might still be written to
UNREAD_MOST = 32  # generations open at all: who owns the directory must not use up the daemon's descriptors
DONE_MOST = 8  # closed generations remembered
UNSETTLED_MOST = 20  # looks in a row that wait until nobody renames the files
SEARCH_SHARE = 20  # the search for copies of truncated files takes no more than this part of the time
UNLINKED_FACTOR = 10  # a deleted file without a successor is kept open this many times longer
LINKS_MOST = 40

Identity = tuple[int, int]  # device and inode
_log = logging.getLogger(__name__)


class Tail:
    """Follows one path. Its owner calls `look` when names may have changed, and `read` when bytes may have come.

    `reader_of` says which path a file is already read as, `mark_of` how far one was read as another path that is read
    as that no more. Times are monotonic seconds.
    """

    def __init__(
        self,
        path: str,
        saved: str,
        reader_of: Callable[[Identity], str],
        quiet_after: float,
        mark_of: Callable[[Generation], Mark | None] = lambda generation: None,
    ) -> None:
        self.path = path
        self._mark_of = mark_of
        self._has_moved = False  # what is to be kept, though no line was read
        self.directories = frozenset[str]()  # where names that matter may change
        self._reader_of = reader_of
        self._quiet_after = quiet_after
        self._open: list[Generation] = []
        self._search_at = 0.0
        self._unsettled = 0
        self._real = ""
        self._refusal = ""
        position = _parse(path, saved)
        self._done: list[Mark] = list(position.marks)
        self._since_ns = position.since_ns
        self._owner = position.owner
        self._may_resume = bool(self._done) and self._owner >= 0  # else whose files they are its successor tells

    def look(self, now: float) -> None:
        """Notice what has become of the path."""
        if self._is_current():
            self._refusal = ""
            return
        self.directories = directories_of(self.path)
        try:
            self._turn(Generation(open_log(self.path), now=now), now)
        except FileNotFoundError:
            if self._may_resume:
                self._resume(now)
            else:
                self._unsettled = 0
            is_rotating = bool(self._open) and now - self._open[-1].moved_at < self._quiet_after
            self._refusal = "" if is_rotating else f"{self.path} is not there"
        except SourceError as error:
            self._refusal = str(error)
        except OSError as error:
            self._refusal = f"{self.path} is not read: {error.strerror}"

    def _is_current(self) -> bool:
        status = self._status_of(self._open[-1]) if self._open else None
        if status:
            self._since_ns = status.st_mtime_ns  # what comes after it will be younger
        return status is not None

    def _status_of(self, generation: Generation) -> os.stat_result | None:
        """Give what the system says of the file at the path, if it is this one."""
        with suppress(OSError):
            status = Path(self.path).stat()
            if generation.identity == (status.st_dev, status.st_ino):
                return status
        return None

    def _resume(self, now: float) -> None:
        """Read on, after a restart, a log that was renamed away and has no successor yet."""
        siblings = Siblings(self.path, self._owner)
        if self._is_settled(siblings):
            self._reopen(None, siblings, now)
            if self._open:
                self._add_missed(siblings, None, self._since(), now)
                self._since_ns = self._open[-1].begun_ns  # what comes after them will be younger

    def _turn(self, newest: Generation, now: float) -> None:
        reader = "" if self._find_open(newest.identity) else self._reader_of(newest.identity)
        self._refusal = f"{self.path} is not read: it is the same file as {reader}" if reader else ""
        if reader:
            newest.close()
            return
        newest.note_head()
        siblings = Siblings(self.path, newest.owner)
        if not self._is_settled(siblings, newest):
            newest.close()
            return
        if not self._open:
            self._reopen(newest, siblings, now)
        is_known = self._recall(newest)
        is_same_log = self._real in ("", siblings.path)
        self._real = siblings.path
        newest.is_proven = is_known or not self._open  # before the first file ever read nothing was missed
        if is_same_log and not is_known:
            self._add_missed(siblings, newest, self._since(), now)
        for generation in self._open:
            generation.moved_at = now
        self._append(newest)
        self._owner, self._since_ns = newest.owner, newest.begun_ns

    def _since(self) -> int | None:
        """Give when the oldest generation that may have been missed was last written, at the earliest."""
        known = (self._since_ns, self._open[-1].status.st_mtime_ns if self._open else None)
        return min((each for each in known if each is not None), default=None)

    def _is_settled(self, siblings: Siblings, newest: Generation | None = None) -> bool:
        """Say whether nobody is just renaming the files, which may hide some; who never stops is not waited for."""
        is_renamed = newest is not None and self._status_of(newest) is None
        self._unsettled = self._unsettled + 1 if siblings.have_changed() or is_renamed else 0
        return self._unsettled % UNSETTLED_MOST == 0

    def _append(self, generation: Generation) -> None:
        self._open.append(generation)
        if len(self._open) > UNREAD_MOST:
            given_up = next((each for each in self._open[:-1] if not each.behind), self._open[0])
            if given_up.behind:
                _log.warning("%r is rotated faster than it can be read: lines were missed", self.path)
            self._forget(given_up)

    def _reopen(self, newest: Generation | None, siblings: Siblings, now: float) -> None:
        """Open the files of the saved marks; what is gone may come back, and is not read again then."""
        self._may_resume = False
        marks, self._done = self._done, []
        for mark in marks:
            descriptor = siblings.find(mark)
            found = Generation(descriptor, mark, now) if descriptor is not None else None
            if found:
                self._add(found, newest)
            elif mark.offset:
                self._done.append(mark)
            if newest and mark is marks[-1] and (not found or found.place.offset < mark.offset):
                _log.warning("%r: the file read before is gone; lines at its end may have been missed", self.path)

    def _add(self, generation: Generation, newest: Generation | None) -> None:
        is_newest = newest is not None and generation.identity == newest.identity
        if newest and is_newest:
            newest.place = generation.place
        if is_newest or self._find_open(generation.identity) or self._reader_of(generation.identity):
            generation.close()
        else:
            self._append(generation)

    def _recall(self, newest: Generation) -> bool:
        """Continue a file that was read before, if it is one: a symlink was turned back, a file renamed back."""
        again = self._find_open(newest.identity)
        if again:
            newest.place = again.place
            self._open.remove(again)
            again.close()
        mark = self.hand_over(newest) or (None if newest.place.offset else self._mark_of(newest))
        if mark:
            newest.resume(mark)
            self._has_moved = True
        return newest.place.offset > 0

    def hand_over(self, generation: Generation) -> Mark | None:
        """Give how far a file was read that is closed, and leave it to whoever has it now."""
        mark = next((mark for mark in self._done if generation.holds(mark)), None)
        if mark:
            self._done.remove(mark)
            self._has_moved = True
        return mark

    def _add_missed(self, siblings: Siblings, newest: Generation | None, since_ns: int | None, now: float) -> None:
        """Add the rotated files not read yet; a copy of the newest, just being made, only once that is truncated."""
        known = self._marks()
        for descriptor in siblings.younger(since_ns) if since_ns is not None else ():
            missed = Generation(descriptor, now=now)
            is_known = any(missed.holds(mark) or missed.copies(mark) for mark in known)
            if newest and newest.begins_with(missed):
                newest.begun_ns = min(newest.begun_ns, missed.begun_ns)
                missed.close()
            elif is_known or self._reader_of(missed.identity):
                missed.close()
            else:
                self._append(missed)

    def _marks(self) -> list[Mark]:
        return [*self._done, *(generation.mark for generation in self._open)]

    def _find_open(self, identity: Identity) -> Generation | None:
        return next((generation for generation in self._open if generation.identity == identity), None)

    def reads(self, identity: Identity) -> bool:
        """Say whether this tail has a file open."""
        return self._find_open(identity) is not None

    def read(self, deliver: Deliver, now: float, most: int = CHUNK_BYTES) -> bool:
        """Deliver the next chunk, of at most `most` bytes, if there is one; say whether there may be more."""
        self._keep_moved(deliver)
        if self._open:
            self._open[-1].note_head()
        for generation in self._open:
            if self._is_over(generation, now) and generation.read() is None:
                self._finish(generation, deliver)
                return True
        ready = self._first_ready(most)
        if ready and ready[0] is not self._open[0]:
            ready = self._first_ready(most)  # what an older file got before the newer one was written to comes first
        if not ready:
            return False
        generation, reading = ready
        if reading is TRUNCATED:
            return self._rewind(generation, now)
        if generation is self._open[-1] and not generation.is_proven:
            return self._prove(generation, now)
        generation.moved_at = now
        self._deliver(generation, reading, deliver)
        return True

    def _keep_moved(self, deliver: Deliver) -> None:
        if self._has_moved:
            self._has_moved = False
            deliver(Chunk(self.path, Block(), self.position))

    def _first_ready(self, most: int) -> tuple[Generation, Reading] | None:
        for generation in self._open:
            reading = generation.read(most)
            if reading:
                return generation, reading
        return None

    def _deliver(self, generation: Generation, reading: Reading, deliver: Deliver) -> None:
        before, generation.place = generation.place, reading.place
        if not reading.lines:
            return
        try:
            deliver(Chunk(self.path, reading.lines, self.position))
        except BaseException:
            generation.place = before  # not delivered: they come again
            raise

    def _rewind(self, generation: Generation, now: float) -> bool:
        """Begin a truncated file anew, after what its copy holds that was not read yet; False if it has to wait."""
        if now < self._search_at:
            return False  # nothing is lost by that: the copies stay where they are
        began = time.thread_time()  # the time others take on a busy machine is not ours
        siblings = Siblings(self.path, generation.owner)
        if not self._is_settled(siblings):
            return False
        mark, since_ns = generation.mark, generation.begun_ns
        generation.begin_anew()
        generation.note_head()
        descriptor = siblings.find(mark) if mark.offset else None
        if generation is self._open[-1]:
            self._open.pop()
            if descriptor is not None:
                copy = Generation(descriptor, mark, now)
                since_ns = copy.begun_ns
                self._add(copy, generation)
            self._add_missed(siblings, generation, since_ns, now)
            self._append(generation)
        elif descriptor is not None:
            os.close(descriptor)
        self._search_at = now + (time.thread_time() - began) * SEARCH_SHARE
        return True

    def _prove(self, newest: Generation, now: float) -> bool:
        """Add what was written and truncated before the first bytes were seen; False if it has to wait.

        Nothing in the file itself tells of that. From here on its first bytes do.
        """
        newest.note_head()
        siblings = Siblings(self.path, newest.owner)
        if not self._is_settled(siblings):
            return False
        self._open.pop()
        self._add_missed(siblings, newest, newest.begun_ns, now)
        self._append(newest)
        newest.is_proven = True
        return True

    def _is_over(self, generation: Generation, now: float) -> bool:
        quiet = now - generation.moved_at
        if generation is self._open[-1]:
            return quiet >= self._quiet_after * UNLINKED_FACTOR and not generation.status.st_nlink
        if len(self._open) > OPEN_MOST:
            return True
        return quiet >= self._quiet_after and self._open[-1].place.offset > 0

    def _finish(self, generation: Generation, deliver: Deliver) -> None:
        rest = generation.rest()
        if rest:
            self._deliver(generation, rest, deliver)
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        if generation.status.st_nlink and generation.place.offset:
            self._done = [*self._done, generation.mark][-DONE_MOST:]
        self._open.remove(generation)
        generation.close()

    @property
    def complaint(self) -> str:
        """Say what is wrong with the path or its files."""
        said = next((generation.complaint for generation in self._open if generation.complaint), "")
        return self._refusal or (said and f"{self.path} {said}")

    @property
    def position(self) -> str:
        """Give the marks of all generations, oldest first, as the text to continue from."""
        return position_text(Position(self._marks(), self._since_ns, self._owner))

    @property
    def has_read(self) -> bool:
        """Say whether there is anything to continue from."""
        return bool(self._open or self._done)

    @property
    def behind(self) -> int:
        """Give the number of bytes not yet read."""
        return sum(generation.behind for generation in self._open)

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is open, nor waited for."""
        return not self._open and not self._unsettled

    def close(self) -> None:
        """Close all files; the tail goes on where it was when it is looked at again."""
        self._done = self._marks()
        while self._open:
            self._open.pop().close()


def _parse(path: str, saved: str) -> Position:
    try:
        return parse_position(saved) if saved else Position()
    except (ValueError, RecursionError) as error:
        _log.warning("the saved position of %r is damaged (%s): it is read from its beginning", path, error)
        return Position()


def directories_of(path: str) -> frozenset[str]:
    """Give the real directories of a path, of the symlink it may be, and of what that leads to."""
    found: set[str] = set()
    here = Path(path)
    with suppress(OSError):  # it is no symlink, or not for us to see
        for _ in range(LINKS_MOST):
            found.add(os.path.realpath(here.parent))
            here = here.parent / here.readlink()
    return frozenset(found)
