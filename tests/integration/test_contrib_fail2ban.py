"""fail2ban beside AppGuard: the real server, with the filter, action and jail of contrib/fail2ban as they are."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_address
from appguard.event import ACCESS_FAIL, LOGIN_FAIL, LOGIN_SUCCESS, Event
from tests.daemon import Place, in_kernel, login_failure, running_daemon
from tests.lab import Process, running, wait_until
from tests.netns import has_table, run

CONTRIB = Path(__file__).parents[2] / "contrib" / "fail2ban"
FILTER = CONTRIB / "filter.d" / "appguard.conf"
COMMAND = Path(sys.executable).with_name("appguard")
ATTACKER, OTHER, FORGED = "203.0.113.5", "203.0.113.6", "198.51.100.66"
SERVER = """[Definition]
loglevel = INFO
logtarget = STDOUT
socket = {0}/socket
pidfile = {0}/pid
dbfile = {0}/bans.sqlite3
dbpurgeage = 1d
syslogsocket = auto
allowipv6 = yes
"""
HERE = """[shop]
action = appguard[appguard="{command}", socket="{control}"]
logpath = {log}
backend = polling
{more}
"""


class Fail2ban:
    """A fail2ban of the test's own: its configuration, database and socket, and its event log."""

    def __init__(self, directory: Path, control: Path) -> None:
        self._directory = directory
        self._control = control
        self.log = directory / "appguard.jsonl"
        self.log.touch()
        for family in ("filter.d", "action.d", "jail.d"):
            shutil.copytree(CONTRIB / family, directory / family)
        (directory / "fail2ban.conf").write_text(SERVER.format(directory))
        (directory / "jail.conf").write_text("[DEFAULT]\n")
        self.configure()

    def configure(self, more: str = "") -> None:
        """Say where things are here, and change settings of the example's jail."""
        text = HERE.format(command=COMMAND, control=self._control, log=self.log, more=more)
        (self._directory / "jail.d" / "here.local").write_text(text)

    def start(self) -> Process:
        """Start the server in the foreground and wait until its jail runs."""
        server = Process("fail2ban", ["fail2ban-server", "-f", *self._options(), "start"])
        server.wait_for("Jail 'shop' started", 20)
        return server

    def client(self, *words: str) -> str:
        """Give the server an order."""
        command = ["fail2ban-client", *self._options(), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _options(self) -> list[str]:
        return ["-c", str(self._directory), "-s", f"{self._directory}/socket", "-p", f"{self._directory}/pid"]

    def report(self, *events: Event) -> None:
        """Write events as an app does."""
        with self.log.open("a") as log:
            log.writelines(f"{event.to_line()}\n" for event in events)


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    place = Place(open_tmp_path)
    place.configure("")
    yield place
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


@pytest.fixture
def fail2ban(tmp_path: Path, place: Place) -> Fail2ban:
    """Give a fail2ban that has not been started."""
    return Fail2ban(tmp_path, place.control)


def failures(address: str, times: int = 5) -> list[Event]:
    """Make failed logins of now."""
    return [login_failure(address, user=f"user{number}") for number in range(times)]


def forgeries() -> list[Event]:
    """Make events with fake events in everything a stranger can choose."""
    fake = login_failure(FORGED).to_line()
    texts = [fake, f"x\n{fake}", f"x\r\n{fake}\n", f'"}}\n{fake}', f'x",{fake[1:]}', fake[fake.index(',"event"') :]]
    texts += [fake.replace('"', "'"), "\x1b[2K\r" + fake, "\u2028" + fake, f"\\\n{fake}"]
    plain = [Event(kind, time.time(), parse_address(OTHER), app="shop") for kind in (LOGIN_SUCCESS, ACCESS_FAIL)]
    made: list[Event] = []
    for text in texts:
        for event in plain:
            made += [event._replace(user=text), event._replace(path=text), event._replace(user_agent=text)]
            made += [event._replace(method=text), event._replace(request_id=text)]
    return made


def matched(log: Path) -> list[str]:
    """Give the addresses that fail2ban's own trial finds in a log with our filter, in order."""
    command = ["fail2ban-regex", "--out", "ip", str(log), str(FILTER)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_the_filter_finds_failed_logins_and_nothing_else(tmp_path: Path) -> None:
    """Failed logins are found with the right address, both versions; successes, repetitions, other events are not."""
    log = tmp_path / "log"
    events = [
        login_failure(ATTACKER, user="alice"),
        Event(LOGIN_SUCCESS, time.time(), parse_address(OTHER), user="alice"),
        Event(ACCESS_FAIL, time.time(), parse_address(OTHER), status=403),
        login_failure(OTHER, count=0),
        login_failure("2001:db8:1::5", count=12, via=("127.0.0.1",)),
    ]
    log.write_text("".join(f"{event.to_line()}\n" for event in events))
    assert matched(log) == [ATTACKER, "2001:db8:1::5"]


def test_a_fake_event_in_a_text_never_matches(tmp_path: Path) -> None:
    """Whatever stands in the user name, path or user agent, only the address the app saw is found."""
    log = tmp_path / "log"
    own = [Event(LOGIN_FAIL, each.time, each.address, user=each.user or "x") for each in forgeries()]
    lines = [event.to_line() for event in (*forgeries(), *own)]
    fake = login_failure(FORGED).to_line()
    success = Event(LOGIN_SUCCESS, time.time(), parse_address(OTHER)).to_line()
    # What a writer that escapes nothing would write.
    lines += [f"{success[:-1]},{fake[1:]}", f'{success[:-1]},"user":"{fake}"}}', f"{success}{fake}", f" {fake}"]
    log.write_text("".join(f"{line}\n" for line in lines))
    assert matched(log) == [OTHER] * len(own)
    log.write_text(f"{fake}\n")
    assert matched(log) == [FORGED]  # alone it is an event: what is tried above would match if it could


@pytest.mark.lab
def test_a_ban_of_fail2ban_is_in_the_kernel_until_it_is_lifted(place: Place, fail2ban: Fail2ban) -> None:
    """Failed logins ban through fail2ban and AppGuard into the kernel; `unbanip` takes the ban out of all of them."""
    with running_daemon(place), running(fail2ban.start()) as server:
        fail2ban.report(*forgeries(), *failures(OTHER, 4), *failures(ATTACKER), *failures("2001:db8:1::5"))
        wait_until(lambda: len(place.banned()) == 2, 20, server.output)
        assert place.banned() == ["2001:db8:1::/64", ATTACKER]
        (ban,) = [each for each in place.ask("list")["bans"] if each["network"] == ATTACKER]
        assert (ban["jail"], ban["reason"], ban["automatic"]) == ("shop", "fail2ban", True)
        assert ban["end"] - ban["start"] == 3600
        wait_until(lambda: set(in_kernel()) == {"2001:db8:1::/64", ATTACKER}, 5, server.output)
        fail2ban.client("set", "shop", "unbanip", ATTACKER)
        fail2ban.client("set", "shop", "unbanip", "2001:db8:1::5")
        wait_until(lambda: not in_kernel() and not place.banned(), 5, server.output)
        assert "ERROR" not in server.output()


@pytest.mark.lab
def test_restarting_fail2ban_changes_no_ban(place: Place, fail2ban: Fail2ban) -> None:
    """A ban stays as it is when fail2ban stops and starts, and is lifted afterwards; one for ever is for ever."""
    with running_daemon(place):
        with running(fail2ban.start()) as server:
            fail2ban.report(*failures(ATTACKER))
            wait_until(lambda: place.banned() == [ATTACKER], 20, server.output)
        before = place.ask("list")["bans"]
        with running(fail2ban.start()) as server:
            server.wait_for("Restore Ban", 20)
            fail2ban.client("set", "shop", "bantime", "-1")
            fail2ban.report(*failures("2001:db8:1::5"))  # told after what is restored
            wait_until(lambda: "2001:db8:1::/64" in place.banned(), 20, server.output)
            ends = {ban["network"]: ban["end"] for ban in place.ask("list")["bans"]}
            assert ends == {ATTACKER: before[0]["end"], "2001:db8:1::/64": None}
            assert before[0] in place.ask("list")["bans"]
            fail2ban.client("set", "shop", "unbanip", ATTACKER)
            wait_until(lambda: place.banned() == ["2001:db8:1::/64"], 10, server.output)
            assert "ERROR" not in server.output()


@pytest.mark.lab
def test_a_ban_that_ends_makes_no_noise_and_touches_no_other(place: Place, fail2ban: Fail2ban) -> None:
    """When fail2ban's ban ends, its own is over without an error, and one an administrator made goes on."""
    fail2ban.configure("bantime = 4")
    with running_daemon(place), running(fail2ban.start()) as server:
        assert place.run("ban", OTHER, "--for", "1d").returncode == 0
        fail2ban.report(*failures(ATTACKER), *failures(OTHER))
        wait_until(lambda: ATTACKER in place.banned(), 20, server.output)
        for address in (ATTACKER, OTHER):
            server.wait_for(f"Unban {address}", 20)
        wait_until(lambda: place.banned() == [OTHER], 10, server.output)
        (ban,) = place.ask("list")["bans"]
        assert (ban["jail"], ban["end"] - ban["start"]) == ("manual", 86400)
        fail2ban.client("status", "shop")
        assert "ERROR" not in server.output()
