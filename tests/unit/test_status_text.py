"""How status and bans read: exact lines, exact durations, nothing that a terminal would act on."""

import json
from dataclasses import replace
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.ban import Ban
from appguard.cli.client import printable
from appguard.cli.text import ban_lines, duration_text, jail_lines, span_text, status_lines
from appguard.status import (
    BanRecord,
    DaemonStatus,
    FirewallSummary,
    JailStatus,
    JailSummary,
    ReachSummary,
    RefusedBan,
    SourceSummary,
)

QUIET = DaemonStatus(
    version="0.1.0",
    pid=1,
    started=0.0,
    store="memory://",
    enforcing=True,
    bans=1,
    firewalls=(FirewallSummary("dry_run", "", 1),),
    reach=(),
    jails=(),
    sources=(),
    refused=(),
)


def test_a_quiet_daemon() -> None:
    """A daemon without jails, sources and complaints keeps fail2ban's first lines and adds only what there is."""
    assert status_lines(QUIET) == [
        "Status",
        "|- Number of jail:\t0",
        "`- Jail list:\t",
        "Daemon:\t0.1.0, pid 1",
        "Store:\tmemory://",
        "Firewall:\tdry_run, enforcing, 1 ban, 1 packet dropped",
    ]


def test_every_trouble_has_its_line() -> None:
    """A failing firewall, a source behind, its complaint, and a refused ban are each a line of their own."""
    status = DaemonStatus(
        version="0.1.0",
        pid=1,
        started=0.0,
        store="local:///run/appguard",
        enforcing=False,
        bans=2,
        firewalls=(FirewallSummary("nftables", "nft: Operation not permitted", 0), FirewallSummary("nginx", "", None)),
        reach=(ReachSummary("192.0.2.8", 1, ("nginx", "app")), ReachSummary("192.0.2.8, 192.0.2.9", 2, ("app",))),
        jails=(JailSummary("login", 0, 0, 0, 0, "more than 2 bans a minute"),),
        sources=(
            SourceSummary("app", ("/a.log", "/b.log"), 1, ""),
            SourceSummary("nginx", (), 0, "/var/log/nginx/access.log: Permission denied"),
        ),
        refused=(RefusedBan("192.0.2.1", "login", "it is the gateway"),),
    )
    assert status_lines(status)[5:] == [
        "Firewall:\tnftables, NOT enforcing (appguard enforce on), 2 bans, 0 packets dropped",
        "Firewall:\tnginx, NOT enforcing (appguard enforce on), 2 bans",
        "Firewall error:\tnft: Operation not permitted",
        "Reach:\t1 ban by nginx and app only: the packets come from 192.0.2.8, not from the client",
        "Reach:\t2 bans by app only: the packets come from 192.0.2.8, 192.0.2.9, not from the client",
        "Alarm:\tjail login: more than 2 bans a minute",
        "Source:\tapp (/a.log /b.log), 1 byte behind",
        "Source:\tnginx (nothing yet), up to date, complaint: /var/log/nginx/access.log: Permission denied",
        "Refused:\t192.0.2.1 (jail login): it is the gateway",
    ]


def test_a_source_tells_what_became_of_its_lines() -> None:
    """One line says how far reading is and why lines led to nothing; what there is none of is left out."""
    log = "/var/log/nginx/access.log"
    status = replace(
        QUIET,
        sources=(
            SourceSummary(log, (log,), 0, "", lines=1204, matched=37, untimely=3, passed_over=12),
            SourceSummary("events", ("/run/appguard/events.sock",), 0, "", lines=1, refused=1),
            SourceSummary("journal", ("journal",), 0, "filter sshd: why", lines=9),
        ),
    )
    assert status_lines(status)[6:] == [
        f"Source:\t{log}, up to date, 1204 lines: 37 matched, 12 of banned addresses, 3 too old or in the future",
        "Source:\tevents (/run/appguard/events.sock), up to date, 1 line: none matched, 1 of users in no jail",
        "Source:\tjournal, up to date, 9 lines: none matched, complaint: filter sshd: why",
    ]


