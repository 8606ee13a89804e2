"""The journal source against a real journald: which entries it delivers, as what, and from where after a restart."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.members import Origin
from appguard.sources.base import LINE_MOST
from appguard.sources.journal import RECORD_MOST, JournalSource, journal_origin
from appguard.state import Batch, State
from tests.daemon import Place, login_failure, running_daemon
from tests.integration.reading import Kept, running
from tests.journal import Journal
from tests.lab import processes, wait_until

pytestmark = pytest.mark.lab
MATCHES = ("SYSLOG_IDENTIFIER=sshd", "+", "SYSLOG_IDENTIFIER=shop")
NAME = "journal of the test"


@pytest.fixture
def journal(open_tmp_path: Path) -> Iterator[Journal]:
    """Give a journal that is written to."""
    with Journal(open_tmp_path).running() as found:
        yield found


def source_of(journal: Journal, kept: Kept, *matches: str) -> JournalSource:
    """Give a source that goes on where the last one was."""
    where = str(journal.directory)
    return JournalSource(NAME, matches or MATCHES, kept.positions, directory=where, pause_first=0.05)


def messages(kept: Kept) -> list[bytes]:
    """Give what was said, without host and program."""
    return [line.partition(b": ")[2] for line in kept.lines()]


def test_entries_are_lines_as_syslog_writes_them(journal: Journal) -> None:
    """What matches is delivered with host, program and process id, and the time it was received; nothing else is."""
    kept, host = Kept(), os.uname().nodename.encode()
    begin = time.time()
    journal.write(b"before", SYSLOG_IDENTIFIER="sshd", SYSLOG_PID="17")
    with running(source_of(journal, kept), kept) as run:
        wait_until(kept.lines, 10, lambda: run.status().complaint)
        journal.write(b"other", SYSLOG_IDENTIFIER="cron")
        journal.write(b"caf\xe9 \x1b[31mred\x1b[0m \xf0\x9f\x90\x8d\n", SYSLOG_IDENTIFIER="shop")
        journal.write(b"two\nlines", SYSLOG_IDENTIFIER="sshd", SYSLOG_PID="18")
        kept.wait_for(
            [
                host + b" sshd[17]: before",
                host + b" shop[%d]: caf\xe9 \x1b[31mred\x1b[0m \xf0\x9f\x90\x8d" % os.getpid(),
                host + b" sshd[18]: two#012lines",
            ]
        )
        times = [time for chunk in kept.chunks for time in chunk.times or ()]
        assert (len(times), times) == (3, sorted(times))
        assert begin <= times[0] <= times[-1] <= time.time()
        assert (run.status().behind, run.status().complaint, run.status().origins) == (0, "", (NAME,))


def test_long_entries(journal: Journal) -> None:
    """A long message is cut as any line; one beyond all bounds is counted, and what follows it is read."""
    kept = Kept()
    with running(source_of(journal, kept), kept) as run:
        journal.write(b"x" * 3 * LINE_MOST, SYSLOG_IDENTIFIER="sshd")
        journal.write(b"\xff" * (RECORD_MOST // 8), SYSLOG_IDENTIFIER="sshd")
        journal.write(b"\xff" * 200_000, SYSLOG_IDENTIFIER="sshd")
        journal.write(b"after", SYSLOG_IDENTIFIER="sshd")
        wait_until(lambda: messages(kept)[-1:] == [b"after"], 10, lambda: str(len(kept.lines())))
        run.wait_for_complaint("1 entries were too long to read")
    assert [len(line) for line in kept.lines()[:2]] == [LINE_MOST] * 2
    assert len(kept.lines()) == 3


@pytest.mark.parametrize("seed", range(2))
def test_every_entry_once_over_restarts(journal: Journal, seed: int) -> None:
    """However often the source and its journalctl end, at whatever point, no entry is lost or comes twice."""
    kept, chance, written = Kept(), random.Random(seed), 0
    for _ in range(6):
        for _ in range(chance.randint(0, 40)):
            journal.write(b"%d" % written, SYSLOG_IDENTIFIER=chance.choice(["sshd", "shop"]))
            journal.write(b"not ours", SYSLOG_IDENTIFIER="cron")
            written += 1
        with running(source_of(journal, kept), kept):
            wanted = chance.randint(len(kept.lines()), written)
            wait_until(lambda least=wanted: len(kept.lines()) >= least, 10, "some entries")  # type: ignore[misc]
            if chance.random() < 0.5:
                kill_journalctl(journal)
    with running(source_of(journal, kept), kept):
        wait_until(lambda: len(kept.lines()) >= written, 10, lambda: f"{written}: {len(kept.lines())}")
        journal.write(b"the end", SYSLOG_IDENTIFIER="sshd")
        wait_until(lambda: messages(kept)[-1] == b"the end", 10, "the end")
    assert messages(kept) == [*(b"%d" % number for number in range(written)), b"the end"]


def kill_journalctl(journal: Journal) -> None:
    """Kill the journalctl that reads this journal, if it runs."""
    for pid, command in processes().items():
        if (
            command.startswith(("journalctl", "/usr/bin/journalctl", "/bin/journalctl"))
            and str(journal.directory) in command
        ):
            os.kill(pid, signal.SIGKILL)


def test_a_cursor_whose_entry_is_not_found_skips_nothing(journal: Journal) -> None:
    """Where the entry of the position is none that is read any more, reading goes on at the first one behind it."""
    kept = Kept()
    journal.write(b"first", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept):
        wait_until(kept.lines, 10, "the first entry")
    journal.write(b"second", SYSLOG_IDENTIFIER="shop")
    with running(source_of(journal, kept, "SYSLOG_IDENTIFIER=shop"), kept):  # the entry of the cursor does not match
        wait_until(lambda: len(kept.lines()) == 2, 10, "the second entry")
    assert messages(kept) == [b"first", b"second"]


def test_without_following_journalctl_gives_the_same(journal: Journal) -> None:
    """What the source delivers is what journalctl finds when it does not follow."""
    kept = Kept()
    for number in range(50):
        journal.write(b"%d" % number, SYSLOG_IDENTIFIER="sshd")
    source = source_of(journal, kept)
    with running(source, kept):
        wait_until(lambda: len(kept.lines()) == 50, 10, lambda: f"{len(kept.lines())}")
    where = f"--directory={journal.directory}"
    found = subprocess.run(
        ["journalctl", where, "--output=cat", "--no-pager", *MATCHES], capture_output=True, check=True
    )
    assert found.stdout.splitlines() == messages(kept)


def test_other_matches_go_on_where_the_old_ones_were(journal: Journal, tmp_path: Path) -> None:
    """When `journalmatch` is changed nothing is read again, and what comes since is read by the new one."""
    state, was, is_now, kept = State(tmp_path / "state"), "journal of old", "journal of now", Kept()
    origin = Origin("journal", MATCHES, str(journal.directory))
    state.open()
    journal.write(b"old", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept):
        wait_until(kept.lines, 10, "the entry")
    state.save(Batch(positions={(was, name): text for name, text in kept.positions.items()}))
    state.adopt({is_now: origin.has})
    state.adopt({"journal of another directory": Origin("journal", MATCHES, "/elsewhere").has})
    assert not state.positions("journal of another directory")
    kept = Kept()
    kept.positions = state.positions(is_now)
    journal.write(b"now", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept, "SYSLOG_IDENTIFIER=sshd"), kept):
        wait_until(kept.lines, 10, "the entry")
    assert messages(kept) == [b"now"]
    state.close()


def test_a_position_of_an_earlier_version_is_continued(journal: Journal) -> None:
    """It was kept under the name of the source; what was read by it is not counted again."""
    kept = Kept()
    journal.write(b"old", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept):
        wait_until(kept.lines, 10, "the entry")
    kept.positions = {NAME: kept.positions[journal_origin(str(journal.directory))]}
    journal.write(b"new", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept):
        wait_until(lambda: len(kept.lines()) > 1, 10, "the new entry")
    assert messages(kept) == [b"old", b"new"]


def test_a_damaged_position_is_none(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """A position that is no cursor is said to be damaged, and everything of the last day is read."""
    kept = Kept()
    kept.positions[journal_origin(str(journal.directory))] = "s=1;--vacuum-size=1"
    journal.write(b"here", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept):
        wait_until(kept.lines, 10, "the entry")
    assert "the saved position of 'journal of the test' is damaged" in caplog.text


def test_a_missing_journalctl_is_a_complaint(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no journalctl that is said, tried again, and all is read once there is one."""
    kept = Kept()
    monkeypatch.setattr("appguard.sources.journal.JOURNALCTL", "a-journalctl")
    monkeypatch.setenv("PATH", str(tmp_path))
    journal.write(b"here", SYSLOG_IDENTIFIER="sshd")
    with running(source_of(journal, kept), kept) as run:
        run.wait_for_complaint("a-journalctl is not installed")
        (tmp_path / "a-journalctl").symlink_to("/usr/bin/journalctl")
        wait_until(kept.lines, 10, "the entry")
        assert run.status().complaint == ""


