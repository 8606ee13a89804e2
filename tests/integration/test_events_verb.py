"""`appguard events` on a real daemon: who was banned, why, and what comes, over a restart of the daemon."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import Place, running_daemon, web_jail
from tests.lab import Process, running, wait_until

pytestmark = pytest.mark.lab

ATTACKER, OTHER = "203.0.113.5", "203.0.113.6"


@pytest.fixture
def place(open_tmp_path: Path) -> Place:
    """Give a daemon's place with a jail that bans probers."""
    made = Place(open_tmp_path)
    made.configure(web_jail(made))
    return made


def following(place: Place, *more: str) -> Process:
    """Start `events -f`."""
    command = [sys.executable, "-m", "appguard", "events", "-f", "--socket", str(place.control), *more]
    return Process("events", command)


def test_events_of_a_host(place: Place) -> None:
    """A jail's ban with its lines, a person's, fail2ban's and a lift are told; the last cursor is where it goes on."""
    with running_daemon(place) as daemon:
        assert place.run("events").stdout == ""
        place.append(ATTACKER, 3)
        daemon.wait_for(f"Ban {ATTACKER}")
        assert place.run("ban", OTHER, "--reason", "abuse ticket 17").returncode == 0
        assert place.run("ban", "203.0.113.7", "--automatic", "--jail", "sshd", "--reason", "fail2ban").returncode == 0
        assert place.run("unban", ATTACKER).returncode == 0
        lines = place.run("events").stdout.splitlines()
        events = [json.loads(line) for line in place.run("events", "--since", "0", "--json").stdout.splitlines()]
        assert [(each["what"], each["network"], each["by"]) for each in events] == [
            ("ban", ATTACKER, "jail"),
            ("ban", OTHER, "person"),
            ("ban", "203.0.113.7", "program"),
            ("lift", ATTACKER, "person"),
        ]
        assert len(events[0]["evidence"]) == 3
        assert all(each["host"] for each in events)
        assert events[0]["ref"] == events[3]["ref"]
        assert sum(ATTACKER in line and "  by jail probes on " in line for line in lines) == 1
        assert sum("wp-login.php" in line and line.endswith("  (3 times)") for line in lines) == 1
        assert sum("by fail2ban (jail sshd) on " in line for line in lines) == 1
        assert any("abuse ticket 17" in line for line in lines)
        last = str(events[-1]["cursor"])
        assert place.run("events", "--since", last).stdout == ""


def test_following_over_a_restart(place: Place) -> None:
    """`events -f` tells what comes as it comes, and goes on when the daemon is there again."""
    with running_daemon(place):
        assert place.run("ban", "192.0.2.200").returncode == 0
        watcher = following(place, "--json")
        with running(watcher):
            watcher.wait_for("192.0.2.200")
            place.append(ATTACKER, 3)
            watcher.wait_for(ATTACKER)
            restart(place, watcher)


def restart(place: Place, watcher: Process) -> None:
    """Stop the daemon, start another, and expect its events too."""
    assert place.run("status").returncode == 0
    pid = place.ask("status")["pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_until(lambda: place.run("status").returncode == 4, 10, "still there")
    with running_daemon(place):
        assert place.run("ban", OTHER).returncode == 0
        watcher.wait_for(OTHER)
        told = [json.loads(line.text) for line in watcher.lines()]
        assert [each["cursor"] for each in told] == list(range(1, len(told) + 1))
        assert [each["network"] for each in told].count(ATTACKER) == 1
