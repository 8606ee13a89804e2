"""Filters that are data: ours are whole, a user's own is read, and a wrong one is refused with the reason."""

import time
from pathlib import Path

import pytest

from appguard.cli.regex_warnings import filter_warnings
from appguard.config_jails import JailConfig
from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL
from appguard.filters.data_file import DATA, LINEAR, DataFilter
from appguard.filters.expression import LINE_SECONDS
from appguard.filters.open import FILTERS, open_filter, warnings_of
from appguard.jail import Jail
from appguard.members import filter_of
from appguard.sources.base import LINE_MOST
from tests.filtering import told

SHOP = r"""
description = "the shop"
time = ["iso"]
head = '(?P<time>[0-9T:Z-]++) shop: '
[[line]]
kind = "authn_login_fail"
regex = 'bad password for (?P<user>.*) from (?P<address>[0-9a-f:.]++)'
"""
LINE = b"2026-11-20T09:11:02Z shop: bad password for x from 192.0.2.66 from 203.0.113.5"


def test_a_users_own_file_is_a_filter(tmp_path: Path) -> None:
    """A data file anywhere is a filter by its whole path, which is its name."""
    file = tmp_path / "shop.toml"
    file.write_text(SHOP)
    made = open_filter(str(file))
    event = told(made, LINE, 0.0)
    assert event is not None
    assert (made.name, event.kind, event.address.text, event.user) == (
        str(file),
        LOGIN_FAIL,
        "203.0.113.5",
        "x from 192.0.2.66",
    )
    assert told(made, LINE + b" and more", 0.0) is None
    assert told(made, b" " + LINE, 0.0) is None


def test_a_users_own_file_may_hold_a_format_or_fields(tmp_path: Path) -> None:
    """What fits on no line of the settings stands in a file: a `log_format`, or the fields of JSON."""
    (tmp_path / "a.toml").write_text("log_format = '''$remote_addr \"$request\" $status'''")
    (tmp_path / "b.toml").write_text('[json]\naddress = "ip"\n')
    lines = {"a": b'203.0.113.5 "GET / HTTP/1.1" 404', "b": b'{"ip":"203.0.113.5"}'}
    for name, line in lines.items():
        event = told(open_filter(str(tmp_path / f"{name}.toml")), line, 0.0)
        assert event is not None
        assert event.address.text == "203.0.113.5"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[line]]", "[[lines]]", "unknown key 'lines'"),
        ('description = "the shop"', "description = 5", "description = 5: expected a str"),
        ('time = ["iso"]', 'time = ["rfc"]', "time = 'rfc': expected some of 'clf'"),
        ('time = ["iso"]', "time = [5]", "expected a list of texts"),
        ('time = ["iso"]', "", "time, its form, is missing"),
        ("(?P<user>", "(?P<name>", "group 'name': expected one of address"),
        ("(?P<address>", "(?:", r"no group \(\?P<address>"),
        ("(?P<user>.*)", "(?P<user>.*", "missing \\)|unterminated"),
        ('kind = "authn_login_fail"', "", "kind = None: expected one of"),
        ('kind = "authn_login_fail"', 'kind = "login"', "kind = 'login': expected one of"),
        ('kind = "authn_login_fail"', 'kind = "by_status"', "needs a group"),
        ("regex =", "regexp =", "unknown key 'regexp'"),
        ("regex =", "#", "regex is missing"),
        (SHOP, "", "is missing: give at least one regex"),
        (SHOP, "line = [5]", "expected a table with kind and regex"),
        (SHOP, "json = 5", "json = 5: expected a table"),
        (SHOP, "=", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The message says the file, what is wrong, and what is accepted."""
    file = tmp_path / "shop.toml"
    assert old in SHOP
    file.write_text(SHOP.replace(old, new))
    with pytest.raises(ConfigError, match=message) as raised:
        open_filter(str(file))
    assert str(raised.value).startswith(f"{file}: ")


CATASTROPHIC = (r"(?:\w+\s?)*", "(?:a|a)*b", r"(?:.*\n)*=", "(?i)(x+x+)+y", ".*.*.*.*.*=")


@pytest.mark.parametrize("part", CATASTROPHIC)
@pytest.mark.parametrize("where", ["head", "line"])
def test_a_catastrophic_regex_of_a_user_costs_its_budget(tmp_path: Path, part: str, where: str) -> None:
    """No line takes longer than a few milliseconds, and the tool warns of the regex beforehand."""
    file = tmp_path / "slow.toml"
    lines = (
        f"[[line]]\nkind = 'authn_login_fail'\nregex = '{part if where == 'line' else ''}: from (?P<address>[0-9.]+)'\n"
    )
    file.write_text((f"head = '{part}'\n" if where == "head" else "") + lines)
    made = open_filter(str(file))
    assert isinstance(made, DataFilter)
    begin = time.process_time()
    for piece in (b"a", b"a ", b"x", b"\n", b" "):
        for length in (40, 200, LINE_MOST):
            assert made.match((piece * LINE_MOST)[:length] + b"!", 0.0) is None
    assert time.process_time() - begin < 15 * 10 * LINE_SECONDS  # of a machine that does other things too
    assert any("not proven linear" in each for each in filter_warnings(made))
    assert made.patience.skipped == 0 or "skipped" in made.complaint


def test_ours_are_read_without_a_limit_of_time(tmp_path: Path) -> None:
    """A client cannot have its failure skipped: our own regexes are quick by themselves; a copy of one is a user's."""
    made, line = open_filter("sshd"), "Failed password for " + " from 1.1.1.1 port 1" * 300 + " from 203.0.113.5 port 1"
    assert isinstance(made, DataFilter)
    assert all(each.costs_like == LINEAR for each in made.regexes)
    event = told(made, line.encode(), 0.0)
    assert event is not None
    assert event.address.text == "203.0.113.5"
    (tmp_path / "sshd.toml").write_bytes((DATA / "sshd.toml").read_bytes())
    copied = open_filter(str(tmp_path / "sshd.toml"))
    assert isinstance(copied, DataFilter)
    assert not any(each.costs_like == LINEAR for each in copied.regexes)


def test_a_file_that_is_not_there_is_named() -> None:
    """The message says the file and the reason."""
    with pytest.raises(ConfigError, match=r"/nowhere/shop\.toml: cannot be read: No such file"):
        open_filter("/nowhere/shop.toml")


def test_an_unknown_name_lists_those_there_are() -> None:
    """The message proposes the nearest name and lists all."""
    with pytest.raises(ConfigError, match=r"did you mean 'werkzeug'\? Expected one of 'apache', .*'werkzeug'"):
        open_filter("werkzeg")
    with pytest.raises(ConfigError, match=r"^Expected one of .*'log_format:\.\.\.'"):
        open_filter("xyzzy")


def test_ours_are_whole() -> None:
    """Each of our data files makes a filter by its name and says what it reads and what it cannot."""
    for file in DATA.glob("*.toml"):
        made = open_filter(file.stem)
        assert isinstance(made, DataFilter)
        assert made.name == file.stem
        assert made.description
    assert all(make(()).name == name for name, make in FILTERS.items())


def test_what_a_user_should_know_is_logged_at_start(caplog: pytest.LogCaptureFixture) -> None:
    """A jail whose log a client can forge says so when the daemon makes its filter."""
    filter_of(JailConfig(Jail("web"), ("/var/log/nginx/error.log",), "nginx-error", ()))
    assert "jail web: filter = 'nginx-error': nginx writes what clients send" in caplog.text
    assert warnings_of(open_filter("nginx")) == ()
