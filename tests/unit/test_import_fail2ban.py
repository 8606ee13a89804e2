"""`appguard import-fail2ban` on small configurations: what is written means the same, and what is lost is said."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from appguard.config import DaemonConfig, daemon_config
from appguard.fail2ban_settings import seconds_of
from appguard.filters.open import open_filter
from appguard.filters.regex import RegexFilter
from appguard.members import sources_of

COMMON = (
    "[DEFAULT]\nbantime = 10m\nfindtime = 10m\nmaxretry = 5\nbackend = auto\nusedns = warn\nmode = normal\n"
    "filter = %(__name__)s[mode=%(mode)s]\nport = 0:65535\nlogencoding = auto\nenabled = false\n"
)
EITHER = ("_COMM=a", "+", "_COMM=b")
FILTER = "[Definition]\nfailregex = ^from <HOST>$\nignoreregex =\nmode = normal\njournalmatch = _COMM=shop\n"


class Imported:
    """What was written and said, and the settings it is."""

    def __init__(self, directory: Path, *options: str) -> None:
        output = directory / "appguard.toml"
        output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "appguard", "import-fail2ban", str(directory), "--output", str(output)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "", done
        self.code, self.report = done.returncode, done.stderr
        self.text = output.read_text() if output.exists() else ""
        self.config: DaemonConfig = daemon_config(output)
        self.jails = {each.jail.name: each for each in self.config.jails}


@pytest.fixture
def fail2ban(tmp_path: Path) -> Path:
    """Give a configuration of fail2ban's with the filter `shop` and no jail."""
    (tmp_path / "filter.d").mkdir()
    (tmp_path / "jail.d").mkdir()
    (tmp_path / "filter.d/shop.conf").write_text(FILTER)
    (tmp_path / "jail.conf").write_text(COMMON)
    return tmp_path


def imported(directory: Path, local: str, *options: str) -> Imported:
    """Import with this `jail.local`."""
    (directory / "jail.local").write_text(local)
    return Imported(directory, *options)


def test_files_are_merged_and_only_what_is_enabled_is_imported(fail2ban: Path) -> None:
    """The order is jail.conf, jail.d/*.conf, jail.local, jail.d/*.local; [DEFAULT] and includes count."""
    (fail2ban / "paths-here.conf").write_text("[DEFAULT]\nshop_log = /var/log/shop.log\n")
    head = "[INCLUDES]\nbefore = paths-here.conf\n"
    jails = "[shop]\nlogpath = %(shop_log)s\nmaxretry = 1\n[other]\nlogpath = /x\n"
    (fail2ban / "jail.conf").write_text(head + COMMON + jails)
    (fail2ban / "jail.d/a.conf").write_text("[shop]\nenabled = true\nmaxretry = 2\nbantime = 1\n")
    (fail2ban / "jail.d/z.local").write_text("[shop]\nmaxretry = 4\n")
    found = imported(fail2ban, "[shop]\nmaxretry = 3\nbantime = 1h\n")
    assert list(found.jails) == ["shop"]
    config = found.jails["shop"]
    assert (config.jail.maxretry, config.jail.findtime, config.jail.bantime) == (4, 600, 3600)
    assert config.sources == ("/var/log/shop.log",)
    assert config.filter == f"fail2ban:{fail2ban}/filter.d/shop[mode=normal]"
    assert found.code == 0


def test_the_jails_of_the_posts(fail2ban: Path) -> None:
    """Permanent bans at the second probe in one's own logs, a request flood of one second, two jails on one log."""
    (fail2ban / "filter.d/nginx-banroute.conf").write_text(
        '[Definition]\nfailregex = ^<HOST> .* "(GET|POST|PATCH|PUT|DELETE) .*" (444|404|403) .*$\nignoreregex =\n'
    )
    found = imported(
        fail2ban,
        "[nginx-banroute]\nenabled = true\nport = http,https\nlogpath = ~/logs/*.log\nmaxretry = 2\nbantime = -1\n"
        "[flask-ddos]\nenabled = true\nfilter =\nlogpath = /srv/flask/app.log\nmaxretry = 4\nfindtime = 1s\n"
        'failregex = ^<HOST> - - \\[\\] "GET\nignoreregex = \\.(?i)(jpg|png|css|js)\n'
        '[flask-auth]\nenabled = true\nfilter =\nfailregex = ^<HOST> .*" 401 -$\nlogpath = /srv/flask/app.log\n',
    )
    route, ddos, auth = (found.jails[name] for name in ("nginx-banroute", "flask-ddos", "flask-auth"))
    assert (route.sources, route.jail.maxretry, route.jail.bantime) == (("~/logs/*.log",), 2, -1)
    assert (ddos.jail.maxretry, ddos.jail.findtime, ddos.filter) == (4, 1, "regex")
    assert ddos.filter_options["ignoreregex"] == (r"\.(?i)(jpg|png|css|js)",)
    assert ddos.sources == auth.sources
    assert route.jail.ports == ("http", "https")
    assert "~ is the home of the user the daemon runs as" in found.report
    line = b'203.0.113.5 - - [20/Nov/2026 09:11:02] "POST /login HTTP/1.1" 401 -'
    made = open_filter(auth.filter, auth.filter_options)
    assert isinstance(made, RegexFilter)
    hit = made.find(line, 0)
    assert hit is not None and hit.id == "203.0.113.5"