def test_filters_of_whole_lines_get_messages_alone(journal: Journal) -> None:
    """For a filter whose lines have a form of their own, nothing stands in front of the message."""
    kept = Kept()
    journal.write(b"{}", SYSLOG_IDENTIFIER="shop")
    with running(JournalSource(NAME, MATCHES, {}, directory=str(journal.directory), is_bare=True), kept):
        kept.wait_for([b"{}"])


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_daemon_counts_every_entry_once(open_tmp_path: Path, seed: int) -> None:
    """A daemon killed at random points while entries come in counts each of them exactly once, in both of its jails."""
    place, chance, written = Place(open_tmp_path, user=None), random.Random(seed), 0
    (open_tmp_path / "journald").mkdir()
    with Journal(open_tmp_path / "journald").running() as journal:
        place.configure("".join(jail_on(journal, name) for name in ("one", "two")), '[firewall]\nkind = "dry_run"\n')
        for _ in range(4):
            daemon = place.start()
            try:
                for _ in range(chance.randint(5, 200)):
                    journal.write(failure(written), SYSLOG_IDENTIFIER="shop")
                    written += 1
            finally:
                daemon.send(signal.SIGKILL)
                daemon.stop()
        with running_daemon(place):
            wait_until(lambda: min(counted(place)) >= written, 20, lambda: f"{written}: {counted(place)}")
            journal.write(failure(written), SYSLOG_IDENTIFIER="shop")
            wait_until(lambda: min(counted(place)) > written, 20, lambda: f"{written} + 1: {counted(place)}")
            assert counted(place) == [written + 1] * 2
            (source,) = place.ask("status")["sources"]
            assert (source["behind"], source["complaint"]) == (0, "")


def jail_on(journal: Journal, name: str) -> str:
    """Give the settings of a jail that counts and never bans."""
    return (
        f'[jails.{name}]\nsource = "journal:{journal.directory}"\njournalmatch = "SYSLOG_IDENTIFIER=shop"\n'
        'filter = "appguard"\nmaxretry = 10000\nfindtime = "1d"\n'
    )


def failure(number: int) -> bytes:
    """Make the line of a failed login."""
    return login_failure(f"203.0.113.{number % 250}").to_line().encode()


def counted(place: Place) -> list[int]:
    """Give what each jail has counted."""
    return [jail["total_failed"] for jail in place.ask("status")["jails"]]
