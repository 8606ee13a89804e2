"""The ready jails: each is accepted as it stands, and bans for what it says and for nothing else."""

from pathlib import Path

import pytest

from appguard.address import Grouping
from appguard.ban import Ban
from appguard.config import daemon_config
from appguard.config_jails import read_jail
from appguard.config_sources import BANS_SOURCE, EVENTS_SOURCE
from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL, Event, parse_line
from appguard.filters.open import open_filter
from appguard.jail_window import JailWindow
from appguard.ready_jails import ABOUT, ready_jails
from tests.filtering import told

NAMES = sorted(ready_jails())
LINE = '203.0.113.5 - {user} [20/Nov/2026:09:{minute:02}:{second:02} +0000] "GET {path} HTTP/1.1" {status} 0 "-" "x"'


def bans_of(name: str, **request: object) -> list[Ban]:
    """Give the bans after each of as many requests as the jail bans for, one a tenth of a second."""
    config = read_jail(name, {"use": name}, "")
    window = JailWindow(config.jail, Grouping())
    chosen = open_filter(config.filter, kinds=config.jail.events)
    bans: list[Ban] = []
    for number in range(config.jail.maxretry):
        details = {"user": "-", "path": "/", "status": 200} | request
        event = told(chosen, LINE.format(minute=0, second=number // 10, **details).encode(), 0.0)
        if event is not None:
            bans += window.record(event)
    return bans


@pytest.mark.parametrize("name", NAMES)
def test_one_line_is_enough(tmp_path: Path, name: str) -> None:
    """`use` alone makes a jail; one that apps report to needs to be told which user's apps, and says so."""
    settings = {"use": name}
    if ready_jails()[name]["source"] == EVENTS_SOURCE:
        with pytest.raises(ConfigError, match="users is missing"):
            read_jail("mine", settings, "[jails.mine]")
        more = '\nusers = ["www-data"]'
    else:
        more = ""
    (tmp_path / "appguard.toml").write_text(f'[jails.mine]\nuse = "{name}"{more}\n')
    (found,) = daemon_config(tmp_path / "appguard.toml").jails
    assert found.jail.name == "mine"
    assert found.jail.maxretry == ready_jails()[name]["maxretry"]


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is_for(name: str) -> None:
    """Each has one sentence, and the documentation names it."""
    about = ready_jails()[name][ABOUT]
    assert isinstance(about, str)
    assert about.endswith(".")
    docs = (Path(__file__).parents[2] / "docs" / "jails.md").read_text()
    assert f"| `{name}` |" in docs


def test_what_is_written_wins_over_what_is_ready() -> None:
    """A key of the table replaces the ready one, whole; an unknown name and a wrong value are errors."""
    found = read_jail("mine", {"use": "probing", "maxretry": 3, "statuses": [404], "source": "/a.log"}, "")
    assert (found.jail.maxretry, found.jail.statuses, found.sources) == (3, (404,), ("/a.log",))
    assert found.jail.findtime == 300
    with pytest.raises(ConfigError, match=r"\[jails.x\]: use = 'probes': expected one of 'probing', "):
        read_jail("x", {"use": "probes"}, "[jails.x]")
    with pytest.raises(ConfigError, match=r"\[jails.x\]: maxretry = 0"):
        read_jail("x", {"use": "probing", "maxretry": 0}, "[jails.x]")


def test_jail_of_bans_stands_alone() -> None:
    """A jail that counts bans takes no other source, filter or users, and counts bans without being told."""
    assert read_jail("again", {"source": BANS_SOURCE}, "").jail.events == ("guard_ban",)
    for more in ({"source": [BANS_SOURCE, "/a.log"]}, {"filter": "nginx"}, {"users": ["1"]}):
        with pytest.raises(ConfigError, match="stands alone"):
            read_jail("again", {"source": BANS_SOURCE} | more, "")


def test_ignoreip_of_a_jail_adds_to_its_safelist() -> None:
    """fail2ban's spelling is taken as it is written there."""
    settings = {"use": "probing", "safelist": ["192.0.2.1"], "ignoreip": "198.51.100.0/24, ::1"}
    assert read_jail("x", settings, "").jail.safelist == ("192.0.2.1", "198.51.100.0/24", "::1")


@pytest.mark.parametrize(
    ("name", "request_", "is_banned"),
    [
        ("probing", {"status": 404}, True),
        ("probing", {"status": 444}, True),
        ("probing", {"status": 403}, True),
        ("probing", {"status": 400}, False),
        ("probing", {"status": 200}, False),
        ("basic-auth", {"status": 401, "user": "bob"}, True),
        ("basic-auth", {"status": 401}, False),
        ("dos", {}, True),
        ("dos", {"status": 404}, True),
        ("dos", {"path": "/static/a.css"}, False),
        ("dos", {"path": "/a.css?x=1"}, False),
        ("limit-req", {"status": 429}, True),
        ("limit-req", {"status": 503}, True),
        ("limit-req", {"status": 500}, False),
        ("sensitive-files", {"path": "/app/.env", "status": 404}, True),
        ("sensitive-files", {"path": "/wp-login.php?a", "status": 403}, True),
        ("sensitive-files", {"path": "/.git/config", "status": 444}, True),
        ("sensitive-files", {"path": "/wp-login.php", "status": 200}, False),
        ("sensitive-files", {"path": "/about", "status": 404}, False),
    ],
)
def test_access_log_leads_to_a_ban(name: str, request_: dict[str, object], is_banned: bool) -> None:
    """With the real filter, `maxretry` requests of the kind ban, one fewer does not, and other requests never do."""
    assert [ban.jail for ban in bans_of(name, **request_)] == ([name] if is_banned else [])


def test_dos_is_four_in_a_second() -> None:
    """Four requests in one second ban, four in two seconds do not."""
    config = read_jail("dos", {"use": "dos"}, "")
    for seconds, is_banned in (((0, 0, 0, 0), True), ((0, 0, 1, 1), False), ((0, 1, 2, 3), False)):
        window = JailWindow(config.jail, Grouping())
        chosen = open_filter("nginx", kinds=config.jail.events)
        events = [
            told(chosen, LINE.format(user="-", minute=0, second=s, path="/", status=200).encode(), 0) for s in seconds
        ]
        assert any(window.record(event) for event in events if event) is is_banned


def test_nobody_yields_requests_unasked() -> None:
    """A filter whose jails count no requests gives nothing for a good one, as before."""
    line = LINE.format(user="-", minute=0, second=0, path="/", status=200).encode()
    assert told(open_filter("nginx", kinds=[LOGIN_FAIL]), line, 0) is None


def test_credential_stuffing_counts_users() -> None:
    """Five different users from one address ban it, five failures of one user do not."""
    jail = read_jail("stuffing", {"use": "credential-stuffing", "users": ["1"]}, "").jail
    window = JailWindow(jail, Grouping())
    line = Event(
        LOGIN_FAIL, 0.0, parse_line('{"time":"2026-11-20T09:00:00Z","event":"x","source_ip":"203.0.113.5"}').address
    )
    tried = ["bob"] * 5 + ["carol", "dave", "erin", "BOB ", "frank"]
    bans = [window.record(Event(line.kind, float(n), line.address, user=user)) for n, user in enumerate(tried)]
    assert [len(each) for each in bans] == [0] * 9 + [1]


def test_sshd_is_read_from_the_journal_by_what_nobody_else_can_write() -> None:
    """The jail matches sshd's units, which the journal names itself, and counts a message as the journal gives it."""
    config = read_jail("ssh", {"use": "sshd-journal"}, "")
    assert config.journalmatch == ("_SYSTEMD_UNIT=ssh.service", "+", "_SYSTEMD_UNIT=sshd.service")
    line = b"Failed password for root from 203.0.113.5 port 50022 ssh2"
    event = told(open_filter(config.filter, kinds=config.jail.events), line, 1_795_000_000.0)
    assert event is not None
    assert (event.kind, str(event.address)) == (LOGIN_FAIL, "203.0.113.5")
