"""The daemon with regexes and with fail2ban's own filters: what the log says becomes a ban."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Place, in_kernel, running_daemon
from tests.lab import wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def append(log: Path, *lines: str) -> None:
    """Write lines to a log at once."""
    with log.open("a") as opened:
        opened.write("".join(f"{line}\n" for line in lines))


def test_two_jails_of_fail2bans_sshd_on_one_log(place: Place) -> None:
    """Debian's sshd filter, unmodified, feeds one jail that bans soon and one with another mode and its own counter."""
    log = place.logs / "auth.log"
    log.touch()
    jail = '[jails.{}]\nsource = "{}"\nfilter = "fail2ban:sshd[mode={}]"\nmaxretry = {}\n'
    place.configure(jail.format("sshd", log, "normal", 2) + jail.format("sshd-slow", log, "aggressive", 9))
    stamp = time.strftime("%b %d %H:%M:%S")
    failed = f"{stamp} host sshd[1]: Failed password for root from {{}} port 50022 ssh2"
    with running_daemon(place) as daemon:
        append(log, failed.format("203.0.113.5"), failed.format("2001:db8::5"), failed.format("203.0.113.5"))
        append(log, f"{stamp} host sshd[2]: Connection closed by 203.0.113.6 port 50022 [preauth]")
        wait_until(lambda: "203.0.113.5" in in_kernel(), 10, daemon.output)
        daemon.wait_for("[sshd-slow] Found 203.0.113.6")
        counted = {name: int(place.ask("status", name)["total_failed"]) for name in ("sshd", "sshd-slow")}
        assert place.banned() == ["203.0.113.5"]
    assert counted == {"sshd": 3, "sshd-slow": 4}


def test_a_client_known_by_name_is_banned_by_its_address(place: Place) -> None:
    """The system resolves the name in the log, and its address is banned."""
    log = place.logs / "app.log"
    log.touch()
    name, own = "attacker.example.com", place.logs / "hosts"
    own.write_text(f"{Path('/etc/hosts').read_text()}\n203.0.113.9 {name}\n")
    run("mount", "--bind", str(own), "/etc/hosts")
    try:
        assert socket.gethostbyname(name) == "203.0.113.9"
        regex = "filter = 'regex'\nfailregex = '^failed from <HOST>$'\nmaxretry = 2\n"
        place.configure(f'[jails.app]\nsource = "{log}"\n{regex}')
        with running_daemon(place) as daemon:
            append(log, *[f"failed from {name}"] * 2)
            wait_until(lambda: "203.0.113.9" in in_kernel(), 10, daemon.output)
    finally:
        run("umount", "/etc/hosts")


SLOW = {
    "regex": "filter = 'regex'\nfailregex = '^(?:x|x|xx)*y from <HOST>$'\n",
    "data file": 'filter = "{}/slow.toml"\n',
}
SLOW_FILE = "[[line]]\nkind = 'authn_login_fail'\nregex = '(?:x|x|xx)*y from (?P<address>[0-9.]+)'\n"
HOSTILE = 300  # lines


@pytest.mark.parametrize("kind", SLOW)
def test_a_catastrophic_regex_stops_nobody(place: Place, kind: str) -> None:
    """Lines that a user's regex would take years for are skipped and reported; its jail and another go on banning."""
    slow, other = place.logs / "slow.log", place.logs / "other.log"
    slow.touch()
    other.touch()
    (place.logs / "slow.toml").write_text(SLOW_FILE)
    jail = '[jails.{}]\nsource = "{}"\nmaxretry = 1\n{}\n'
    other_filter = "filter = 'regex'\nfailregex = '^failed from <HOST>$'\n"
    place.configure(
        jail.format("slow", slow, SLOW[kind].format(place.logs)) + jail.format("other", other, other_filter)
    )
    with running_daemon(place) as daemon:
        append(slow, *["x" * 100 + "!y from 192.0.2.66"] * HOSTILE)
        begin = time.monotonic()
        append(other, "failed from 203.0.113.9")
        daemon.wait_for("[other] Ban 203.0.113.9")
        banned_at = next(each.time for each in daemon.lines() if "[other] Ban 203.0.113.9" in each.text)
        print(f"{kind}: banned {banned_at - begin:.3f} s behind {HOSTILE} lines that would each take for ever")
        append(slow, "xxy from 203.0.113.5")
        daemon.wait_for("[slow] Ban 203.0.113.5")
        daemon.wait_for("a line takes too long for its regexes and is skipped")
        said = {each["name"]: each["complaint"] for each in place.ask("status")["sources"]}
        assert f"{HOSTILE} lines were skipped: they take too long for its regexes" in said[str(slow)]
        assert "skipped" not in said[str(other)]
        assert f"{HOSTILE} lines were skipped" in place.run("status").stdout


def test_a_wrong_regex_is_said_at_the_start(place: Place) -> None:
    """The daemon does not start with half its jails: it says which jail and what is wrong."""
    place.configure(f"[jails.app]\nsource = \"{place.logs}/app.log\"\nfilter = 'regex'\nfailregex = '('\n")
    daemon = place.start(is_up=False)
    try:
        assert daemon.wait() != 0
    finally:
        daemon.stop()
    assert "jail app: filter = 'regex': failregex: '(' is no regex" in daemon.output()
