"""The whole daemon, unprivileged but for CAP_NET_ADMIN, with real logs, sockets and nftables."""

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.daemon import Place, in_kernel, login_failure, running_daemon, web_jail
from tests.lab import Process, wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def wait_until_counted(place: Place, daemon: Process, lines: int) -> int:
    """Wait until the jail has counted at least so many lines; give how many."""

    def counted() -> int:
        total = int(place.ask("status", "probes")["total_failed"])
        return total if total >= lines else 0

    return wait_until(counted, 10, daemon.output)


def test_lines_of_a_log_become_a_kernel_ban(place: Place) -> None:
    """The third line of a prober bans it in the ban set and in nftables; another address stays free."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 2)
        place.append("203.0.113.6", 2)
        place.append("203.0.113.5")
        daemon.wait_for("[probes] Ban 203.0.113.5")
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, "the ban is not in the kernel")
        assert place.banned() == ["203.0.113.5"]
        status = place.ask("status", "probes")
    assert (status["total_failed"], status["currently_failed"]) == (5, 1)
    assert [line.text.rpartition("INFO")[2].strip() for line in daemon.lines() if "Found" in line.text].count(
        "[probes] Found 203.0.113.5"
    ) == 3


def test_sigterm_leaves_the_bans_in_the_kernel(place: Place) -> None:
    """A daemon that is told to stop ends with status 0, without a complaint, and its bans stay until they end."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 3)
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        daemon.send(signal.SIGTERM)
        assert daemon.wait() == 0
    assert 500 < in_kernel()["203.0.113.5"] <= 600
    assert "Traceback" not in daemon.output()
    assert "Unknown child" not in daemon.output()


def test_killed_daemon_forgets_nothing_and_counts_nothing_twice(place: Place) -> None:
    """After kill -9 in the middle of a log, at ten points, every line has been counted exactly once."""
    place.configure(web_jail(place, {"maxretry": 10_000}))
    written = 0
    for _ in range(10):
        daemon = place.start()
        place.append("203.0.113.5", 40)
        wait_until_counted(place, daemon, written + 1)
        daemon.send(signal.SIGKILL)
        daemon.wait()
        daemon.stop()
        place.append("203.0.113.5", 3)  # while nobody reads
        written += 43
    with running_daemon(place) as daemon:
        assert wait_until_counted(place, daemon, written) == written
        assert place.ask("status", "probes")["currently_failed"] == 1


def test_a_jail_that_reads_one_more_file_counts_nothing_twice(place: Place) -> None:
    """A log that a jail has read is read on when its sources are chosen anew, and again when they are changed back."""
    more = str(place.access_log) + '", "' + str(place.logs / "second.log")
    jail = web_jail(place, {"maxretry": 100})
    for count, chosen in enumerate((jail, jail.replace(str(place.access_log), more), jail), 1):
        chosen = chosen.replace('source = "', 'source = ["', 1).replace('log"\n', 'log"]\n', 1)
        place.configure(chosen)
        with running_daemon(place):
            place.append("203.0.113.5")
            wait_until(partial(has_failed, place, count), 10, lambda: str(place.ask("status")))
            assert total_failed(place) == count


def has_failed(place: Place, count: int) -> bool:
    """Say whether the only jail has counted so many failures."""
    return total_failed(place) >= count


def total_failed(place: Place) -> int:
    """Give how many failures the only jail has counted."""
    return int(place.ask("status")["jails"][0]["total_failed"])


def test_bans_survive_a_kill(place: Place) -> None:
    """With the daemon dead, bans stay in the kernel and end there by themselves; a restarted one knows the rest."""
    place.configure(web_jail(place, {"bantime": "6s"}))
    daemon = place.start()
    place.append("203.0.113.5", 3)
    wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
    assert place.run("ban", "198.51.100.7", "--for", "1h").returncode == 0
    daemon.send(signal.SIGKILL)
    daemon.wait()
    daemon.stop()
    assert {"203.0.113.5", "198.51.100.7"} <= in_kernel().keys()
    wait_until(lambda: "203.0.113.5" not in in_kernel(), 8, "the ban did not end by itself")
    with running_daemon(place):
        assert place.banned() == ["198.51.100.7"]
        wait_until(lambda: 3000 < in_kernel().get("198.51.100.7", 0) <= 3600, 5, "the ban is not in the kernel")


def test_enforcement_stays_off_over_a_restart(place: Place) -> None:
    """`enforce off` lifts everything from the kernel, holds after a restart, and `enforce on` brings all back."""
    place.configure(web_jail(place))
    with running_daemon(place):
        assert place.run("ban", "198.51.100.7").returncode == 0
        wait_until(lambda: "198.51.100.7" in in_kernel(), 5, "the ban is not in the kernel")
        assert place.run("enforce", "off").returncode == 0
        assert not has_table()
    with running_daemon(place):
        assert place.ask("status")["enforcing"] is False
        assert place.banned() == ["198.51.100.7"]
        assert not has_table()
        assert place.run("enforce", "on").returncode == 0
        assert "198.51.100.7" in in_kernel()


