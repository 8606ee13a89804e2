"""The daemon's private state: what goes in comes out, whatever happens to the process, the disk or the file."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.bantime import Past
from appguard.counted import Failure
from appguard.errors import StateError
from appguard.state import Batch, State
from appguard.state_rows import ENDED_AT_ONCE, PART
from appguard.stores.memory import MemoryBanSet
from tests.lab import User, has_user

NOW = 1_800_000_000.0
STRANGER = 65534


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Give an open state in a directory of its own."""
    state = State(tmp_path / "state", clock=lambda: NOW)
    state.open()
    yield state
    state.close()


def reopened(state: State) -> State:
    """Close and open a state, as a restart does."""
    state.close()
    state.open()
    return state


def ban_of(address: str, version: int = 1, end: float | None = NOW + 600) -> Ban:
    """Make a ban with every field set."""
    return Ban(
        parse_network(address),
        "login",
        NOW - 1.5,
        end,
        "5 x authn_login_fail in 600 s",
        5,
        ("a 'quoted' line", '{"user": "al\\u00efce"}', "lone \ud800 surrogate", "nul \0 and\nnewline"),
        ("127.0.0.1", "10.0.0.1"),
        automatic=True,
        version=version,
        host="web-1",
    )


def put(ban: Ban) -> Fact:
    """Make the fact that a ban is in force."""
    return Fact(ban.network, ban.version, ban)


def lifts_of(state: State) -> dict[str, int]:
    """Give the versions of what was lifted, by network and ports."""
    return {lift.key: lift.version for lift in state.lifts()}


