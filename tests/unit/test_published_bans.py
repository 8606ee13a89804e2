"""The published bans: read without locks by anybody, changed by the daemon alone, whatever happens to the files."""

import logging
import os
import resource
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Network, parse_network
from appguard.ban import Ban, Fact
from appguard.errors import StoreError
from appguard.stores.fact_lines import fact_line, parse_fact
from appguard.stores.local import ASIDE_AT_LEAST, COMPACT_AT_LEAST, RECHECK, LocalStore, Publisher
from tests.forked import forked
from tests.lab import has_user, wait_until
from tests.published import STRANGER, Reader, ban_of, fact_of, nothing_else
from tests.strategies import near_networks
from tests.threads import no_more_threads

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")


def test_news_is_seen_at_the_very_next_request(publisher: Publisher, reader: Reader) -> None:
    """A ban and its end hold from the moment `publish` returns, with no clock moving."""
    publisher.publish_all([ban_of("203.0.113.1")])
    assert reader.is_banned("203.0.113.1")
    for _ in range(3):
        publisher.publish([fact_of("203.0.113.5"), fact_of("198.51.100.0/24"), fact_of("2001:db8::/64")], nothing_else)
        assert all(map(reader.is_banned, ("203.0.113.1", "203.0.113.5", "198.51.100.9", "2001:db8::9")))
        publisher.publish(
            [fact_of("203.0.113.5", is_lifted=True), fact_of("198.51.100.0/24", is_lifted=True)], nothing_else
        )
        assert not any(map(reader.is_banned, ("203.0.113.5", "198.51.100.9")))


def test_nothing_to_publish_writes_nothing(publisher: Publisher, tmp_path: Path) -> None:
    """Without facts no file appears."""
    publisher.publish([], nothing_else)
    assert list(tmp_path.iterdir()) == []


