"""The file of the counters: made once, in a place that is ours alone, for one boot, and whole whoever dies over it."""

import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from appguard.limit import Hit, Limit
from appguard.rate import RUNS_PER_WINDOW, SlidingWindow
from appguard.stores import counter_table, local_counters, table_lock
from appguard.stores.counter_table import BOOT, WAYS, CounterTable, open_table
from appguard.stores.local import LocalStore
from appguard.stores.local_counters import LocalCounters
from tests.forked import forked

FIVE = Limit("5/minute")
HIT = (Hit("203.0.113.5 5/minute", FIVE),)
STRANGER = 65534


@contextmanager
def counters(directory: Path | None, app: str = "shop", sets: int = 64) -> Generator[LocalCounters]:
    """Give counters whose clock stands at 1000 seconds."""
    made = LocalCounters(app, directory, lambda: 1000.0, sets)
    try:
        yield made
    finally:
        made.close_table()


def admitted(directory: Path | None, app: str = "shop") -> int:
    """Give how many of twenty requests new counters admit."""
    with counters(directory, app) as made:
        return sum(made.check(HIT).refused is None for _ in range(20))


def file_in(directory: Path) -> Path:
    """Give the only file of a directory."""
    (file,) = directory.iterdir()
    return file


def test_new_client_is_counted_though_its_place_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of a client is whole, or nothing is: an exception may come from a signal handler, anywhere."""
    with counters(tmp_path / "c") as made:
        assert made.check(HIT).refused is None
        new = (Hit("203.0.113.6 5/minute", FIVE),)

        def late(*_: object) -> None:
            raise TimeoutError

        with monkeypatch.context() as patched:
            patched.setattr(CounterTable, "_put", late)
            with pytest.raises(TimeoutError):
                made.check(new)
        assert [made.check(new).refused is None for _ in range(6)] == [True] * 5 + [False]


def test_table_outlives_its_processes_and_is_private(tmp_path: Path) -> None:
    """What was counted is there for the next process of the app, in a file and a directory closed to others."""
    assert not (tmp_path / "c").exists()
    with counters(tmp_path / "c") as made:
        assert not (tmp_path / "c").exists()  # constructing opens nothing
        assert made.check(HIT).refused is None
    assert admitted(tmp_path / "c") == 4
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert file_in(tmp_path / "c").stat().st_mode & 0o777 == 0o600


def test_room_is_reserved(tmp_path: Path) -> None:
    """The file has no holes that a full disk could not fill later."""
    with counters(tmp_path / "c", sets=4096) as made:
        made.check(HIT)
    status = file_in(tmp_path / "c").stat()
    assert status.st_blocks * 512 >= status.st_size > 10_000_000


@pytest.mark.parametrize("app", ["", "../up", "a/b", "a\0b", ".", "x" * 500, "läden", "two words"])
def test_any_name_is_a_file_of_its_own(tmp_path: Path, app: str) -> None:
    """Whatever an app is called, its table is one file in the directory, and no other app's."""
    assert admitted(tmp_path / "c", app) == 5
    assert file_in(tmp_path / "c").is_file()
    assert admitted(tmp_path / "c", f"{app}_") == 5
    assert admitted(tmp_path / "c", app) == 0


def of_an_earlier_boot(file: Path) -> None:
    """Let a file be one of another boot."""
    boot = BOOT.read_bytes().strip()
    file.write_bytes(file.read_bytes().replace(boot, boot[:-1] + (b"0" if boot[-1:] != b"0" else b"1")))


def of_zeros(file: Path) -> None:
    """Let a file be what a process left that died before it had made a table of it."""
    file.write_bytes(bytes(file.stat().st_size))


def of_something_else(file: Path) -> None:
    """Let a file be another program's."""
    file.write_text("something else")


def of_too_few_bytes(file: Path) -> None:
    """Let a file be shorter than a table."""
    os.truncate(file, file.stat().st_size - 1)


def of_nothing(file: Path) -> None:
    """Let a file be empty."""
    os.truncate(file, 0)