def test_sshd_by_journal_and_by_file(fail2ban: Path) -> None:
    """The two usual ways keep their source; in the journal what the filter itself matches is read."""
    (fail2ban / "filter.d/sshd.conf").write_text(
        FILTER.replace("_COMM=shop", "_SYSTEMD_UNIT=sshd.service + _COMM=sshd")
    )
    journal = imported(fail2ban, "[sshd]\nenabled = true\nbackend = systemd\nlogpath = /x\n").jails["sshd"]
    (source,) = sources_of(journal).values()
    assert (source.kind, source.arguments) == ("journal", ("_SYSTEMD_UNIT=sshd.service", "+", "_COMM=sshd"))
    secure = imported(fail2ban, "[sshd]\nenabled = true\nlogpath = /var/log/secure\n").jails["sshd"]
    (source,) = sources_of(secure).values()
    assert (source.kind, source.arguments) == ("files", ("/var/log/secure",))


@pytest.mark.parametrize(
    ("options", "source", "matches"),
    [
        ("backend = systemd\n", "journal", ()),
        ("backend = systemd[journalflags=1]\njournalmatch = _COMM=a + _COMM=b\n", "journal", EITHER),
        ("backend = systemd[journalpath=/j]\njournalmatch = _COMM=a\n  _COMM=b\n", "journal:/j", EITHER),
        ("logpath = /x**y/*.log\n", "/x**y/*.log", ()),
        ("backend = polling\nlogpath = /a tail\n  /b/*.log\n", ("/a", "/b/*.log"), ()),
    ],
)  # fmt: skip
def test_sources(fail2ban: Path, options: str, source: str | tuple[str, ...], matches: tuple[str, ...]) -> None:
    """The journal is read where fail2ban reads it, with its matches or those of the filter, else the files."""
    config = imported(fail2ban, f"[shop]\nenabled = true\n{options}").jails["shop"]
    assert config.sources == ((source,) if isinstance(source, str) else source)
    assert config.journalmatch == matches


def test_bans_that_grow(fail2ban: Path) -> None:
    """The `bantime.` family keeps its meaning, a formula is not evaluated and said to be lost."""
    family = "bantime.increment = true\nbantime.factor = 2\nbantime.maxtime = 1w\nbantime.rndtime = 8m\n"
    family += "bantime.overalljails = true\nbantime.multipliers = 1 5 30\nbantime.formula = ban.Time\n"
    found = imported(fail2ban, f"[DEFAULT]\n{family}[shop]\nenabled = true\nlogpath = /a\n")
    jail = found.jails["shop"].jail
    assert (jail.bantime_increment, jail.bantime_factor, jail.bantime_maxtime) == (True, 2.0, 604800)
    assert (jail.bantime_rndtime, jail.bantime_overalljails, tuple(jail.bantime_multipliers)) == (480, True, (1, 5, 30))
    place = f"{fail2ban}/jail.local:8"
    assert f"[shop] bantime.formula ({place}): no formula is evaluated" in found.report
    for_ever = imported(fail2ban, f"[DEFAULT]\n{family}[shop]\nenabled = true\nlogpath = /a\nbantime = -1\n")
    assert not for_ever.jails["shop"].jail.bantime_increment
    assert "bans for ever cannot grow" in for_ever.report


