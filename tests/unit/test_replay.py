"""Replay: the bans of finished logs, on the time of the logs."""

import gzip
import os
import random
from pathlib import Path

import pytest

from appguard.config import daemon_config
from appguard.errors import ConfigError
from appguard.replay import plan_of
from tests.replaying import BEGIN, NOW, nginx_line, replayed, settings, told, write

RECIDIVE = '[jails.recidive]\nuse = "recidive"\nmaxretry = 2\n'
ATTACKER, OTHER = "203.0.113.5", "203.0.113.6"


def test_bans_are_those_of_the_logs_own_time(tmp_path: Path) -> None:
    """Three failures within ten minutes ban, from the third for ten minutes; three in an hour do not."""
    log = write(
        tmp_path / "access.log", {0: ATTACKER, 60: OTHER, 120: ATTACKER, 180: ATTACKER, 2000: OTHER, 4000: OTHER}
    )
    found = replayed(settings(tmp_path), [log])
    assert told(found) == [(ATTACKER, "probes", 180, 780)]
    (ban,) = found.bans
    assert (ban.failures, ban.evidence[0]) == (3, nginx_line(ATTACKER, 0).decode().rstrip())
    assert (found.lines, found.matched, found.first, found.last) == (6, 6, BEGIN, BEGIN + 4000)
    assert [(each.name, each.total_failed, each.total_banned) for each in found.jails] == [("probes", 6, 1)]


def test_rotated_and_packed_logs_are_one_log(tmp_path: Path) -> None:
    """However a log was cut up and packed, and in whatever order it is named, its bans are those of the whole."""
    chance = random.Random(4)
    at, lines = 0.0, list[bytes]()
    for _ in range(3000):
        at += chance.expovariate(0.05)
        lines.append(nginx_line(f"203.0.113.{chance.randrange(60)}", at))
    whole = tmp_path / "access.log"
    config = settings(tmp_path, bantime_increment=True, escalate=3)
    whole.write_bytes(b"".join(lines))
    expected = replayed(config, [whole])
    assert len(expected.bans) > 20
    assert any(ban.network == "203.0.113.0/24" for ban in expected.bans)
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress(b"".join(lines[:1000])))
    (tmp_path / "access.log.1").write_bytes(b"".join(lines[1000:2200]))
    whole.write_bytes(b"".join(lines[2200:]))
    files = [whole, tmp_path / "access.log.1", tmp_path / "access.log.2.gz"]
    for _ in range(3):
        chance.shuffle(files)
        assert replayed(config, files).bans == expected.bans


def test_lines_a_little_out_of_order_ban_the_same(tmp_path: Path) -> None:
    """Lines told up to thirty seconds late ban the same addresses, whatever the order in which they were written."""
    chance = random.Random(5)
    at = [chance.uniform(0, 30_000) for _ in range(600)]
    events = sorted((each, f"203.0.113.{chance.randrange(8)}") for each in at)
    config = settings(tmp_path)
    ordered = write(tmp_path / "access.log", dict(events))
    expected = {(network, jail) for network, jail, *_ in told(replayed(config, [ordered]))}
    assert len(expected) > 3
    late = sorted(events, key=lambda event: event[0] + chance.uniform(0, 30))
    assert late != events
    jittered = write(tmp_path / "access.log", dict(late))
    assert {(network, jail) for network, jail, *_ in told(replayed(config, [jittered]))} == expected


@pytest.mark.parametrize("wrong_at", [10 * 86400, -300 * 86400, 400 * 86400])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_line_with_a_wrong_clock_changes_nothing(tmp_path: Path, wrong_at: float, place: int) -> None:
    """One line from another year, anywhere, takes no other line's ban away and is no failure of its own."""
    lines = [nginx_line(ATTACKER, at) for at in (0, 10, 20)] + [
        nginx_line(OTHER, at) for at in (40_000, 40_010, 40_020)
    ]
    lines += [nginx_line("192.0.2.1", 40_030 + at) for at in range(9)]
    lines.insert(place, nginx_line("203.0.113.99", wrong_at))
    log = tmp_path / "access.log"
    log.write_bytes(b"".join(lines))
    bans = told(replayed(settings(tmp_path), [log]))
    assert [ban[0] for ban in bans] == [ATTACKER, OTHER, "192.0.2.1"]


def test_since_leaves_out_what_was_before(tmp_path: Path) -> None:
    """A failure before `since` does not count."""
    log = write(tmp_path / "access.log", {0: ATTACKER, 100: ATTACKER, 200: ATTACKER, 210: ATTACKER})
    assert told(replayed(settings(tmp_path), [log], since=50)) == [(ATTACKER, "probes", 210, 810)]


def test_the_whole_engine_is_replayed(tmp_path: Path) -> None:
    """Bans grow, recidive hears of them, a dry run is one, what prolongs is no other ban, and caps hold."""
    seconds = [0, 1, 2, 3, 3000, 3001, 3002]
    log = write(tmp_path / "access.log", dict.fromkeys(seconds, ATTACKER))
    more = RECIDIVE + f'[jails.dry]\nsource = "{log}"\nfilter = "nginx"\nevents = ["guard_probe"]\nmaxretry = 7\n'
    config = settings(tmp_path, more + 'findtime = "1d"\ndry_run = true\n', bantime_increment=True, bans_per_minute=1)
    found = replayed(config, [log])
    assert told(found) == [
        (ATTACKER, "probes", 2, 602),
        (ATTACKER, "dry", 3002, 3602),
        (ATTACKER, "probes", 3002, 4202),
        (ATTACKER, "recidive", 3002, 3002 + 7 * 86400),
    ]
    assert [each.name for each in found.jails if each.dry_run] == ["dry"]
    assert [ban.dry_run for ban in found.bans] == [False, True, False, False]
    many = write(tmp_path / "access.log", {n / 100: f"203.0.113.{n % 20}" for n in range(60)})
    capped = replayed(settings(tmp_path, bantime=-1, bans_per_minute=5), [many])
    assert [ban.end for ban in capped.bans].count(None) == 5
    assert "more than 5 bans a minute" in capped.jails[0].alarm