def execute(path: Path, *statements: str) -> None:
    """Change a database behind the state's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::/64", "2001:db8::1", "198.51.100.0/24", "2001:db8::/40"])
def test_a_ban_round_trips(state: State, address: str) -> None:
    """Every field of a ban survives a restart, whatever its evidence holds."""
    ban, permanent = ban_of(address, 2**52), replace(ban_of("203.0.113.9", 3, None), automatic=False, host="web-\ud800")
    state.save(Batch(facts=[put(ban), put(permanent)]))
    kept = reopened(state).bans()
    assert set(kept) == {ban, permanent}
    assert {each.key: each.host for each in kept} == {ban.key: "web-1", permanent.key: "web-?"}
    state.save(Batch(facts=[put(replace(ban, version=2**52 + 1, host="web-2"))]))
    assert "web-2" in {each.host for each in reopened(state).bans()}


def test_bans_of_ports_round_trip_apart(state: State) -> None:
    """Bans of one network and different ports are kept beside each other, and each is lifted by itself."""
    bans = [replace(ban_of("203.0.113.5"), ports=ports) for ports in ("", "tcp/22", "tcp/80,443")]
    state.save(Batch(facts=[Fact.of(ban) for ban in bans]))
    assert {ban.key for ban in reopened(state).bans()} == {ban.key for ban in bans}
    state.save(Batch(facts=[Fact.lifting(bans[1], 2)]))
    assert {ban.ports for ban in reopened(state).bans()} == {"", "tcp/80,443"}


def test_the_newest_fact_wins(state: State) -> None:
    """A newer ban replaces, an older fact changes nothing, and a lifted ban is gone."""
    state.save(Batch(facts=[put(ban_of("192.0.2.1", 5)), put(ban_of("192.0.2.2", 5)), put(ban_of("192.0.2.3", 5))]))
    older, newer = ban_of("192.0.2.1", 4, NOW + 9), ban_of("192.0.2.2", 6, NOW + 9)
    lifted = Fact(parse_network("192.0.2.3"), 7, None)
    late = Fact(parse_network("192.0.2.2"), 5, None)
    state.save(Batch(facts=[put(older), put(newer), lifted, late]))
    assert {ban.key: (ban.version, ban.end) for ban in reopened(state).bans()} == {
        "192.0.2.1": (5, NOW + 600),
        "192.0.2.2": (6, NOW + 9),
    }


def test_ended_bans_are_dropped(tmp_path: Path) -> None:
    """Every save drops the bans that have ended, and never a permanent one."""
    now = [NOW]
    state = State(tmp_path / "ended", clock=lambda: now[0])
    state.open()
    bans = [ban_of("192.0.2.1", 1, NOW), ban_of("192.0.2.2", 2, NOW + 10), ban_of("192.0.2.3", 3, None)]
    state.save(Batch(facts=[put(ban) for ban in bans]))
    assert {ban.key for ban in state.bans()} == {"192.0.2.2", "192.0.2.3"}
    now[0] += 10
    state.save(Batch())
    assert {ban.key for ban in state.bans()} == {"192.0.2.3"}
    state.close()


def test_many_ended_bans_are_dropped_in_several_saves(tmp_path: Path) -> None:
    """No save drops more than some, however many have ended, and they are gone in the end."""
    now = [NOW]
    state = State(tmp_path / "ended", clock=lambda: now[0])
    state.open()
    many = 2 * ENDED_AT_ONCE + 1
    state.save(Batch(facts=[put(ban_of(f"10.0.{n >> 8}.{n & 255}", n + 1, NOW + 10)) for n in range(many)]))
    now[0] += 10
    left: list[int] = []
    for _ in range(3):
        state.save(Batch())
        left.append(state.counts()["ban"])
    assert left == [ENDED_AT_ONCE + 1, 1, 0]
    state.close()


def test_bans_are_told_in_brief(tmp_path: Path) -> None:
    """What a firewall must know is told of every ban in force, of more than one part too, the newest first."""
    now = [NOW]
    state = State(tmp_path / "brief", clock=lambda: now[0])
    state.open()
    bans = [ban_of(f"10.0.{n // 250}.{n % 250}", n, None if n % 2 else NOW + 700) for n in range(2 * PART + 1)]
    bans.append(replace(ban_of("2001:db8::/64", 500, NOW + 900), ports="tcp/22"))
    state.save(Batch(facts=[put(ban) for ban in (*bans, ban_of("203.0.113.1", 501, NOW + 10))]))
    state.save(Batch(facts=[Fact.lifting(bans[7], 1000)]))
    now[0] += 10
    left = [ban.brief for ban in reversed(bans) if ban is not bans[7]]
    assert list(state.brief_bans()) == list(state.brief_bans_left()) == left
    state.close()


def test_what_was_restored_is_left_out_of_what_is_left(tmp_path: Path) -> None:
    """A firewall that is loaded while bans are restored asks for the others alone, and at the end for none."""
    state = State(tmp_path / "left", clock=lambda: NOW)
    state.open()
    bans = [ban_of(f"10.0.{n // 250}.{n % 250}", n, NOW + 700) for n in range(2 * PART + 1)]
    state.save(Batch(facts=[put(ban) for ban in bans]))
    briefs, found = [ban.brief for ban in reversed(bans)], 0
    for part in state.restored_parts():
        found += len(part)
        assert list(state.brief_bans_left()) == briefs[found:]
        assert list(state.brief_bans()) == briefs
    assert found == len(bans)
    state.close()


def test_failures_round_trip_in_order_of_time(state: State) -> None:
    """What a jail counted comes back by key in the order of time; an empty list forgets a key; jails are apart."""
    early, middle, late = Failure(NOW, 1, "a \udcff"), Failure(NOW + 1, 3, ""), Failure(NOW + 2, 2, "c")
    batch = Batch(failures={("login", "192.0.2.1"): [late, early], ("login", "2001:db8::/64"): [middle]})
    batch.failures["login", "192.0.2.9"] = [early]
    batch.failures["other", "192.0.2.1"] = [late]
    state.save(batch)
    state.save(Batch(failures={("login", "192.0.2.9"): []}))
    expected = [("192.0.2.1", early), ("2001:db8::/64", middle), ("192.0.2.1", late)]
    assert reopened(state).failures("login") == expected
    assert state.failures("other") == [("192.0.2.1", late)]
    assert state.failures("unknown") == []


def test_every_kind_of_counted_thing_round_trips(state: State) -> None:
    """Digests of values, addresses of a user and lines of evidence come back, under keys that are no addresses too."""
    kept = [
        Failure(NOW, 1, value="0123456789abcdef"),
        Failure(NOW, 0, network="2001:db8::/64"),
        Failure(NOW, 0, "line"),
    ]
    state.save(Batch(failures={("login", "bob \ud800"): kept}))
    assert reopened(state).failures("login") == [("bob ?", failure) for failure in kept]


def test_pasts_round_trip(state: State) -> None:
    """What there was of a network is replaced as a whole, and nothing is left of one that is forgotten."""
    first, second = Past("login", "192.0.2.1", 3, NOW, NOW + 10), Past("probes", "192.0.2.1", 1, NOW, None)
    other = Past("login", "2001:db8::/64", 1, NOW, NOW)
    state.save(Batch(pasts={"192.0.2.1": [first, second], "2001:db8::/64": [other]}))
    assert set(reopened(state).pasts()) == {first, second, other}
    state.save(Batch(pasts={"192.0.2.1": [second], "2001:db8::/64": ()}))
    assert reopened(state).pasts() == (second,)


def test_what_will_not_be_asked_for_again_is_purged(tmp_path: Path) -> None:
    """A position of a log goes when it is old and the log vanished, counted events when their jail is gone, no more."""
    now = [NOW]
    state = State(tmp_path / "purged", clock=lambda: now[0])
    state.open()
    state.save(Batch(positions={("nginx", path): str(at) for at, path in enumerate(("", "/gone", "/quiet", "/busy"))}))
    state.save(Batch(failures={(jail, "192.0.2.1"): [Failure(NOW, 1)] for jail in ("login", "old")}))
    now[0] += 100
    state.save(Batch(positions={("nginx", "/busy"): "4"}))
    state.purge({"login"}, NOW, lambda path: path == "/quiet")
    assert len(state.positions("nginx")) == 4
    state.purge({"login"}, NOW + 1, lambda path: path == "/quiet")
    assert state.positions("nginx") == {"": "0", "/quiet": "2", "/busy": "4"}
    assert (len(state.failures("login")), state.failures("old")) == (1, [])
    state.close()


def test_positions_of_many_logs_that_are_gone(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes new logs all the time fills no disk with their positions; those of logs that are there all stay."""
    monkeypatch.setattr("appguard.state_rows.POSITIONS_MOST", 3)
    state.save(Batch(positions={("nginx", f"/{number}"): "0" for number in range(9)} | {("nginx", ""): "0"}))
    state.purge((), NOW - 100, lambda path: path >= "/5")
    assert {"", "/5", "/6", "/7", "/8"} <= state.positions("nginx").keys()
    assert len(state.positions("nginx")) < 9
    state.purge((), NOW - 100, lambda path: False)
    assert len(state.positions("nginx")) == 4