def test_lists_of_a_jail_are_separated_as_fail2ban_does() -> None:
    """Files and addresses are separated by one blank, and empty lists leave the tab at the end of the line."""
    jail = JailStatus("login", 0, 0, ("/a.log", "/b.log"), 2, 2, ("192.0.2.1", "2001:db8::/64"), "nothing", ())
    assert jail_lines(jail)[4] == "|  `- File list:\t/a.log /b.log"
    assert jail_lines(jail)[8] == "   |- Banned IP list:\t192.0.2.1 2001:db8::/64"
    assert jail_lines(JailStatus("login", 0, 0, (), 0, 0, (), "", ()))[8] == "   |- Banned IP list:\t"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.4, "0s"),
        (1, "1s"),
        (59.6, "1m"),
        (250, "4m 10s"),
        (600, "10m"),
        (3600, "1h"),
        (3605, "1h"),
        (5400.2, "1h 30m"),
        (86400 * 3 + 7200 + 59, "3d 2h"),
        (86400 * 400, "400d"),
        (86400 + 60, "1d"),
    ],
)
def test_a_duration_has_at_most_two_neighbouring_units(seconds: float, text: str) -> None:
    """A duration is its greatest unit and the next smaller one if that is not zero."""
    assert duration_text(seconds) == text


def test_a_ban_lasts_for_a_span_or_for_ever() -> None:
    """A permanent ban is for ever, both as a span and as a remaining time."""
    permanent = BanRecord.of(Ban.of("192.0.2.1", bantime=-1, start=1000.0))
    assert span_text(permanent) == "for ever"
    assert span_text(BanRecord.of(Ban.of("192.0.2.1", bantime="1h30m", start=1000.0))) == "for 1h 30m"
    assert "for ever" in ban_lines([permanent], 2000.0)[1]


def test_bans_are_an_aligned_table_newest_first() -> None:
    """Columns are as wide as their widest cell, the newest ban is on top, long reasons are cut, missing ones marked."""
    older = Ban.of("192.0.2.1", jail="login", bantime=600, start=1000.0, reason="5 x authn_login_fail in 600 s")
    newer = Ban.of("2001:db8:0:1::/64", bantime=3600, start=2000.0, reason="r" * 49)
    newest = replace(Ban.of("192.0.2.7", bantime=-1, start=3000.0), ports="tcp/22")
    refs = [ban.ref for ban in (newest, newer, older)]
    records = [BanRecord.of(older, ("kernel", "app")), BanRecord.of(newer, ("nginx", "app")), BanRecord.of(newest)]
    reason = "5 x authn_login_fail in 600 s"
    assert ban_lines(records, 1350.0) == [
        f"ADDRESS            PORTS   JAIL    ENDS IN   FAILURES  BLOCKED BY   {'REASON':48}  REF",
        f"192.0.2.7          tcp 22  manual  for ever  0         -            {'-':48}  {refs[0]}",
        f"2001:db8:0:1::/64  all     manual  1h 10m    0         nginx, app   {'r' * 45}...  {refs[1]}",
        f"192.0.2.1          all     login   4m 10s    0         kernel, app  {reason:48}  {refs[2]}",
    ]


def test_a_record_survives_json() -> None:
    """What the daemon writes is what the command reads: every record goes through JSON unchanged."""
    reach = ReachSummary("192.0.2.8", 1, ("app",))
    jail = JailStatus("login", 1, 2, ("/a",), 3, 4, ("192.0.2.1",), "nftables", (reach,))
    source, refused = SourceSummary("app", (), 0, ""), RefusedBan("192.0.2.1", "login", "why")
    status = replace(QUIET, jails=(JailSummary("login", 1, 2, 3, 4),), sources=(source,), refused=(refused,))
    status = replace(status, reach=(reach,))
    ban = BanRecord.of(Ban.of("192.0.2.1", start=1000.0, reason="a\nb"), ("kernel", "app"))
    assert status_lines(DaemonStatus.from_json(through_json(status))) == status_lines(status)
    assert jail_lines(JailStatus.from_json(through_json(jail))) == jail_lines(jail)
    assert ban_lines([BanRecord.from_json(through_json(ban))], 0.0) == ban_lines([ban], 0.0)


def through_json(record: object) -> dict[str, object]:
    """Write a record as the control API does and read the JSON as the command does."""
    return cast("dict[str, object]", json.loads(msgspec.json.encode(record)))


@given(st.text())
def test_nothing_printable_drives_a_terminal(text: str) -> None:
    """Whatever text comes in, what is printed has no control character, and printable text is left alone."""
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\ud800", "\\ud800"),
        ("caf\u00e9", "caf\u00e9"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    """Escape sequences, their one-byte forms, line ends, marks of direction and broken text are shown, not sent."""
    assert printable(text) == shown
