"""What became of bans, kept for people."""

import json
import resource
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from appguard import ban_log
from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.ban_log import BanEvent, BanLog
from appguard.cli.events import event_lines
from appguard.errors import StateError

NOW = 1_800_000_000.0
LINE = '{"time":"2026-11-20T09:11:02Z","event":"authn_login_fail","source_ip":"203.0.113.5","request_id":"6f1c"}'


def banned(number: int, at: float = NOW, **details: object) -> Fact:
    """Make the fact of a ban by a jail."""
    network, version = parse_network(f"203.0.113.{number}"), int(at * 1_000_000)
    ban = Ban(network, "login", at, at + 600, "5 x it", 5, (LINE,), (), automatic=True, version=version, host="web-1")
    return Fact.of(replace(ban, **details))  # type: ignore[arg-type]  # fields of a ban


def lifted(number: int, at: float) -> Fact:
    """Make the fact of a lift."""
    return Fact(parse_network(f"203.0.113.{number}"), int(at * 1_000_000), None, host="web-2")


@pytest.fixture
def events(tmp_path: Path) -> BanLog:
    """Give an open log."""
    log = BanLog(tmp_path, NOW - 60)
    log.open()
    return log


def said(event: BanEvent) -> tuple[int, str, str, str, str]:
    """Give what there is to compare."""
    return event.cursor, event.what, event.network, event.by, event.host


def test_who_did_what_where(events: BanLog) -> None:
    """Jails, people and programs ban, prolong and lift; a lift tells of the ban that it ended."""
    events.write([banned(5), banned(6, failures=0), banned(7, automatic=False, jail="manual")])
    events.write([banned(5, NOW + 1), lifted(5, NOW + 2), banned(5, NOW + 3)])
    assert [said(event) for event in events.read(0)] == [
        (1, "ban", "203.0.113.5", "jail", "web-1"),
        (2, "ban", "203.0.113.6", "program", "web-1"),
        (3, "ban", "203.0.113.7", "person", "web-1"),
        (4, "prolong", "203.0.113.5", "jail", "web-1"),
        (5, "lift", "203.0.113.5", "person", "web-2"),
        (6, "ban", "203.0.113.5", "jail", "web-1"),
    ]
    assert events.read(0)[0].request_ids == ("6f1c",)
    assert events.read(0)[4].jail == "login"
    assert events.read(0)[4].ref == events.read(0)[3].ref
    assert [event.cursor for event in events.read(4)] == [5, 6]
    assert [event.cursor for event in events.read(-2)] == [5, 6]


def test_what_is_no_news_is_left_out(events: BanLog) -> None:
    """Neither what was known, nor what was decided long before this daemon started, nor the same fact again."""
    events.learn([banned(5)])
    events.write([banned(5), banned(6, NOW - 3600), banned(7), banned(7)])
    assert [event.network for event in events.read(0)] == ["203.0.113.7"]


def test_numbers_go_on_after_a_crash(tmp_path: Path, events: BanLog) -> None:
    """A line cut by a crash costs that line, and the numbers go on after the last whole one."""
    events.write([banned(5), banned(6)])
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"cursor": 3, "time": 18')
    again = BanLog(tmp_path, NOW - 60)
    again.open()
    again.write([banned(7)])
    assert [event.cursor for event in again.read(0)] == [1, 2, 3]
    assert [event.cursor for event in BanLog(tmp_path, 0.0).read(0)] == [1, 2, 3]


