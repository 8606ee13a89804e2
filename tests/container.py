"""A container as Docker makes one, of the kernel's own parts: a machine of its own, and a file system of its own.

Run as a program (`python -m tests.container SHARED COMMAND...`, in a mount namespace of its own) it makes the file
system and runs the command in it. In place of an image there are the machine's programs, the Python environment and the
checkout, as they are; of all else, /run, /tmp, /var and other homes included, the command sees nothing, but for the
directory SHARED, which it may read only. Whom the command runs as is its own first word's part (`setpriv`).
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import User

CHECKOUT = Path(__file__).parents[1]
ROOT = Path("/run/container-root")
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
DEVICES = ("null", "zero", "random", "urandom")


def contained(shared: Path, user: User | None, command: Sequence[str | Path]) -> list[str | Path]:
    """Give the command that runs another in a container that shares a directory with this host."""
    become = user.prefix() if user else []
    unshare = ["unshare", "--mount", "--propagation", "private"]
    return [*unshare, sys.executable, "-m", "tests.container", shared, *become, *command]


def joining(pid: int, user: User | None, command: Sequence[str | Path]) -> list[str | Path]:
    """Give the command that runs another in the container a process is in."""
    become = user.prefix() if user else []
    return ["nsenter", "--target", str(pid), "--mount", "--net", *become, *command]


def _image() -> Iterator[Path]:
    """Give what stands for the image, the outermost first."""
    found = {path for name in (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)) for path in (name, name.resolve())}
    yield from map(Path, PROGRAMS)
    yield from sorted(found)


def _make_root(shared: Path) -> None:
    ROOT.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "container", ROOT)
    (ROOT / "tmp").mkdir()
    (ROOT / "tmp").chmod(0o1777)
    for path in _image():
        _show(path)
    (ROOT / "proc").mkdir()
    _run("mount", "-t", "proc", "-o", "hidepid=invisible", "proc", ROOT / "proc")
    (ROOT / "dev").mkdir()
    for name in DEVICES:
        (ROOT / "dev" / name).touch()
        _run("mount", "--bind", Path("/dev", name), ROOT / "dev" / name)
    _show(shared)
    _run("mount", "-o", "remount,bind,ro", _inside(shared))


def _show(path: Path) -> None:
    """Show what is at a path of this host at the same path of the container, unless it is there already."""
    place = _inside(path)
    if place.exists() or not path.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        place.symlink_to(path.readlink())
        return
    place.mkdir()
    _run("mount", "--rbind", path, place)


def _inside(path: Path) -> Path:
    return ROOT / path.relative_to("/")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    """Make the file system and become the command in it."""
    shared, command = Path(sys.argv[1]), sys.argv[2:]
    _make_root(shared)
    os.chdir(ROOT)
    _run("pivot_root", ".", ".")  # the old root is now mounted above the new one
    _run("umount", "--lazy", ".")
    os.chdir("/")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