def test_further_failures_prolong_a_ban(tmp_path: Path) -> None:
    """Three more lines of somebody banned are no further ban, but the ban ends later, and both is said."""
    log = write(tmp_path / "access.log", dict.fromkeys([0, 1, 2, 100, 101, 102], ATTACKER))
    found = replayed(settings(tmp_path), [log])
    assert told(found) == [(ATTACKER, "probes", 2, 702)]
    assert found.bans[0].prolonged == 1


def test_who_is_never_banned_is_not(tmp_path: Path) -> None:
    """The safelist counts for nothing, and what the judge refuses is listed with the reason."""
    lines = {float(n): ("198.51.100.7", "127.0.0.1")[n % 2] for n in range(12)}
    log = write(tmp_path / "access.log", lines)
    found = replayed(settings(tmp_path, 'safelist = ["198.51.100.0/24"]'), [log])
    assert found.bans == ()
    (refused,) = found.refused
    assert (refused.network, refused.jail, refused.times) == ("127.0.0.1", "probes", 2)
    assert "loopback" in refused.why


def test_nobody_outside_is_asked(tmp_path: Path) -> None:
    """`ignorecommand` is not even imported, no name is looked up, and the report says so."""
    log = tmp_path / "access.log"
    log.write_bytes(b"failed from a.invalid\n" * 3 + b"failed from 203.0.113.5\n" * 3)
    os.utime(log, (BEGIN, BEGIN))
    config = settings(tmp_path, ignorecommand="no.such.module:function")
    text = config.read_text().replace('"nginx"', '"regex"\nfailregex = "^failed from <HOST>$"')
    config.write_text(text.replace('["guard_probe"]', '["authn_login_fail"]'))
    found = replayed(config, [log])
    assert told(found) == [(ATTACKER, "probes", 0, 600)]
    asked, named, undated = found.notes
    assert asked.startswith("jail probes: ignorecommand was not asked")
    assert named.startswith("3 events of clients known by a host name only")
    assert undated.startswith(f"{log}: 6 lines tell no time")


def test_a_damaged_file_is_read_up_to_there(tmp_path: Path) -> None:
    """What stands before the damage is replayed, and the file has a complaint."""
    whole = gzip.compress(b"".join(nginx_line(ATTACKER, at) for at in range(3)) + os.urandom(1_000_000))
    log = tmp_path / "access.log.1"
    log.write_bytes(whole[: len(whole) // 2])
    found = replayed(settings(tmp_path), [log])
    assert told(found) == [(ATTACKER, "probes", 2, 602)]
    assert "access.log.1 cannot be read" in found.files[0].complaint


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("access.log", True),
        ("access.log.1", True),
        ("access.log.12.gz", True),
        ("access.log-20261120.zst", True),
        ("access-20261120.log", True),
        ("access.log.gz", True),
        ("other.log", False),
        ("access.log.d", False),
        ("deeper/access.log", False),
    ],
)
def test_a_jail_reads_its_files_and_what_they_were_rotated_to(tmp_path: Path, name: str, is_read: bool) -> None:
    """A path belongs to the jails whose source it is, or whose source it was before it was rotated."""
    config = daemon_config(settings(tmp_path))
    if is_read:
        assert [each.jail.name for each in plan_of(config, [tmp_path / name])[tmp_path / name]] == ["probes"]
        return
    with pytest.raises(ConfigError, match=r"no jail reads this file: .*probes; .*--jail NAME"):
        plan_of(config, [tmp_path / name])
    assert plan_of(config, [tmp_path / name], ["probes"])


def test_a_jail_that_cannot_be_is_named(tmp_path: Path) -> None:
    """A jail that does not exist, or reads no lines, is refused with what there is."""
    config = daemon_config(settings(tmp_path, '[jails.recidive]\nuse = "recidive"\n'))
    with pytest.raises(ConfigError, match=r"no such jail: 'prob' \(jails: recidive, probes\)"):
        plan_of(config, [tmp_path / "x"], ["prob"])
    with pytest.raises(ConfigError, match="recidive reads no lines"):
        plan_of(config, [tmp_path / "x"], ["recidive"])


def test_no_line_is_later_than_now(tmp_path: Path) -> None:
    """A log whose end is in the future does not count there, as the daemon would not count it."""
    log = write(tmp_path / "access.log", {NOW - BEGIN + 3600 + n: ATTACKER for n in range(3)})
    assert replayed(settings(tmp_path), [log]).bans == ()


def test_tidying_up_changes_no_ban(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether what has ended is forgotten behind every line or never, the bans are the same."""
    chance = random.Random(7)
    lines = {at * 40.0: f"203.0.113.{chance.randrange(12)}" for at in range(1500)}
    log = write(tmp_path / "access.log", lines)
    config = settings(tmp_path, RECIDIVE, bantime_increment=True, escalate=2)
    monkeypatch.setattr("appguard.replay.TIDY_EVERY", 1_000_000)
    expected = replayed(config, [log]).bans
    monkeypatch.setattr("appguard.replay.TIDY_EVERY", 1)
    assert replayed(config, [log]).bans == expected
    assert {ban.jail for ban in expected} == {"probes", "recidive"}