def test_kept_are_two_files_of_so_many_bytes(tmp_path: Path, events: BanLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older half goes when the newer is full; what a reader missed is missing, the rest is in order."""
    monkeypatch.setattr(ban_log, "HALF", 20_000)
    for second in range(200):
        events.write([banned(5, NOW + second)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
    again = BanLog(tmp_path, 0.0)
    again.open()
    cursors = [event.cursor for event in again.read(0)]
    assert cursors == list(range(cursors[0], 201))
    assert len(cursors) > 20
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}


class Meanwhile(int):
    """A cursor: when a reader compares it with that of an event, something happens once."""

    happens: Callable[[], object] | None = None
    looks = 0  # at where to begin, before that

    @property
    def has_happened(self) -> bool:
        """Say whether it has."""
        return self.happens is None

    def _happen(self) -> None:
        self.looks -= 1
        if self.looks < 0 and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()

    def __lt__(self, other: int) -> bool:
        self._happen()
        return int(self) < other

    def __ge__(self, other: int) -> bool:
        self._happen()
        return int(self) >= other


def test_a_reader_bears_what_comes_meanwhile(tmp_path: Path, events: BanLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads, bans come and files are exchanged: nobody fails, and nothing between is missed."""
    monkeypatch.setattr(ban_log, "HALF", 20_000)
    events.write([banned(5), banned(6)])
    since = Meanwhile(0)
    since.looks, since.happens = 2, lambda: events.write([banned(7)])
    assert [event.cursor for event in events.read(since)][:2] == [1, 2]
    assert since.has_happened

    for second in range(1, 60):
        events.write([banned(5, NOW + second)])
    again = BanLog(tmp_path, NOW - 60)
    again.open()
    newest = again.newest

    def exchange() -> None:
        for second in range(100, 140):
            again.write([banned(5, NOW + second)])

    since.looks, since.happens = 1, exchange
    reader = BanLog(tmp_path, NOW - 60)
    cursors = [event.cursor for event in reader.read(since)]
    assert since.has_happened
    assert cursors[-1] >= newest
    assert cursors == list(range(cursors[0], cursors[-1] + 1))


@contextmanager
def room_for(more: int, path: Path) -> Generator[None]:
    """Let no file become longer than this one is and so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)


def test_a_full_disk_costs_the_lines_it_cut(tmp_path: Path, events: BanLog) -> None:
    """A line of which the disk took a part does not spoil the next one."""
    events.write([banned(5)])
    with room_for(10, tmp_path / "events.jsonl"), pytest.raises(StateError, match="cannot be kept"):
        events.write([banned(6)])
    events.write([banned(7)])
    again = BanLog(tmp_path, NOW - 60)
    again.open()
    assert [event.network for event in again.read(0)] == ["203.0.113.5", "203.0.113.7"]


def test_text_for_people(events: BanLog) -> None:
    """One line of what happened, then why, the requests and the lines; nothing of it reaches the terminal raw."""
    events.write(
        [banned(5, evidence=tuple(f"line {n}\x1b[2J" for n in range(5)), via=("10.0.0.1",)), lifted(5, NOW + 9)]
    )
    ban, lift = [list(event_lines(event)) for event in events.read(0)]
    assert "Ban 203.0.113.5  by jail login on web-1  ref " in ban[0]
    assert ban[1] == "    for 10m: 5 x it"
    assert ban[2:] == [
        "    via 10.0.0.1",
        "    | line 2\\x1b[2J",
        "    | line 3\\x1b[2J",
        "    | line 4\\x1b[2J",
        "    | and 2 lines before them (--json shows all)",
    ]
    assert len(lift) == 1
    assert "Unban 203.0.113.5  by a person" in lift[0]
    assert json.loads(json.dumps(events.read(0)[0].to_json()))["request_ids"] == []


def test_the_same_is_not_told_twice_over_a_restart(tmp_path: Path, events: BanLog) -> None:
    """A daemon that learns all anew, lifts too, tells what it has told already no second time."""
    facts = [banned(5), banned(6), lifted(6, NOW + 1.123457)]
    events.write(facts)
    events.write(facts)
    again = BanLog(tmp_path, NOW - 60)
    again.open()
    again.write(facts)
    assert [event.cursor for event in again.read(0)] == [1, 2, 3]
    again.learn([banned(5)])
    again.write([lifted(5, NOW + 2)])
    assert again.read(3)[0].jail == "login"
