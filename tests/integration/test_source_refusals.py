"""What the file source does not read, what it says of it, and that it goes on with everything else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appguard.sources.file import FileSource
from tests.integration.reading import STRANGER, Kept, as_stranger, running
from tests.lab import has_user

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")


def make_fifo(path: Path) -> None:
    """Make a FIFO that nobody writes to."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Make a file that is a socket."""
    os.mknod(path, 0o140600)


def link_to_device(path: Path) -> None:
    """Make a symlink to a device, as images of containers have for their logs."""
    path.symlink_to("/dev/null")


def link_to_itself(path: Path) -> None:
    """Make a symlink that leads nowhere."""
    path.symlink_to(path)


def make_directory(path: Path) -> None:
    """Make a directory."""
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_fifo, "a FIFO"),
        (make_socket, "a socket"),
        (make_directory, "a directory"),
        (link_to_device, "a device"),
        (link_to_itself, "its symlinks lead nowhere"),
    ],
)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    """Whatever could hold the daemon up is refused with a complaint, and the other files are read."""
    bad, good = tmp_path / "bad.log", tmp_path / "good.log"
    make(bad)
    good.write_bytes(b"1\n")
    kept = Kept()
    with running(FileSource("log", [str(bad), str(good)], {}), kept) as run:
        kept.wait_for([b"1"])
        run.wait_for_complaint(f"{bad} is not read: ", what)


@needs_users
def test_a_symlink_into_another_users_file_is_refused(tmp_path: Path) -> None:
    """What a user links to, a file or its directory, is read only if it is that user's, or root made the link."""
    (tmp_path / "etc").mkdir()
    secret, own = tmp_path / "etc" / "secret.log", tmp_path / "etc" / "own.log"
    secret.write_bytes(b"secret\n")
    own.write_bytes(b"own\n")
    os.chown(own, STRANGER, STRANGER)
    for link, target in (("link", secret), ("dir", secret.parent), ("mine", own), ("chain", "mine"), ("root", secret)):
        (tmp_path / link).symlink_to(target)
        if link != "root":
            os.chown(tmp_path / link, STRANGER, STRANGER, follow_symlinks=False)
    bad, good = [tmp_path / "link", tmp_path / "dir" / "secret.log"], [tmp_path / "chain", tmp_path / "root"]
    kept = Kept()
    with running(FileSource("log", [str(path) for path in (*bad, *good)], {}), kept) as run:
        kept.wait_for([b"own", b"secret"])
        assert kept.origins() == set(map(str, good))
        for path in bad:
            run.wait_for_complaint(f"{path} is not read: the user nobody made it a symlink to a file of root")


