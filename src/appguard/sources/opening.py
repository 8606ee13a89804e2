"""Open a log without being led astray by whoever owns the directory it is in.

Only a regular file is ever opened for reading; a FIFO or a device could hold the daemon up. A symlink on the way, in
whatever component, is followed only if root owns it or the owner of the file at its end does: else the user of one
app could make the daemon read another user's file. The path is walked one component at a time, each opened inside the
one before, so that nothing can be exchanged between the look and the opening.
"""

import grp
import os
import pwd
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

from appguard.errors import SourceError

STEPS_MOST = 256  # components and symlinks of one path
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


def open_log(path: str) -> int:
    """Open the regular file at an absolute path; give its descriptor.

    Raise `FileNotFoundError` if there is none, `SourceError` with what to do about it if it may not be read.
    """
    with ExitStack() as opened:
        root = directory = here = _look("/", None, opened)
        names = path.split("/")[::-1]
        name, owners = "", set[int]()
        for _ in range(STEPS_MOST):
            if not names:
                return _open(path, name, directory, owners)
            name = names.pop() or "."
            here = _look_in(path, name, directory, opened)
            status = os.fstat(here)
            if stat.S_ISLNK(status.st_mode):
                owners.add(status.st_uid)
                target = os.readlink("", dir_fd=here)
                names += target.split("/")[::-1]
                directory = root if target.startswith("/") else directory
            elif names:
                directory = here
    raise SourceError(f"{path} is not read: its symlinks lead nowhere")


def _look(name: str, directory: int | None, opened: ExitStack) -> int:
    descriptor = os.open(name, _LOOK, dir_fd=directory)
    opened.callback(os.close, descriptor)
    return descriptor


def _look_in(path: str, name: str, directory: int, opened: ExitStack) -> int:
    try:
        return _look(name, directory, opened)
    except PermissionError as error:
        raise SourceError(_denied(path, _text_of(directory, path), os.fstat(directory), 0o010)) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SourceError(f"{path} is not read: {error.strerror}") from error


def _open(path: str, name: str, directory: int, link_owners: set[int]) -> int:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    _check(path, status, link_owners)
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except PermissionError as error:
        raise SourceError(_denied(path, path, status, 0o040)) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SourceError(f"{path} is not read: {error.strerror}") from error
    try:
        _check(path, os.fstat(descriptor), link_owners)  # it may be another file by now
    except SourceError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: str, status: os.stat_result, link_owners: set[int]) -> None:
    if not stat.S_ISREG(status.st_mode):
        advice = f"; name the files in it, such as {path}/*.log" if stat.S_ISDIR(status.st_mode) else ""
        raise SourceError(f"{path} is not read: it is {_kind(status.st_mode)}, not a regular file{advice}")
    strangers = link_owners - {0, status.st_uid}
    if strangers:
        raise SourceError(
            f"{path} is not read: the user {user_name(strangers.pop())} made it a symlink to a file of "
            f"{user_name(status.st_uid)}; if that is right, let root make the symlink"
        )


def open_sibling(path: str, owner: int) -> int | None:
    """Open a regular file that belongs to `owner`; None if it is none, or may not be read."""
    with suppress(OSError):
        descriptor = os.open(path, _READ)  # not a device: only root makes those, and root is trusted with its own
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
            return descriptor
        os.close(descriptor)
    return None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symlink"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _denied(path: str, what: str, status: os.stat_result, bit: int) -> str:
    user, group = user_name(os.geteuid()), _group_name(status.st_gid)
    if status.st_mode & bit:
        advice = f"add that user to the group {group} (usermod -aG {group} {user}) and restart the daemon"
    else:
        advice = f"make it readable for a group of that user (chgrp adm {what}, chmod g+rX {what})"
    return f"{path} is not read: the daemon runs as user {user}, who may not read {what}: {advice}"


def _text_of(directory: int, path: str) -> str:
    with suppress(OSError):  # /proc may not be mounted, and this is for a message only
        return str(Path(f"/proc/self/fd/{directory}").readlink())
    return f"a directory of {path}"


def user_name(uid: int) -> str:
    """Give the name of a user, or the number where there is no name."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group_name(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