def test_positions_go_to_whoever_reads_their_logs_now(tmp_path: Path) -> None:
    """Positions of sources that are no more, the latest of each log, go to those that read it and have none of it."""
    now = [NOW]
    state = State(tmp_path / "adopted", clock=lambda: now[0])
    state.open()
    for name in ("old", "older", "kept"):
        state.save(Batch(positions={(name, origin): f"{name} {origin}" for origin in ("", "/a", "/b")}))
        now[0] -= 1
    state.adopt({"kept": lambda path: True, "new": lambda path: path != "/b"})
    assert state.positions("new") == {"/a": "old /a"}
    assert state.positions("kept") == {origin: f"kept {origin}" for origin in ("", "/a", "/b")}
    assert state.positions("old") == {"": "old ", "/b": "old /b"}
    assert set(state.positions("older")) == {"", "/a", "/b"}
    state.close()


def test_a_source_never_run_goes_on_where_others_are(state: State) -> None:
    """A jail that leaves a source which others go on reading counts nothing twice; a source that was run reads all."""
    state.save(Batch(positions={("stays", "/a"): "a", ("stays", "/b"): "b", ("run", ""): "0", ("gone", "/b"): "left"}))
    state.adopt(dict.fromkeys(("stays", "new", "run"), lambda path: True))
    assert state.positions("new") == {"/a": "a", "/b": "left"}
    assert state.positions("run") == {"": "0", "/b": "left"}
    assert state.positions("stays") == {"/a": "a", "/b": "b"}
    assert state.positions("gone") == {}


