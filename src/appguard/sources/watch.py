"""Hear at once when something happens in some directories: inotify, by way of pyinotify.

What an event says is not believed but looked up by whoever is told, so of the kernel's records only two things are
used: whether they were all plain writes, and which watches are gone. File names, which others choose, are not decoded.
Where inotify is not to be had this does nothing but say so, and the polling of the file source is what remains.
"""

import logging
import os
import struct
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports asyncore, also where that is on its way out
    import pyinotify

pyinotify.log.handlers.clear()  # it writes to stderr on its own; all it has to say we get as exceptions
pyinotify.log.setLevel(logging.CRITICAL)

EVENTS_BYTES = 64 * 1024
_RECORD = struct.Struct("iIII")
_MASK = (
    pyinotify.IN_MODIFY
    | pyinotify.IN_ATTRIB
    | pyinotify.IN_CREATE
    | pyinotify.IN_DELETE
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_MOVED_TO
    | pyinotify.IN_DELETE_SELF
    | pyinotify.IN_MOVE_SELF
    | pyinotify.IN_ONLYDIR
)


class DirectoryWatch:
    """Watches directories. `on_event` is called on the loop with whether names may have changed, not only contents."""

    def __init__(self, on_event: Callable[[bool], None]) -> None:
        self.complaint = ""
        self._on_event = on_event
        self._loop: AbstractEventLoop | None = None
        self._manager: pyinotify.WatchManager | None = None

    def open(self, loop: AbstractEventLoop) -> None:
        """Begin; where the system gives no inotify, complain and do without."""
        try:
            self._manager = pyinotify.WatchManager()
        except (OSError, pyinotify.PyinotifyError) as error:
            self.complaint = f"files are looked at once a second only: {error}; raise fs.inotify.max_user_instances"
            return
        self._loop = loop
        descriptor = self._manager.get_fd()
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read)

    def keep(self, directories: Iterable[str]) -> None:
        """Watch exactly these directories. Those that are not there are left out."""
        manager = self._manager
        if manager is None:
            return
        self.complaint = ""
        kept = {wd for directory in directories for wd in self._add(manager, directory)}
        for wd in set(manager.watches) - kept:
            manager.rm_watch(wd)

    def _add(self, manager: pyinotify.WatchManager, directory: str) -> Iterable[int]:
        try:
            return manager.add_watch(directory, _MASK, quiet=False).values()  # of one already watched: the same number
        except (pyinotify.WatchManagerError, UnicodeError) as error:
            if os.access(directory, os.R_OK):  # else it is not there, or what is in it is not for us to know
                hint = "; raise fs.inotify.max_user_watches" if "ENOSPC" in str(error) else ""
                self.complaint = f"{directory} is looked at once a second only: {error}{hint}"
            return ()

    def _read(self) -> None:
        manager = self._manager
        assert manager is not None
        try:
            records = os.read(manager.get_fd(), EVENTS_BYTES)
        except BlockingIOError:
            return
        has_changed, at = False, 0
        while at < len(records):
            wd, mask, _, name_bytes = _RECORD.unpack_from(records, at)
            at += _RECORD.size + name_bytes
            has_changed = has_changed or mask != pyinotify.IN_MODIFY
            if mask & pyinotify.IN_IGNORED and wd in manager.watches:
                manager.del_watch(wd)
        self._on_event(has_changed)

    def close(self) -> None:
        """Stop watching. May be repeated."""
        if self._manager is None or self._loop is None:
            return
        self._loop.remove_reader(self._manager.get_fd())
        self._manager.close()
        self._manager = None
