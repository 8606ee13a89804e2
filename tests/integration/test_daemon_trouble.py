"""The whole daemon where something is wrong: it says what, goes on with the rest, and never says what is not so."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appguard.address import parse_address
from appguard.stores.local import LocalStore
from tests.daemon import DAEMON, Place, in_kernel, running_daemon, web_jail
from tests.lab import User, wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def test_without_the_capability_it_says_so(open_tmp_path: Path) -> None:
    """A daemon without CAP_NET_ADMIN counts and publishes bans, and says everywhere that nothing enforces them."""
    place = Place(open_tmp_path, User(DAEMON.uid))
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        daemon.wait_for("CAP_NET_ADMIN")
        made = place.run("ban", "198.51.100.7")
        assert made.returncode == 0
        assert "Banned 198.51.100.7" in made.stdout
        assert "Not enforced: changing the firewall needs CAP_NET_ADMIN" in made.stdout
        assert "NOT enforcing" in place.run("status").stdout
        assert b"198.51.100.7" in (place.runtime / "bans").read_bytes()
        place.append("203.0.113.5", 3)
        daemon.wait_for("[probes] Ban 203.0.113.5")
        with LocalStore(place.runtime) as app:  # whose middleware still refuses them
            assert wait_until(lambda: app.get(parse_address("203.0.113.5")), 5, "the app does not know of the ban")
            assert app.get(parse_address("198.51.100.7"))
            assert not app.get(parse_address("203.0.113.6"))
    assert not has_table()


def test_a_ban_made_while_enforcement_is_off_says_so(place: Place) -> None:
    """`appguard ban` does not pretend while `enforce off` holds."""
    place.configure(web_jail(place))
    with running_daemon(place):
        assert place.run("enforce", "off").returncode == 0
        assert "Not enforced: enforcement is off" in place.run("ban", "198.51.100.7").stdout
        assert place.run("enforce", "on").returncode == 0
        assert "Not enforced" not in place.run("ban", "198.51.100.8").stdout
        assert {"198.51.100.7", "198.51.100.8"} <= in_kernel().keys()


def test_published_bans_that_cannot_be_written_stop_nothing(place: Place) -> None:
    """Where the published files cannot be written the daemon says so, bans in the kernel, and publishes when it can."""
    place.configure(web_jail(place))
    (place.runtime / "bans.seq").mkdir()
    with running_daemon(place) as daemon:
        daemon.wait_for("published bans cannot be written")
        place.append("203.0.113.5", 3)
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        (place.runtime / "bans.seq").rmdir()
        daemon.wait_for("published bans is written again")
        assert b"203.0.113.5" in (place.runtime / "bans").read_bytes()


def test_a_log_named_twice_is_read_once(place: Place) -> None:
    """A jail whose sources name one log twice, by path and by glob, counts each line once."""
    settings = web_jail(place).replace(
        f'source = "{place.access_log}"', f'source = ["{place.access_log}", "{place.logs}/*.log", "{place.access_log}"]'
    )
    place.configure(settings)
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 2)
        wait_until(lambda: place.ask("status", "probes")["total_failed"] >= 2, 5, daemon.output)
        place.append("203.0.113.6", 3)
        daemon.wait_for("[probes] Ban 203.0.113.6")
        assert place.ask("status", "probes")["total_failed"] == 5
        assert place.banned() == ["203.0.113.6"]


def test_nobody_reading_its_log_stops_nothing(place: Place) -> None:
    """With its standard error a pipe that nobody reads, the daemon goes on banning."""
    place.configure(web_jail(place, {"maxretry": 3000}))
    command = [*(place.user.prefix() if place.user else ()), *place.command()]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as daemon:
        try:
            wait_until(place.control.exists, 10, "no daemon")
            place.append("203.0.113.5", 3001)  # far more log lines than a pipe holds
            wait_until(lambda: "203.0.113.5" in in_kernel(), 10, "no ban")
            assert place.ask("status", "probes")["total_banned"] == 1
        finally:
            daemon.terminate()
            assert daemon.wait(10) == 0


def test_all_descriptors_are_used(place: Place) -> None:
    """The daemon raises its limit of open files as far as it may."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    _, _, _, soft, hard, _ = next(line.split() for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
