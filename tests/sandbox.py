"""Runs a command under what a systemd unit allows it: `python -m tests.sandbox UNIT COMMAND...`.

What the kernel offers to everybody is set as systemd sets it: system calls and address families (seccomp), no memory
both writable and executable (prctl), umask. Users and capabilities are the caller's part; what needs mounts is left
out.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
EQUAL = 4
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
FAMILIES = 46

_seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_seccomp.seccomp_init.restype = ctypes.c_void_p
_seccomp.seccomp_rule_add_array.argtypes = (
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
_seccomp.seccomp_load.argtypes = (ctypes.c_void_p,)


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def settings(unit: Path) -> dict[str, list[str]]:
    """Give the settings of a unit file: every key with its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def calls(words: Iterable[str]) -> set[str]:
    """Give the system calls that words of `SystemCallFilter=` name, sets being what this systemd takes them for."""
    found: set[str] = set()
    for word in words:
        if not word.startswith("@"):
            found.add(word)
            continue
        command = ["systemd-analyze", "syscall-filter", "--no-pager", word]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        found |= calls(line.strip() for line in listing[1:] if line.strip() and "#" not in line)
    return found


def allowed_calls(filters: Iterable[str]) -> set[str]:
    """Give what is left by several `SystemCallFilter=` of which the first is a list of what is allowed."""
    allowed = calls(["@default"])
    for words in filters:
        named = calls(words.lstrip("~").split())
        allowed = allowed - named if words.startswith("~") else allowed | named
    return allowed


def _rule(context: int, action: int, name: str, *comparisons: _Comparison) -> None:
    number = _seccomp.seccomp_syscall_resolve_name(name.encode())
    if number < 0:  # none of this architecture
        return
    array = (_Comparison * len(comparisons))(*comparisons)
    done = _seccomp.seccomp_rule_add_array(context, action, number, len(comparisons), array)
    assert done == 0, f"{name}: {os.strerror(-done)}"


def enter(unit: Path) -> None:
    """Put this process, and what it becomes, under what the unit allows."""
    wanted = settings(unit)
    names = allowed_calls(wanted["SystemCallFilter"])
    os.umask(int(wanted["UMask"][0], 8))
    families = _seccomp.seccomp_init(ALLOW)
    permitted = {getattr(socket, name) for name in wanted["RestrictAddressFamilies"][0].split()}
    for family in set(range(FAMILIES)) - permitted:
        _rule(families, ERRNO | errno.EAFNOSUPPORT, "socket", _Comparison(0, EQUAL, family, 0))
    assert _seccomp.seccomp_load(families) == 0
    if wanted["MemoryDenyWriteExecute"] == ["yes"]:
        assert ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) == 0
    rest = _seccomp.seccomp_init(ERRNO | getattr(errno, wanted["SystemCallErrorNumber"][0]))
    for name in names:
        _rule(rest, ALLOW, name)
    assert _seccomp.seccomp_load(rest) == 0


if __name__ == "__main__":
    enter(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