def test_a_lift_is_kept_until_it_is_old(state: State) -> None:
    """A lift survives a restart as it was, until a newer ban or its age; a ban that only ended leaves none."""
    banned, again = ban_of("192.0.2.1", 5), ban_of("192.0.2.1", 9)
    ended = ban_of("192.0.2.2", 6)
    lift = Fact(banned.network, 7, None, host="web-\ud800")
    state.save(Batch(facts=[put(banned), put(ended), lift, Fact(ended.network, 6, None)]))
    assert lifts_of(reopened(state)) == {"192.0.2.1": 7}
    assert [each.host for each in state.lifts()] == ["web-?"]
    assert state.bans() == ()
    state.save(Batch(facts=[Fact(banned.network, 6, None)]))
    assert lifts_of(state) == {"192.0.2.1": 7}
    state.save(Batch(facts=[put(again)]))
    assert (lifts_of(state), state.bans()) == ({}, (again,))
    old = int((NOW - 100) * 1_000_000)
    state.save(Batch(facts=[Fact(ended.network, old, None), Fact(parse_network("2001:db8::/64"), old + 10**8, None)]))
    state.purge((), NOW - 50)
    assert lifts_of(state) == {"2001:db8::/64": old + 10**8}


def test_a_lift_of_some_ports_is_kept(state: State) -> None:
    """What was lifted for some ports alone is known after a restart, so that it does not come back."""
    ban = replace(ban_of("192.0.2.1", 5), ports="tcp/22")
    state.save(Batch(facts=[put(ban), Fact.lifting(ban, 7)]))
    assert lifts_of(reopened(state)) == {"192.0.2.1 tcp/22": 7}
    bans = MemoryBanSet()
    bans.restore_lifts(state.lifts())
    bans.restore([ban])
    assert bans.snapshot().bans == ()


def test_disk_is_given_back(state: State, tmp_path: Path) -> None:
    """After most of what was kept has gone, the file becomes small again."""
    text = "x" * 5000
    state.save(Batch(positions={("nginx", f"/log/{number}"): text for number in range(4000)}))
    before = (tmp_path / "state" / "state.db").stat().st_size
    state.purge((), NOW + 1, lambda path: path == "/log/7")
    reopened(state)
    assert (tmp_path / "state" / "state.db").stat().st_size < before / 10
    assert state.positions("nginx") == {"/log/7": text}


def test_state_of_version_1_is_carried_over(tmp_path: Path) -> None:
    """What an earlier AppGuard saved is all there, and its old positions are as young as the upgrade."""
    directory = tmp_path / "one"
    directory.mkdir(mode=0o700)
    with closing(sqlite3.connect(directory / "state.db", isolation_level=None)) as connection:
        connection.executescript(files("appguard").joinpath("state.sql").read_text(encoding="utf-8"))
        connection.execute("INSERT INTO position VALUES ('nginx', '/log', '7')")
        connection.execute("INSERT INTO failure VALUES ('login', '192.0.2.1', '[[5.5, 2, \"line\"]]')")
        connection.execute("INSERT INTO setting VALUES ('enforce', 'off')")
    state = State(directory)
    for _ in range(2):
        state.open()
        assert state.positions("nginx") == {"/log": "7"}
        assert state.failures("login") == [("192.0.2.1", Failure(5.5, 2, "line"))]
        assert state.setting("enforce") == "off"
        state.purge({"login"}, time.time() - 3600, lambda _: False)
        state.save(Batch(pasts={"192.0.2.1": [Past("login", "192.0.2.1", 1, NOW, None)]}))
        state.close()


def test_state_of_version_3_is_carried_over(tmp_path: Path) -> None:
    """What the version before kept is all there, bans and lifts without the host it did not know; new ones have it."""
    tmp_path.chmod(0o700)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as connection:
        for script in ("state.sql", "state_2.sql", "state_3.sql"):
            connection.executescript(files("appguard").joinpath(script).read_text(encoding="utf-8"))
        row = ("192.0.2.1", "login", NOW - 1.5, NOW + 600, "why", 5, '["line"]', "[]", 1, 7)
        connection.execute("INSERT INTO ban VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO lift VALUES ('192.0.2.9', 8)")
        connection.execute("INSERT INTO setting VALUES ('enforce', 'off')")
    state = State(tmp_path, clock=lambda: NOW)
    for _ in range(2):  # carried over, and opened as what it is now
        state.open()
        (ban,) = state.bans()
        assert (ban.key, ban.jail, ban.evidence, ban.version, ban.host) == ("192.0.2.1", "login", ("line",), 7, "")
        assert (lifts_of(state), state.setting("enforce")) == ({"192.0.2.9": 8}, "off")
        assert [each.host for each in state.lifts()] == [""]
        state.close()
    state.open()
    state.save(Batch(facts=[put(ban_of("192.0.2.1", 9))]))
    assert [ban.host for ban in reopened(state).bans()] == ["web-1"]
    state.close()