def test_compaction_is_seen_and_happens_rarely(publisher: Publisher, reader: Reader) -> None:
    """The bans are written anew only when the changes outgrow both them and the least, and no ban is missing then."""
    rewritten: list[int] = []
    in_force = [ban_of(f"10.0.{number >> 8}.{number & 255}") for number in range(3 * COMPACT_AT_LEAST // 2)]

    def all_in_force() -> Sequence[Ban]:
        rewritten.append(number)
        return in_force

    publisher.publish_all(in_force)
    for number in range(4 * COMPACT_AT_LEAST):
        publisher.publish([fact_of("203.0.113.5", is_lifted=bool(number % 2))], all_in_force)
        if number % 100 == 0 and number not in rewritten:
            assert reader.is_banned("203.0.113.5")
    assert rewritten == [3 * COMPACT_AT_LEAST // 2, 3 * COMPACT_AT_LEAST + 1]
    assert {ban.key for ban in reader.snapshot().bans} == {ban.key for ban in in_force}


def test_many_bans_are_written_anew_by_a_thread(publisher: Publisher, reader: Reader) -> None:
    """While a thread writes, changes are seen at the very next request; they stand in the new file too."""
    in_force = [ban_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(ASIDE_AT_LEAST)]
    may_write, asked = Event(), Event()

    def all_in_force() -> Sequence[Ban]:
        asked.set()
        may_write.wait(10)
        return in_force

    publisher.publish_all([*in_force, ban_of("203.0.113.1")])
    changes = [fact_of("203.0.113.5", is_lifted=bool(number % 2)) for number in range(ASIDE_AT_LEAST + 2)]
    publisher.publish(changes, all_in_force)
    assert asked.wait(10)
    for last, is_lifted in ((7, False), (8, False), (8, True)):
        publisher.publish([fact_of(f"203.0.113.{last}", is_lifted=is_lifted)], nothing_else)
        assert reader.is_banned(f"203.0.113.{last}") is not is_lifted
    may_write.set()

    def is_new() -> bool:
        publisher.finish()
        return not reader.is_banned("203.0.113.1")

    wait_until(is_new, 10, "not written anew")
    banned = {ban.key for ban in reader.snapshot().bans}
    assert banned == {*(ban.key for ban in in_force), "203.0.113.7"}


def test_new_file_that_cannot_be_written_is_told(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """What a thread meets is raised where its file is asked for, what was published stays, and another try works."""

    def broken() -> Sequence[Ban]:
        raise RuntimeError("no bans today")

    publisher.publish_all([ban_of("203.0.113.1")])
    publisher.renew(broken)

    def is_told() -> bool:
        try:
            publisher.finish()
        except OSError as error:
            return "no bans today" in str(error)
        return False

    wait_until(is_told, 10, "nothing is told")
    assert reader.is_banned("203.0.113.1")
    assert not reader.is_banned("203.0.113.2")
    publisher.renew(lambda: [ban_of("203.0.113.2")])
    publisher.publish_all([ban_of("203.0.113.3")])  # instead
    publisher.finish()
    assert [reader.is_banned(f"203.0.113.{last}") for last in (1, 2, 3)] == [False, False, True]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bans", "bans.seq"]


def test_without_a_thread_to_spare_the_next_publish_makes_it_good(publisher: Publisher, reader: Reader) -> None:
    """Where the system refuses another thread it is an `OSError`, and the daemon writes the whole file itself then."""
    banned = [ban_of("203.0.113.1")]
    publisher.publish_all(banned)
    with no_more_threads():
        with pytest.raises(OSError, match="can't start new thread"):
            publisher.renew(lambda: banned)
        publisher.publish_all([*banned, ban_of("203.0.113.2")])
    assert reader.is_banned("203.0.113.2")


def test_restarted_daemon_is_heard_at_once(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """A daemon that starts anew raises another word, whatever the old one counted to, and its bans replace the old."""
    publisher.publish_all([ban_of("203.0.113.1")])
    for number in range(5):
        publisher.publish([fact_of(f"203.0.113.{10 + number}")], nothing_else)
    assert reader.is_banned("203.0.113.10")
    publisher.close()
    again = Publisher(tmp_path)
    again.publish_all([ban_of("203.0.113.2")])
    assert reader.is_banned("203.0.113.2")
    assert not reader.is_banned("203.0.113.1")
    assert not reader.is_banned("203.0.113.10")
    again.close()
    again.publish([fact_of("203.0.113.3")], lambda: [ban_of("203.0.113.2"), ban_of("203.0.113.3")])
    assert reader.is_banned("203.0.113.3")
    assert reader.is_banned("203.0.113.2")
    again.close()


def test_directory_made_anew_is_seen_within_the_recheck(tmp_path: Path) -> None:
    """When a daemon's directory vanishes the last bans stay; when it is back its bans are seen within a second."""
    directory = tmp_path / "run"
    reader = Reader(directory)
    assert not reader.is_banned("203.0.113.1")
    for address in ("203.0.113.1", "203.0.113.2"):
        directory.mkdir()
        publisher = Publisher(directory)
        publisher.publish_all([ban_of(address)])
        reader.monotonic += RECHECK
        assert reader.is_banned(address)
        publisher.close()
        shutil.rmtree(directory)
        reader.monotonic += RECHECK
        assert reader.is_banned(address)
    assert not reader.is_banned("203.0.113.1")
    reader.close()


def test_change_whose_word_was_never_raised_is_seen_within_the_recheck(
    publisher: Publisher, reader: Reader, tmp_path: Path
) -> None:
    """A daemon killed between its two writes leaves a ban that apps see a second later."""
    publisher.publish_all([])
    assert not reader.is_banned("203.0.113.5")
    with (tmp_path / "bans").open("ab") as file:
        file.write(fact_line(fact_of("203.0.113.5")))
    assert not reader.is_banned("203.0.113.5")
    reader.monotonic += RECHECK
    assert reader.is_banned("203.0.113.5")


def test_torn_line_counts_when_it_is_whole(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """Half a line is nothing yet; its other half makes it a ban; nothing around it is lost."""
    publisher.publish_all([ban_of("203.0.113.1")])
    line = fact_line(fact_of("203.0.113.55"))
    for cut in range(1, len(line)):
        with (tmp_path / "bans").open("ab") as file:
            file.write(line[:cut])
        reader.monotonic += RECHECK
        assert reader.is_banned("203.0.113.1")
        assert not any(map(reader.is_banned, ("203.0.113.55", "203.0.113.5")))
        publisher.publish_all([ban_of("203.0.113.1")])
    with (tmp_path / "bans").open("ab") as file:
        file.write(line[:9])
    reader.monotonic += RECHECK
    assert reader.is_banned("203.0.113.1")
    with (tmp_path / "bans").open("ab") as file:
        file.write(line[9:])
    reader.monotonic += RECHECK
    assert reader.is_banned("203.0.113.55")


def test_full_disk_is_an_error_and_the_next_publish_makes_it_good(
    publisher: Publisher, reader: Reader, tmp_path: Path
) -> None:
    """A write that the disk cuts short raises; afterwards all bans in force are written anew, with no torn line."""
    publisher.publish_all([ban_of("203.0.113.1")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "bans").stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            publisher.publish([fact_of("203.0.113.5")], nothing_else)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert reader.is_banned("203.0.113.1")
    assert not reader.is_banned("203.0.113.5")
    publisher.publish(
        [fact_of("203.0.113.6")], lambda: list(map(ban_of, ("203.0.113.1", "203.0.113.5", "203.0.113.6")))
    )
    assert all(map(reader.is_banned, ("203.0.113.1", "203.0.113.5", "203.0.113.6")))
    assert all(map(parse_fact, (tmp_path / "bans").read_bytes().splitlines()[1:]))


PIECES = (b"+", b"-", b"\t", b"\t", b"1", b"203.0.113.5", b"nan", b"9" * 5000, b"/64", b"x")


@given(line=st.one_of(st.binary(), st.lists(st.sampled_from(PIECES)).map(b"".join)))
def test_any_line_is_a_fact_or_nothing(line: bytes) -> None:
    """No line makes the reader raise."""
    fact = parse_fact(line)
    assert fact is None or line[:2] in (b"+\t", b"-\t")


@given(
    network=near_networks,
    end=st.one_of(st.none(), st.floats(0, 4e9)),
    version=st.integers(0, 2**63),
    is_lifted=st.booleans(),
)
def test_fact_is_read_as_it_was_written(network: Network, end: float | None, version: int, is_lifted: bool) -> None:
    """What matters to an app of a fact comes back exactly: network, end, start, jail and version."""
    ban = None if is_lifted else Ban(network, "login", 1.1, end, version=version)
    assert parse_fact(fact_line(Fact(network, version, ban)).rstrip(b"\n")) == Fact(network, version, ban)


def test_garbage_lines_are_passed_over(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """Lines that are no facts change nothing and hide nothing."""
    publisher.publish_all([ban_of("203.0.113.1"), ban_of("198.51.100.0/24")])
    garbage = (
        b"",
        b"\t",
        b"x\t203.0.113.1\t1",
        b"+\t203.0.113.7",
        b"+\t203.0.113.8\tx\t-\t0\tlogin",
        b"-\tx\t1",
        b"\xff\t\0",
    )
    with (tmp_path / "bans").open("ab") as file:
        file.write(
            b"".join(line + b"\n" for line in garbage) + b"-\t198.51.100.0/24\tx\n" + fact_line(fact_of("203.0.113.2"))
        )
    reader.monotonic += RECHECK
    assert all(map(reader.is_banned, ("203.0.113.1", "203.0.113.2", "198.51.100.1")))
    assert {ban.key for ban in reader.snapshot().bans} == {"203.0.113.1", "203.0.113.2", "198.51.100.0/24"}


def test_missing_files_are_no_error(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """An app without a daemon serves, and complains of nothing."""
    with caplog.at_level(logging.INFO, "appguard"):
        for _ in range(3):
            assert not reader.is_banned("203.0.113.5")
            assert reader.snapshot().bans == ()
            reader.monotonic += RECHECK
    assert caplog.messages == []


@needs_users
def test_unreadable_files_are_an_error_told_once(open_tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An app that may not read the bans says so once and serves."""
    publisher = Publisher(open_tmp_path)
    publisher.publish_all([ban_of("203.0.113.5")])
    (open_tmp_path / "bans").chmod(0o600)

    def ask() -> object:
        reader = Reader(open_tmp_path)
        answers: list[bool] = []
        for _ in range(3):
            answers.append(reader.is_banned("203.0.113.5"))
            reader.monotonic += RECHECK
        return answers, caplog.messages

    with forked(ask, STRANGER) as child:
        answers, messages = cast("tuple[list[bool], list[str]]", child.answer())
    assert answers == [False] * 3
    assert len(messages) == 1
    assert messages[0].startswith("published bans cannot be read: [Errno 13] Permission denied")
    publisher.close()


def test_files_are_readable_by_all_and_writable_by_the_daemon_only(tmp_path: Path) -> None:
    """The daemon's umask neither hides the bans from apps nor lets them in."""
    for umask in (0o077, 0o000):
        before = os.umask(umask)
        try:
            publisher = Publisher(tmp_path)
            publisher.publish_all([])
            publisher.close()
        finally:
            os.umask(before)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert modes == {"bans": 0o644, "bans.seq": 0o644}


def test_symlinks_are_not_followed(publisher: Publisher, tmp_path: Path) -> None:
    """The daemon writes through no symlink, should one be where its files go."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "bans.new").symlink_to(victim)
    (tmp_path / "bans").symlink_to(victim)
    (tmp_path / "bans.seq").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        publisher.publish_all([ban_of("203.0.113.5")])
    assert victim.read_text() == "precious"
    assert not (tmp_path / "bans").is_symlink()


def test_only_the_daemon_bans(tmp_path: Path) -> None:
    """An app that tries to ban or unban is told how it is done."""
    with LocalStore(tmp_path) as store:
        with pytest.raises(StoreError, match=r"203\.0\.113\.5: .*`appguard ban 203\.0\.113\.5`"):
            store.ban(ban_of("203.0.113.5"))
        with pytest.raises(StoreError, match=r"`appguard unban 2001:db8::/64`"):
            store.unban(parse_network("2001:db8::/64"))


def test_crowded_table_is_read_anew(publisher: Publisher, reader: Reader, tmp_path: Path) -> None:
    """A file to which far more is appended than any daemon does is read anew, and no ban is missed."""
    publisher.publish_all([ban_of("203.0.113.1")])
    assert reader.is_banned("203.0.113.1")
    for part in range(4):
        addresses = [f"10.{part}.{number >> 8}.{number & 255}" for number in range(COMPACT_AT_LEAST)]
        with (tmp_path / "bans").open("ab") as file:
            file.write(b"".join(fact_line(fact_of(address)) for address in addresses))
        reader.monotonic += RECHECK
        assert all(map(reader.is_banned, (*addresses, "203.0.113.1")))
    assert not reader.is_banned("198.51.100.1")