def test_enforcement_is_switched_off_while_the_daemon_hangs(place: Place) -> None:
    """`enforce off` empties the kernel under a daemon that hangs; it restores nothing when it wakes, nor the next."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        assert place.run("ban", "198.51.100.7").returncode == 0
        assert "198.51.100.7" in in_kernel()
        daemon.send(signal.SIGSTOP)
        done = place.run("enforce", "off")
        assert done.returncode == 0, done.stderr
        assert "taken out of the kernel directly" in done.stdout
        assert not has_table()
        place.append("203.0.113.5", 3)
        daemon.send(signal.SIGCONT)
        daemon.wait_for("enforcement was switched off while the daemon did not answer")
        wait_until(lambda: place.banned() == ["198.51.100.7", "203.0.113.5"], 5, daemon.output)
        assert place.ask("status")["enforcing"] is False
        assert not has_table()
    with running_daemon(place):
        assert place.ask("status")["enforcing"] is False
        assert not has_table()
        assert place.run("enforce", "on").returncode == 0
        assert in_kernel().keys() == {"198.51.100.7", "203.0.113.5"}
        assert place.ask("status")["enforcing"] is True


def test_enforcement_is_switched_off_after_the_daemon_died(place: Place) -> None:
    """`enforce off` with no daemon at all empties the kernel, and holds when one is started."""
    place.configure(web_jail(place))
    daemon = place.start()
    assert place.run("ban", "198.51.100.7").returncode == 0
    daemon.send(signal.SIGKILL)
    daemon.wait()
    daemon.stop()
    assert "198.51.100.7" in in_kernel()
    assert place.run("enforce", "off").returncode == 0
    assert not has_table()
    with running_daemon(place):
        assert place.ask("status")["enforcing"] is False
        assert not has_table()


def test_a_ban_by_force_ends_unless_confirmed(place: Place) -> None:
    """What needs force is in the kernel for a minute only, whatever was asked, until somebody confirms it."""
    place.configure(web_jail(place))
    with running_daemon(place):
        assert place.run("ban", "10.0.0.0/12", "--for", "1h").returncode == 3
        forced = place.run("ban", "10.0.0.0/12", "--for", "1h", "--force")
        assert "unless you confirm that you are still here: appguard confirm 10.0.0.0/12" in forced.stdout
        assert 50 < in_kernel()["10.0.0.0/12"] <= 60
        assert place.run("ban", "203.0.113.5", "--for", "1h", "--force").returncode == 0  # needs none
        assert in_kernel()["203.0.113.5"] > 3000
        confirmed = place.run("confirm", "10.0.0.0/12")
        assert confirmed.returncode == 0, confirmed.stderr
        assert "Banned 10.0.0.0/12 for 1h" in confirmed.stdout
        assert 3000 < in_kernel()["10.0.0.0/12"] <= 3600
        assert place.run("confirm", "10.0.0.0/12").returncode == 1
        assert place.run("ban", "172.0.0.0/12", "--for", "20s", "--force").returncode == 0
        assert in_kernel()["172.0.0.0/12"] <= 20
        assert place.run("unban", "172.0.0.0/12").returncode == 0
        assert place.run("confirm", "172.0.0.0/12").returncode == 1


def test_lifted_ban_begins_anew(place: Place) -> None:
    """A lifted address is free at once, in ban set and kernel, and is banned again only after maxretry new failures."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 3)
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        assert place.run("unban", "203.0.113.5").returncode == 0
        wait_until(lambda: "203.0.113.5" not in in_kernel(), 5, daemon.output)
        place.append("203.0.113.5", 2)
        wait_until(lambda: place.ask("status", "probes")["currently_failed"] == 1, 5, daemon.output)
        assert place.banned() == []
        place.append("203.0.113.5")
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        assert place.ask("status", "probes")["total_banned"] == 2


def test_odd_lines_change_nothing(place: Place) -> None:
    """Garbage, bytes that are no UTF-8, a 1 MB line and a forged event as user name do not fool the daemon."""
    place.configure(web_jail(place, {"maxretry": 1, "events": ["guard_probe", "authn_login_fail"]}))
    forged = login_failure("198.51.100.66").to_line()
    user = forged.replace('"', "\\x22")  # as nginx escapes it
    with running_daemon(place) as daemon:
        with place.access_log.open("ab") as log:
            log.write(b"\0\1\2 garbage\n\xff\xfe\xfd\n" + b"x" * 1_000_000 + b"\n" + forged.encode() + b"\n")
            log.write(f'203.0.113.8 - {user} [bad] "GET / HTTP/1.1" 404 1 "-" "-"\n'.encode())
        place.append("203.0.113.5")
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        assert place.banned() == ["203.0.113.5"]