def test_positions_settings_and_totals_round_trip(state: State) -> None:
    """The last position of each origin, the last value of each setting and the last totals survive a restart."""
    state.save(
        Batch(positions={("nginx", "/a"): "1", ("nginx", "/b"): "2", ("app", "/a"): "3"}, totals={"login": (4, 1)})
    )
    state.save(Batch(positions={("nginx", "/a"): '[[1,2,"\u00e4"]]'}, totals={"login": (9, 2)}))
    state.set_setting("enforce", "on")
    state.set_setting("enforce", "off")
    assert reopened(state).positions("nginx") == {"/a": '[[1,2,"\u00e4"]]', "/b": "2"}
    assert state.positions("unknown") == {}
    assert (state.totals("login"), state.totals("unknown")) == ((9, 2), (0, 0))
    assert (state.setting("enforce"), state.setting("unknown")) == ("off", None)


def test_saving_what_has_not_changed_writes_nothing(state: State, tmp_path: Path) -> None:
    """A save once a second with the totals of an idle daemon does not wear the disk."""
    state.save(Batch(totals={"login": (1, 1)}))
    log = tmp_path / "state" / "state.db-wal"
    before = log.stat().st_size
    state.save(Batch(totals={"login": (1, 1)}))
    assert log.stat().st_size == before > 0


def test_files_are_private(tmp_path: Path) -> None:
    """Directory and files are the daemon's alone, also where somebody had opened them, and whatever the umask."""
    directory = tmp_path / "deep" / "state"
    before = os.umask(0)
    try:
        state = State(directory)
        state.open()
        state.set_setting("a", "b")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}
    assert modes == {"state": 0o700, "state.db": 0o600, "state.db-wal": 0o600}
    state.close()
    directory.chmod(0o755)
    (directory / "state.db").chmod(0o644)
    state.open()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "state.db").stat().st_mode) == 0o600
    state.close()


def test_kill_9_never_parts_positions_from_failures(tmp_path: Path) -> None:
    """However a writer is killed, each line up to the saved position is counted exactly once, and none after it."""
    state = State(tmp_path / "state")
    chance = random.Random(20261120)
    counted = 0
    for _ in range(50):
        kill_a_writer(state, counted, chance.uniform(0, 0.01))
        state.open()
        position = int(state.positions("nginx").get("/log", "0"))
        failures = state.failures("login")
        assert (position, state.totals("login")[0]) == (len(failures), len(failures))
        assert sorted(failure.time for _, failure in failures) == list(range(position))
        assert len(state.bans()) == position // 5
        assert position > counted
        counted = position
        state.close()


def kill_a_writer(state: State, counted: int, seconds: float) -> None:
    """Fork a writer that goes on counting, and kill it that long after its first save."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_on(state, counted, writing)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"."
    os.close(reading)
    time.sleep(seconds)  # not to wait for anything: the moment of the kill is what the test varies
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def write_on(state: State, counted: int, writing: int) -> None:
    """Count one line after another, as a daemon does, until killed."""
    state.open()
    while True:
        key = f"10.{counted >> 16}.{counted >> 8 & 255}.{counted & 255}"
        counted += 1
        batch = Batch(positions={("nginx", "/log"): str(counted)}, totals={"login": (counted, counted // 5)})
        batch.failures["login", key] = [Failure(counted - 1, 1, "x" * 200)]
        if counted % 5 == 0:
            batch.facts.append(put(ban_of(key, counted, None)))
        state.save(batch)
        os.write(writing, b".")


DISK_FULL = """
import sys
from pathlib import Path
from appguard.errors import StateError
from appguard.counted import Failure
from appguard.state import Batch, State
from appguard.stores.memory import MemoryBanSet

disk, state = Path(sys.argv[1]), State(Path(sys.argv[1]) / "state")

def batch_of(line):
    failures = {("login", f"10.0.{line >> 8}.{line & 255}"): [Failure(line, 1, "x" * 900)]}
    return Batch(positions={("nginx", "/log"): str(line + 1)}, failures=failures)

def save_until_full(line):
    try:
        while True:
            state.save(batch_of(line))
            line += 1
    except StateError as error:
        print(line, error, flush=True)
        return line