def test_who_is_let_off(fail2ban: Path) -> None:
    """What all jails let off is the safelist; where they differ, each keeps its own; names are said to be lost."""
    jails = "[shop]\nenabled = true\nlogpath = /a\n[two]\nenabled = true\nfilter = shop\nlogpath = /a\n"
    same = imported(fail2ban, f"[DEFAULT]\nignoreip = 127.0.0.1/8, ::1 office.example\n{jails}")
    assert [str(each) for each in same.config.safelist] == ["127.0.0.0/8", "::1/128"]
    assert same.report.count("office.example is left out") == 2
    other = imported(fail2ban, f"[DEFAULT]\nignoreip = ::1\n{jails}ignoreip = 192.0.2.1\n")
    assert other.config.safelist == ()
    assert [tuple(other.jails[name].jail.safelist) for name in ("shop", "two")] == [("::1",), ("192.0.2.1",)]


def test_regexes_of_the_jail(fail2ban: Path) -> None:
    """They take the place of the filter's own, which `%(known/...)s` brings back, and go on doing so."""
    found = imported(
        fail2ban,
        "[shop]\nenabled = true\nlogpath = /a\nfailregex = %(known/failregex)s\n   ^by <HOST>$\nusedns = no\n"
        'datepattern = ^%%Y-%%m-%%d\nmaxlines = 2\nignoreregex = it\'s "me\\d"\n',
    )
    config = found.jails["shop"]
    made = open_filter(config.filter, config.filter_options)
    assert isinstance(made, RegexFilter)
    assert made.options.failregex == ("^from <HOST>$", "^by <HOST>$")
    assert made.options.ignoreregex == ('it\'s "me\\d"',)
    assert (made.options.datepattern, made.options.maxlines, made.options.usedns) == (("^%Y-%m-%d",), 2, "no")


PORTS: Mapping[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "port = ssh": (("ssh",), ()),
    "port = ssh,2222\nprotocol = tcp": (("ssh", 2222), ("tcp",)),
    "port = 8000:8010, http\nprotocol = udp": (("8000-8010", "http"), ("udp",)),
    "port = domain\nprotocol = tcp,udp": (("domain",), ("tcp", "udp")),
    "port = ssh\nprotocol = all": (("ssh",), ()),
    "port = 0:65535\nprotocol = tcp": ((), ()),
    "port = ssh\naction = iptables-allports[name=x]": ((), ()),
    'port = ssh\naction = nftables[type=allports, port="ssh"]': ((), ()),
    'port = ssh\naction = nftables[type=multiport, port="0:65535"]': ((), ()),
    'port = ssh\naction = nftables[type=multiport, port="ssh"]': (("ssh",), ()),
}


@pytest.mark.parametrize("options", PORTS)
def test_ports_are_carried_over(fail2ban: Path, options: str) -> None:
    """A jail bans from the ports its action would, in the words of the jail; of an action for all ports from all."""
    found = imported(fail2ban, f"[shop]\nenabled = true\nlogpath = /a\n{options}\n").jails["shop"].jail
    assert (found.ports, found.protocol) == PORTS[options]


LOST: Mapping[str, str] = {
    "port = gopher": "port (@): gopher: a banned client is shut out of all ports: ports: 'gopher': expected a port",
    "ignorecommand = /bin/true <ip>": "ignorecommand (@): no command is run",
    "ignoreself = false": "ignoreself (@): this host's own addresses are never banned",
    "logencoding = latin-1": "logencoding (@): latin-1: logs are read as UTF-8",
    "logtimezone = UTC+0200": "logtimezone (@): UTC+0200: times without a zone are this host's",
    "bantime.maxtime = 1d": "bantime.maxtime (@): means nothing without bantime.increment",
    'action = nftables[port="1"]\n    sendmail-whois[name=x, dest="a@b"]': "action (@): sendmail-whois is not run",
    "action = %(cloud)s": "action (@): cannot be read: [shop]: %(cloud)s is set nowhere",
    "logpath = /a\n   relative.log": "logpath (@): relative.log is left out: expected the whole path",
}