@pytest.mark.parametrize("spoil", [of_an_earlier_boot, of_zeros, of_something_else, of_too_few_bytes, of_nothing])
def test_file_that_is_no_table_of_this_boot_is_emptied(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A file of an earlier boot, whose times mean nothing, and one that is no table are made anew."""
    assert [admitted(tmp_path / "c"), admitted(tmp_path / "c")] == [5, 0]
    spoil(file_in(tmp_path / "c"))
    assert [admitted(tmp_path / "c"), admitted(tmp_path / "c")] == [5, 0]


def test_removed_table_is_found_missing(tmp_path: Path) -> None:
    """If somebody removes the file, all processes share a new one a second later."""
    now = [1000.0]
    one, other = (LocalCounters("shop", tmp_path / "c", lambda: now[0]) for _ in range(2))
    for each in (one, other):
        assert each.check(HIT).refused is None
    file_in(tmp_path / "c").unlink()
    now[0] += 1.1
    assert [each.check(HIT).refused is None for each in (one, other) * 3] == [True] * 5 + [False]
    one.close_table()
    other.close_table()


# What strangers, or mistakes, may have put in its place


def is_refused(directory: Path, caplog: pytest.LogCaptureFixture, reason: str) -> bool:
    """Say whether each process counts for itself, which is logged once, with the reason."""
    caplog.clear()
    alone = [admitted(directory), admitted(directory)] == [5, 5]
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    return alone and len(records) == 2 and all(reason in record.getMessage() for record in records)


def test_place_made_by_others_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory of another user, one open to others, and a symbolic link are refused; limits go on in the process."""
    mine = tmp_path / "mine"
    mine.mkdir(0o700)
    (tmp_path / "link").symlink_to(mine)
    assert is_refused(tmp_path / "link", caplog, "link")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    assert is_refused(tmp_path / "open", caplog, f"must be a directory of user {os.geteuid()} with mode 0700")
    (tmp_path / "theirs").mkdir(0o700)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    assert is_refused(tmp_path / "theirs", caplog, f"must be a directory of user {os.geteuid()}")
    (tmp_path / "file").touch()
    assert is_refused(tmp_path / "file", caplog, "file")
    assert is_refused(tmp_path / "missing" / "c", caplog, "No such file")
    assert not list(mine.iterdir())


def test_link_in_place_of_the_file_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A symbolic link under the name of the table leads nowhere, and what it names is untouched."""
    assert admitted(tmp_path / "c") == 5
    file = file_in(tmp_path / "c")
    file.unlink()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    file.symlink_to(victim)
    assert is_refused(tmp_path / "c", caplog, "Too many levels of symbolic links")
    assert victim.read_text() == "kept"


def test_own_directory_is_found_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table lies in XDG_RUNTIME_DIR; without it, or if that is another user's, in the temporary directory."""
    temporary = Path(tempfile.gettempdir(), f"appguard-{os.geteuid()}")
    assert admitted(None) == 5
    assert file_in(temporary)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert admitted(None) == 5
    assert file_in(tmp_path / "appguard")
    os.chown(tmp_path / "appguard", STRANGER, STRANGER)
    assert admitted(None) == 0
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert admitted(None) == 0


def test_stores_of_one_app_share_by_default(tmp_path: Path) -> None:
    """Two `local://` stores of one app count together, another app's does not; closing may be repeated."""
    with LocalStore(tmp_path, app="shop") as one, LocalStore(tmp_path, app="shop") as two, LocalStore(tmp_path) as blog:
        assert [store.check(HIT).refused is None for store in (one, two) * 3] == [True] * 5 + [False]
        assert blog.check(HIT).refused is None
        one.close()
        one.close()
        assert one.check(HIT).refused == HIT[0]


def test_full_disk_is_no_failure(tmp_path: Path) -> None:
    """Where the file cannot be reserved nothing is taken, limits go on in the process, and later in a table."""

    def act() -> object:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        now = [1000.0]
        made = LocalCounters("shop", tmp_path / "c", lambda: now[0])
        alone = sum(made.check(HIT).refused is None for _ in range(20))
        size = file_in(tmp_path / "c").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        now[0] += 1.1
        return [alone, size, sum(made.check(HIT).refused is None for _ in range(20))]

    with forked(act) as child:
        assert child.answer() == [5, 0, 5]


ELSEWHERE = """
import limits, sys
sys.modules["fcntl"] = None
sys.platform = "win32"
from pathlib import Path
from appguard.limit import Hit, Limit
from appguard.stores.local import LocalStore
store, limit = LocalStore(Path("nowhere")), Limit("5/minute")
print(sum(store.check([Hit("203.0.113.5 x", limit)]).refused is None for _ in range(20)))
"""


def test_other_systems_count_in_the_process() -> None:
    """Where there is no fcntl (a system we cannot run here) the store imports, serves, and says what is missing."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"
    assert done.stderr.count("needs Linux") == 1


LOCKING = """
import sys
if len(sys.argv) > 2:
    sys.modules["ctypes"] = None
from appguard.stores.flock import FREE, TRY, flock
one, other = (open(sys.argv[1], "w") for _ in range(2))
free = flock(one.fileno(), TRY), flock(other.fileno(), TRY), flock(one.fileno(), FREE), flock(other.fileno(), TRY)
print(type(flock).__name__, *free)
"""


@pytest.mark.parametrize(("more", "kind"), [([], "_FuncPtr"), (["without ctypes"], "function")])
def test_lock_is_of_c_or_else_of_fcntl(tmp_path: Path, more: list[str], kind: str) -> None:
    """The lock is the same, only that fcntl's lets other threads come between."""
    words = [sys.executable, "-c", LOCKING, str(tmp_path / "locked"), *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{kind} 0 -1 0 0\n", "")


# Death in the middle


def die_at_line(number: int) -> None:
    """Let this process be killed when it reaches so many lines of the code of the table, its lock and its counters."""
    lines, files = 0, [module.__file__ for module in (counter_table, table_lock, local_counters)]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        lines += event == "line"
        if lines == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize("begin", ["first request", "new run", "same run", "old runs", "full set"])
def test_death_at_any_line_leaves_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture, begin: str) -> None:
    """Wherever in the code a process is killed, the others go on at once; at most its own request is miscounted."""
    number = 1
    while was_killed_at(number, tmp_path / "c", begin):
        number += 1
    assert number > 30
    assert not caplog.records  # nobody counted for itself


class Deadly:
    """A cost that kills whoever writes what it comes to, when the writing has begun."""

    def __radd__(self, _: object) -> "Deadly":
        return self

    def __rsub__(self, _: object) -> int:
        return 0

    def __index__(self) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_death_in_the_middle_of_a_write_forgets_nobody(tmp_path: Path) -> None:
    """A write that has begun and is not done leaves the word it is for as it was."""
    now = [1000.0]
    mine = LocalCounters("shop", tmp_path / "c", lambda: now[0])
    for _ in range(5):
        now[0] += 1.0
        assert mine.check(HIT).refused is None
    deadly: Any = Deadly()
    pid = os.fork()
    if not pid:
        mine.check(HIT)  # opens the table
        mine.check([Hit(HIT[0].key, FIVE, deadly)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert mine.check(HIT).refused is not None
    mine.close_table()


def test_usual_requests_are_counted_with_one_look(tmp_path: Path) -> None:
    """The second request of a run, and each after it, is counted the quick way, also after a reset."""
    table, hit = open_table("shop", tmp_path / "c", 1.0), HIT[0]
    for _ in range(2):
        assert table.quickly(hit, 1000.0) is None
        slot = table.take(table.place(hit.key), hit.rate, 1000.0)
        model = SlidingWindow(hit.rate)
        assert table.add(slot, hit.rate, 1000.0) == model.take(1000.0)
        for second in (1001.0, 1002.0):
            assert table.quickly(hit, second) == model.take(second)
        table.forget(hit.key.partition(" ")[0])
    table.close()


def was_killed_at(number: int, directory: Path, begin: str) -> bool:
    """Let a process be killed at a line while it counts, if it gets there, and check what is left to the others."""
    now = [1000.0]
    mine = LocalCounters("shop", directory, lambda: now[0], sets=1)
    before = prepare(mine, now, begin)
    pid = os.fork()
    if not pid:
        die_at_line(number)
        mine.check(HIT)
        os._exit(0)
    is_killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = sum(mine.check(HIT).refused is None for _ in range(20))
    most = 5 - before
    assert most - 1 <= left <= (most if is_killed else most - 1)
    now[0] += 60.0
    assert sum(mine.check(HIT).refused is None for _ in range(20)) == 5
    mine.close_table()
    file_in(directory).unlink()
    return is_killed


def prepare(mine: LocalCounters, now: list[float], begin: str) -> int:
    """Bring counters to where a request begins; give how many requests of the client count at that time."""
    if begin == "first request":
        mine.check([Hit("192.0.2.1 5/minute", FIVE)])
    elif begin == "full set":
        for number in range(WAYS * 4):
            mine.check([Hit(f"192.0.2.{number % WAYS} 5/minute", FIVE)])
    elif begin == "old runs":
        for _ in range(RUNS_PER_WINDOW + 2):
            for _ in range(4):
                mine.check(HIT)
            now[0] += 61.0
    else:
        mine.check(HIT)
        now[0] += 10.0 if begin == "new run" else 1.0
        return 1
    return 0