state.open()
saved = save_until_full(0)
for again in range(3):
    assert save_until_full(saved) == saved, "there was no room a moment ago"
assert len(state.failures("login")) == saved == int(state.positions("nginx")["/log"])
(disk / "ballast").unlink()
for line in range(saved, saved + 100):
    state.save(batch_of(line))
state.close()
state.open()
assert len(state.failures("login")) == saved + 100 == int(state.positions("nginx")["/log"])
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a full disk a save is a clear error that changes nothing, and works again as soon as there is room."""
    mount = f"mount -t tmpfs -o size=8m tiny {tmp_path} && head -c 7m /dev/zero > {tmp_path}/ballast"
    shell = ["sh", "-c", f'{mount} && exec "$0" -c "$1" {tmp_path}', sys.executable, DISK_FULL]
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    result = subprocess.run(["unshare", *options, *shell], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    first = result.stdout.splitlines()[0]
    assert "state.db cannot be used" in first
    assert "make room on its disk" in first


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """The error names the directory, the reason, and the command that makes it right."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot use the state directory .*/file/state: Not a directory.*install -d"):
        State(tmp_path / "file" / "state").open()


@pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")
def test_a_directory_of_somebody_else_is_a_clear_error(tmp_path: Path) -> None:
    """The daemon neither uses a directory that another user could look into, nor one it may not write to."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, STRANGER, STRANGER)
    with pytest.raises(StateError, match=rf"belongs to user id {STRANGER}, and the daemon runs as {os.geteuid()}"):
        State(theirs).open()


@pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")
def test_an_app_cannot_read_the_state(open_tmp_path: Path) -> None:
    """Another user of this host can neither list the state's directory nor read its file."""
    state = State(open_tmp_path / "state")
    state.open()
    for path in (open_tmp_path / "state", open_tmp_path / "state" / "state.db"):
        command = [*User(STRANGER).prefix(), "cat", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Permission denied" in result.stderr
    state.close()


def test_a_second_daemon_is_kept_out(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one daemon has the state open, another process gets a clear error, and the first goes on."""
    monkeypatch.setattr("appguard.state.LOCK_WAIT", 0.05)
    state.set_setting("enforce", "on")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            State(tmp_path / "state").open()
        except StateError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert b"is a second daemon running?" in os.read(reading, 4096)
    os.close(reading)
    state.set_setting("enforce", "off")
    assert state.setting("enforce") == "off"


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ([], "it is no state of AppGuard"),
        (["CREATE TABLE mine (a)"], "the database of another program"),
        (["PRAGMA application_id = 1095201380", "PRAGMA user_version = 6"], "written by a newer AppGuard"),
    ],
)
def test_a_file_that_is_not_ours_is_a_clear_error(tmp_path: Path, statements: list[str], message: str) -> None:
    """Garbage, another program's database and a newer schema are refused with advice and left as they are."""
    tmp_path.chmod(0o700)
    path = tmp_path / "state.db"
    if statements:
        execute(path, *statements)
    else:
        path.write_bytes(b"this is a text file, not a database" * 100)
    before = path.read_bytes()
    state = State(tmp_path)
    for _ in range(2):
        with pytest.raises(StateError, match=message):
            state.open()
    assert path.read_bytes() == before


def test_a_symlink_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """The state is never made through a symlink."""
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="cannot write the state"):
        State(tmp_path).open()
    assert not (tmp_path / "elsewhere").exists()


def test_use_before_open_is_a_clear_error(tmp_path: Path) -> None:
    """A state that is not open says so instead of losing what it is given."""
    with pytest.raises(StateError, match="is not open"):
        State(tmp_path).save(Batch())


def test_a_failed_save_changes_nothing(state: State) -> None:
    """What SQLite cannot hold fails the whole batch, not a part of it, and the next batch is saved."""
    bad = Batch(positions={("nginx", "/log"): "9"}, facts=[put(ban_of("192.0.2.1", 2**70))])
    with pytest.raises(StateError, match="cannot be used"):
        state.save(bad)
    assert (state.positions("nginx"), state.bans()) == ({}, ())
    state.save(Batch(positions={("nginx", "/log"): "1"}))
    assert state.positions("nginx") == {"/log": "1"}