@needs_users
def test_an_unreadable_log_is_a_complaint_with_advice(open_tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Status says which file, which user and what to do, for the file and for its directory; the log says it once."""
    shared, closed, hidden = open_tmp_path / "shared.log", open_tmp_path / "closed.log", open_tmp_path / "dir" / "a.log"
    hidden.parent.mkdir(mode=0o700)
    for path, mode in ((shared, 0o640), (closed, 0o600), (hidden, 0o644)):
        path.write_bytes(b"1\n")
        path.chmod(mode)

    def complain() -> str:
        kept = Kept()
        source = FileSource("log", [str(shared), str(closed), str(hidden)], {}, poll_every=0.01)
        with running(source, kept) as run:
            said = run.wait_for_complaint(str(shared), str(closed), str(hidden))
        assert not kept.lines()
        return "\n".join([*said.split("; "), *(record.getMessage() for record in caplog.records)])

    lines = as_stranger(complain).splitlines()
    nobody = "the daemon runs as user nobody, who may not read"
    assert lines[:3] == [
        f"{shared} is not read: {nobody} {shared}: add that user to the group root (usermod -aG root nobody)"
        " and restart the daemon",
        f"{closed} is not read: {nobody} {closed}: make it readable for a group of that user (chgrp adm {closed}, chmod"
        f" g+rX {closed})",
        f"{hidden} is not read: {nobody} {hidden.parent}: make it readable for a group of that user (chgrp adm"
        f" {hidden.parent}, chmod g+rX {hidden.parent})",
    ]
    assert lines[3:] == [f"source log: {complaint}" for complaint in lines[:3]]


def test_a_readable_log_ends_the_complaint(tmp_path: Path) -> None:
    """What was refused is tried again, and read from its beginning as soon as it is right."""
    log = tmp_path / "log"
    log.mkdir()
    kept = Kept()
    with running(FileSource("log", [str(log)], {}), kept) as run:
        run.wait_for_complaint("is a directory")
        log.rmdir()
        log.write_bytes(b"1\n")
        kept.wait_for([b"1"])
        assert run.status().complaint == ""


def test_names_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    """A file whose name has a line end or is no UTF-8 is not read, and disturbs neither glob nor watch."""
    kept = Kept()
    with running(FileSource("log", [f"{tmp_path}/*.log"], {}), kept) as run:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.log")).write_bytes(b"bad\n")
        (tmp_path / "a\nb.log").write_bytes(b"bad\n")
        (tmp_path / "good.log").write_bytes(b"1\n")
        kept.wait_for([b"1"])
        run.wait_for_complaint(rf"'{tmp_path}/\udcff.log' is not read", r"/a\nb.log' is not read")


def test_too_many_files_are_a_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a directory cannot use up the daemon's descriptors by filling it."""
    monkeypatch.setattr("appguard.sources.file.FILES_MOST", 3)
    for number in range(5):
        (tmp_path / f"{number}.log").write_bytes(b"%d\n" % number)
        os.utime(tmp_path / f"{number}.log", (number, number))
    kept = Kept()
    with running(FileSource("log", [f"{tmp_path}/*.log"], {}), kept) as run:
        run.wait_for_complaint("5 files are too many: only the 3 written last are read; narrow the pattern")
        kept.wait_for([b"2", b"3", b"4"])


def test_a_bad_disk_ends_nothing(tmp_path: Path) -> None:
    """A file the system cannot read from is a complaint, and the others are read."""
    good = tmp_path / "good.log"
    good.write_bytes(b"1\n")
    kept = Kept()
    bad = f"/proc/{os.getpid()}/mem"  # a regular file whose first byte cannot be read
    with running(FileSource("log", [bad, str(good)], {}), kept) as run:
        run.wait_for_complaint(f"{bad} cannot be read: Input/output error")
        kept.wait_for([b"1"])


WITHOUT_INOTIFY = """
import asyncio, sys
from pathlib import Path
from appguard.sources.file import FileSource

log, limit = Path(sys.argv[1]), Path("/proc/sys/user", sys.argv[2])
limit.write_text("0")
source = FileSource("log", [str(log)], {}, poll_every=0.02)
lines = []

async def main():
    task = asyncio.create_task(source.run(lambda chunk: lines.extend(chunk.lines)))
    for number in range(3):
        with log.open("ab") as writer:
            writer.write(b"%d\\n" % number)
        while len(lines) <= number:
            await asyncio.sleep(0.005)
    print(source.status().complaint)
    task.cancel()

asyncio.run(asyncio.wait_for(main(), 10))
"""


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        ("max_inotify_instances", "fs.inotify.max_user_instances"),
        ("max_inotify_watches", "fs.inotify.max_user_watches"),
    ],
)
def test_without_inotify_there_is_polling_and_a_complaint(tmp_path: Path, limit: str, advice: str) -> None:
    """Where the kernel gives no inotify instance, or no watch, lines still arrive and status says what to raise."""
    command = [sys.executable, "-c", WITHOUT_INOTIFY, str(tmp_path / "log"), limit]
    result = subprocess.run(["unshare", "-Ur", *command], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr.count("Traceback")) == (0, 0), result.stderr
    assert "once a second only" in result.stdout
    assert f"raise {advice}" in result.stdout