@pytest.mark.parametrize(("written", "said"), LOST.items())
def test_what_is_lost_is_said_with_its_place(fail2ban: Path, written: str, said: str) -> None:
    """Each option that is not carried over is named with file and line, in the report and beside the jail."""
    log = "" if written.startswith("logpath") else "logpath = /a\n"
    found = imported(fail2ban, f"[shop]\nenabled = true\n{written}\n{log}")
    assert f"[shop] {said.replace('@', f'{fail2ban}/jail.local:3')}" in found.report
    option, _, rest = said.partition(" (@): ")
    assert f"# {option}: {rest}" in found.text
    assert found.code == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("logpath = /a\nfilter = nothing\n", "nothing.conf, and the jail has no failregex"),
        ("logpath = a\n", "no log to read"),
        ("filter = shop\nlogpath = /a\nmaxretry = many\n", "maxretry = 'many': expected a number"),
        ("filter = shop\nlogpath = /a\nfindtime = soon\n", "findtime = 'soon': expected a duration"),
        ("logpath = /a\nfilter = shop\nfailregex = %(unset)s <HOST>\n", "failregex cannot be read"),
        ("backend = systemd\nfilter = shop\njournalmatch = _COMM='x\n", "No closing quotation"),
        ("logpath = /a\nfailregex = (<HOST>\n", "is no regex"),
        ("logpath = /a\nfilter = shop[x\n", "expected"),
        ("filter = shop\nlogpath = /a\naction = iptables[blocktype=RETURN]\n", "its action lets clients in"),
    ],
)
def test_a_jail_that_cannot_be_is_left_out_alone(fail2ban: Path, options: str, why: str) -> None:
    """The others are written all the same, the exit code is 1, and the reason stands in its place."""
    found = imported(fail2ban, f"[bad]\nenabled = true\n{options}[shop]\nenabled = true\nlogpath = /a\n")
    assert (found.code, list(found.jails)) == (1, ["shop"])
    assert "Left out: [bad] " in found.report
    assert why in found.report
    assert "# [bad] is left out: " in found.text


def test_hostile_names_and_values_stay_data(fail2ban: Path) -> None:
    """What stands in the files cannot become a setting of its own."""
    found = imported(
        fail2ban,
        '[a b"]\nenabled = true\nfilter = shop\nlogpath = /a"]\n   /b\\\nport = 1\n   [jails.evil]\n   source = "/c"\n',
    )
    assert list(found.jails) == ["a-b-"]
    assert found.jails["a-b-"].sources == ('/a"]', "/b\\")


def test_own_filters_only_if_asked(fail2ban: Path) -> None:
    """`--own-filters` takes ours where one does the same, unless the jail changes the regexes of fail2ban's."""
    for name in ("sshd", "recidive", "nginx-limit-req"):
        (fail2ban / f"filter.d/{name}.conf").write_text(FILTER)
    local = "[sshd]\nenabled = true\nlogpath = /a\nmode = extra\n[recidive]\nenabled = true\nlogpath = /b\n"
    local += "[nginx-limit-req]\nenabled = true\nlogpath = /c\n[x]\nenabled = true\nlogpath = /d\nfilter = sshd\n"
    local += "ignoreregex = mine\n"
    own = imported(fail2ban, local, "--own-filters")
    assert [(each.filter, each.sources) for each in own.config.jails] == [
        ("sshd", ("/a",)),
        ("", ("bans",)),
        ("nginx-error", ("/c",)),
        (f"fail2ban:{fail2ban}/filter.d/sshd", ("/d",)),
    ]
    assert own.jails["nginx-limit-req"].jail.events == ("excess_rate_limit_exceeded",)
    assert "mode=extra is not carried over" in own.report
    assert all(each.filter.startswith("fail2ban:") for each in imported(fail2ban, local).config.jails)


def test_no_file_is_overwritten_and_nothing_enabled_is_said(fail2ban: Path) -> None:
    """Settings that somebody wrote are safe, and an empty file is not taken for a success."""
    command = [sys.executable, "-m", "appguard", "import-fail2ban", str(fail2ban)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no jail is enabled" in done.stderr
    (fail2ban / "jail.local").write_text("[shop]\nenabled = true\nlogpath = /a\n")
    there = fail2ban / "there.toml"
    there.write_text("mine")
    done = subprocess.run([*command, "--output", str(there)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, there.read_text()) == (2, "mine")
    done = subprocess.run([*command[:-1], str(fail2ban / "x")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60*60", 3600), ("1h 30", 5400 - 1770), ("2 hours + 30", 7230), ("(1+2)*60", 180), ("1y 6mo", 47_088_000),
        ("1h/2", 1800), ("-1", -1), ("x", None), ("__import__('os')", None), ("9**9**9", None), ("1/0", None),
        ("", None),
    ],
)  # fmt: skip
def test_expressions(text: str, seconds: float | None) -> None:
    """Sums and products are computed as fail2ban computes them; nothing else is evaluated."""
    assert seconds_of(text) == seconds
