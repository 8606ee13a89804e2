"""Enter the lab: run a command in private network, mount and process namespaces that end with it.

Theory of operation. `unshare` makes the namespaces and forks their first process, which is this file again with
`--inside`. That process prepares the lab, runs the command and, being the init of the process namespace, reaps
orphans; when it ends, the kernel kills all that is left in the lab. A signal to the process outside kills the first
process, and so everything.

Users other than ours must be able to run the interpreter and to read the checkout, even where these lie below a
directory closed to strangers, such as /root. So the topmost closed ancestor is covered by an empty open file system
and what is needed is bound back into it. All this is seen inside the lab only.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
STAGE = Path("/run/lab-stage")
INSIDE = "--inside"
ENTERED_BY_ALL = 0o001
READ_BY_ALL = 0o005


def give_up(message: str) -> NoReturn:
    """End with a message."""
    sys.exit(f"scripts/lab: {message}")


def namespaces() -> list[str]:
    """Give the options of `unshare`; without root a user namespace carries the others."""
    options = ["--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
    if os.geteuid() == 0:
        return options
    options.append("--map-root-user")
    if has_subordinate_users():
        options.append("--map-auto")
    if subprocess.run(["unshare", *options, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        give_up(
            "this machine lets only root make namespaces (look at the sysctls kernel.unprivileged_userns_clone,"
            " kernel.apparmor_restrict_unprivileged_userns and user.max_user_namespaces): run it as root"
        )
    return options


def has_subordinate_users() -> bool:
    """Say whether we were given user ids (subuid(5)) to act as other users inside the lab."""
    options = ["--map-root-user", "--map-auto"]
    return (
        shutil.which("newuidmap") is not None
        and not subprocess.run(["unshare", *options, "true"], stderr=subprocess.DEVNULL, check=False).returncode
    )


def outside(command: Sequence[str]) -> int:
    """Make the namespaces, run the command in them and give its exit status."""
    inside = [sys.executable, "-P", __file__, INSIDE, *command]
    signal.signal(signal.SIGINT, ignore)
    lab = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces(), *inside])

    def end(_signum: int, _frame: FrameType | None) -> None:
        lab.kill()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    status = lab.wait()
    return status if status >= 0 else 128 - status


def ignore(_signum: int, _frame: FrameType | None) -> None:
    """Leave a signal to the command: unlike SIG_IGN, this is not inherited by it."""


def run_inside(command: Sequence[str]) -> int:
    """Prepare the lab, run the command and reap orphans until it ends; give its exit status."""
    mount_run()
    open_the_way({CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)})
    bring_up_network()
    signal.signal(signal.SIGINT, ignore)
    try:
        child = subprocess.Popen(command, env={**os.environ, "APPGUARD_LAB": "1"})
    except OSError as error:
        give_up(f"cannot run {command[0]!r}: {error.strerror}")
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def mount_run() -> None:
    """Put an empty /run in place of the host's, so that no daemon of the host is found there."""
    mount_empty(Path("/run"))
    Path("/run/lock").mkdir(mode=0o1777)
    Path("/run/lock").chmod(0o1777)


def open_the_way(needed: Iterable[Path]) -> None:
    """Cover the closed directories above the needed ones, and bind the needed ones back in their places."""
    paths = sorted({path for name in needed for path in (name, name.resolve())})
    for path in paths:
        if path.stat().st_mode & READ_BY_ALL != READ_BY_ALL:
            give_up(f"the lab's other users must read {path}, which is closed to them: chmod -R go+rX {path}")
    closed = sorted({directory for path in paths for directory in closed_above(path)})
    if not closed:
        return
    here = Path.cwd()
    staged = list(stage(path for path in paths if any(path.is_relative_to(directory) for directory in closed)))
    for directory in closed:
        mount_empty(directory)
    for place, path in staged:
        if not path.exists():
            path.mkdir(parents=True)
            run("mount", "--move", place, path)
    os.chdir(here if here.exists() else CHECKOUT)  # through the new mounts: the old directory is a closed one


def closed_above(path: Path) -> Iterator[Path]:
    """Give the topmost ancestor that strangers may not enter, if there is one."""
    for ancestor in reversed(path.parents):
        if not ancestor.stat().st_mode & ENTERED_BY_ALL:
            yield ancestor
            return


def stage(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Bind each path where no cover will hide it."""
    for number, path in enumerate(paths):
        place = STAGE / str(number)
        place.mkdir(parents=True)
        run("mount", "--rbind", path, place)
        yield place, path


def mount_empty(directory: Path) -> None:
    """Mount an empty file system that all may enter."""
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "lab", directory)


def bring_up_network() -> None:
    """Bring the loopback up, with IPv6 whatever the host's defaults are."""
    for interface in ("all", "default", "lo"):
        switch = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
        if not switch.exists():
            give_up("this kernel has IPv6 switched off; AppGuard's tests need it")
        switch.write_text("0")
    run("ip", "link", "set", "lo", "up")


def run(*command: str | Path) -> None:
    """Run a command of the set-up; end if it fails, its own message says why."""
    if subprocess.run(command, check=False).returncode:
        give_up(f"cannot prepare the lab: {' '.join(map(str, command))} failed")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(run_inside(arguments[1:]) if arguments[0] == INSIDE else outside(arguments))
