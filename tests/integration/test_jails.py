"""Jails of the real daemon, with real logs: what a ban leads to, what holds it back, and what survives a restart."""

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.daemon import LOGIN_JAIL, Place, in_kernel, running_daemon, web_jail
from tests.lab import Process, wait_until
from tests.netns import elements, has_table, run

pytestmark = pytest.mark.lab
RECIDIVE = '[jails.recidive]\nuse = "recidive"\nmaxretry = 2\n'
BASIC_401 = '{} - {} [{}] "GET /admin HTTP/1.1" 401 153 "-" "curl/7.88.1"\n'


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def wait_until_counted(place: Place, daemon: Process, lines: int, jail: str = "probes") -> None:
    """Wait until a jail has counted so many events."""
    wait_until(lambda: status(place, jail)["total_failed"] >= lines, 10, daemon.output)


def status(place: Place, jail: str) -> dict[str, Any]:
    """Give a jail's status."""
    found: dict[str, Any] = place.ask("status", jail)
    return found


def seconds_left(place: Place, network: str) -> float:
    """Give how long a ban in force still lasts."""
    (found,) = [ban for ban in place.ask("list")["bans"] if ban["network"] == network]
    return float(found["end"]) - time.time()


def kill(daemon: Process) -> None:
    """Kill a daemon with SIGKILL."""
    daemon.send(signal.SIGKILL)
    daemon.wait()
    daemon.stop()


def test_bans_grow_and_recidive_remembers_over_a_kill(place: Place) -> None:
    """Each ban that ended makes the next one longer, and the second, after a kill -9, is one for recidive too."""
    place.configure(web_jail(place, {"maxretry": 1, "bantime": "4s", "bantime_increment": True}) + RECIDIVE)
    daemon = place.start()
    place.append("203.0.113.5")
    daemon.wait_for("[probes] Ban 203.0.113.5")
    daemon.wait_for("[probes] Unban 203.0.113.5")
    kill(daemon)
    with running_daemon(place) as daemon:
        assert status(place, "recidive")["currently_failed"] == 1
        place.append("203.0.113.5")
        daemon.wait_for("[recidive] Ban 203.0.113.5")
        wait_until(lambda: in_kernel().get("203.0.113.5", 0) > 600_000, 5, daemon.output)
        assert status(place, "recidive")["banned"] == ["203.0.113.5"]
        assert place.run("unban", "203.0.113.5").returncode == 0
        assert (status(place, "probes")["total_banned"], status(place, "recidive")["total_banned"]) == (2, 1)
        place.append("203.0.113.5")
        wait_until(lambda: status(place, "probes")["total_banned"] == 3, 5, daemon.output)
        assert seconds_left(place, "203.0.113.5") <= 4  # as short as the first: lifted is forgotten


def test_increment_survives_a_kill(place: Place) -> None:
    """The daemon that is started again knows the ban before, and the next lasts as much longer as it should."""
    growing = {"maxretry": 1, "bantime": "2s", "bantime_increment": True, "bantime_multipliers": [1, 1800]}
    place.configure(web_jail(place, growing))
    daemon = place.start()
    place.append("203.0.113.5")
    daemon.wait_for("[probes] Unban 203.0.113.5")
    kill(daemon)
    with running_daemon(place) as daemon:
        place.append("203.0.113.5")
        wait_until(lambda: 3590 < in_kernel().get("203.0.113.5", 0) <= 3600, 5, daemon.output)


def test_network_is_banned_in_the_kernel(place: Place) -> None:
    """The third address of a /24, one before a kill -9, takes the /24 with it; the judge keeps other networks free."""
    place.configure(web_jail(place, {"maxretry": 1, "escalate": 3}), 'safelist = ["198.51.100.77"]')
    daemon = place.start()
    place.append("203.0.113.1")
    daemon.wait_for("[probes] Ban 203.0.113.1")
    kill(daemon)
    with running_daemon(place) as daemon:
        for address in ("203.0.113.2", "198.51.100.1", "198.51.100.2", "198.51.100.3"):
            place.append(address)
        daemon.wait_for("[probes] 198.51.100.0/24 is not banned")
        assert "203.0.113.0/24" not in place.banned()
        place.append("203.0.113.3")
        daemon.wait_for("[probes] Ban 203.0.113.0/24")
        wait_until(lambda: "203.0.113.0/24" in in_kernel(), 5, daemon.output)
    assert "198.51.100.0/24" not in in_kernel()


class Check(BaseHTTPRequestHandler):
    """Lets off 203.0.113.1, not 203.0.113.2, and says nothing sensible of others."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response({"/203.0.113.1": 200, "/203.0.113.2": 404}.get(self.path, 500))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_ignorecommand_is_asked_before_a_ban(place: Place) -> None:
    """Who is let off is not banned, who is not is, and a check that fails lets nobody off and is told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Check) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/{{address}}"
        place.configure(web_jail(place, {"maxretry": 1, "ignorecommand": url}))
        with running_daemon(place) as daemon:
            for number in (1, 2, 3):
                place.append(f"203.0.113.{number}")
            daemon.wait_for("[probes] Ignore 203.0.113.1 by ignorecommand")
            daemon.wait_for("ignorecommand does not say whether to ban 203.0.113.3, so it is: HTTPException")
            wait_until(lambda: {"203.0.113.2", "203.0.113.3"} <= in_kernel().keys(), 5, daemon.output)
            assert place.banned() == ["203.0.113.2", "203.0.113.3"]
        server.shutdown()
        thread.join()


def test_ignorecommand_that_hangs_delays_its_own_bans_only(place: Place) -> None:
    """While a check hangs another jail bans at once; a daemon told to stop bans whom it still asks about, and ends."""
    hanging = web_jail(place, {"maxretry": 1, "ignorecommand": "time:sleep_for_ever"})
    place.configure(hanging)
    failed = place.start(is_up=False)
    assert failed.wait() != 0
    failed.stop()
    assert "time:sleep_for_ever" in failed.output()
    other = web_jail(place, {"maxretry": 2}).replace("jails.probes", "jails.quick")
    place.configure(hanging.replace("time:sleep_for_ever", "tests.hanging:check") + other)
    with running_daemon(place) as daemon:
        place.append("203.0.113.1", 2)
        daemon.wait_for("[quick] Ban 203.0.113.1")
        assert "[probes] Ban" not in daemon.output()
        daemon.send(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "ignorecommand does not say" in daemon.output()
        assert "Traceback" not in daemon.output()
    with running_daemon(place) as daemon:
        place.append("203.0.113.2")
        daemon.wait_for("ignorecommand does not say whether to ban 203.0.113.2, so it is: no answer within 3 s")
        wait_until(lambda: "203.0.113.2" in in_kernel(), 5, daemon.output)


def test_dry_run_enforces_nothing(place: Place) -> None:
    """A jail in dry run logs and shows whom it would ban; another jail on the same file, counting for itself, bans."""
    dry = web_jail(place, {"maxretry": 2, "dry_run": True})
    wet = web_jail(place, {"maxretry": 3}).replace("jails.probes", "jails.wet")
    place.configure(dry + wet)
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 2)
        daemon.wait_for("[probes] Ban 203.0.113.5 (dry run)")
        assert (place.banned(), in_kernel()) == ([], {})
        assert status(place, "wet")["currently_failed"] == 1
        place.append("203.0.113.5")
        daemon.wait_for("[wet] Ban 203.0.113.5")
        shown = place.run("status", "probes").stdout
        assert "   |- Currently banned:\t1" in shown
        assert "   |- Banned IP list:\t203.0.113.5" in shown
        assert "   `- Enforced by:\tnothing (dry run)" in shown
        wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
        assert status(place, "wet")["banned"] == ["203.0.113.5"]


def test_bans_made_before_a_dry_run_are_lifted(place: Place) -> None:
    """What a jail banned before it was set to `dry_run` is lifted at the next start, and told; a person's ban stays."""
    place.configure(web_jail(place, {"maxretry": 1}))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5")
        place.append("2001:db8:1::5")
        daemon.wait_for("[probes] Ban 2001:db8:1::/64")
        assert place.run("ban", "203.0.113.6", "--jail", "probes").returncode == 0
        wait_until(lambda: len(in_kernel()) == 3, 5, daemon.output)
    place.configure(web_jail(place, {"maxretry": 1, "dry_run": True}))
    with running_daemon(place) as daemon:
        daemon.wait_for("[probes] Unban 203.0.113.5: its jail is in dry run now")
        wait_until(lambda: list(in_kernel()) == ["203.0.113.6"], 5, daemon.output)
        assert place.banned() == ["203.0.113.6"]
        told = [json.loads(line) for line in place.run("events", "--json").stdout.splitlines()]
        assert {event["network"]: event["by"] for event in told if event["what"] == "lift"} == {
            "203.0.113.5": "program",
            "2001:db8:1::/64": "program",
        }
        enforced_by = status(place, "probes")["enforced_by"]
        assert enforced_by.startswith("nothing of its own (dry run); bans by people and other hosts: nftables")
        place.append("203.0.113.5")
        daemon.wait_for("[probes] Ban 203.0.113.5 (dry run)")
    with running_daemon(place) as daemon:
        assert place.banned() == ["203.0.113.6"]
        assert "Unban" not in daemon.output()


def test_different_users_are_counted_over_a_kill(place: Place) -> None:
    """Two users before a kill -9 and one after it are three different users; the same one again is none."""
    settings = {"events": ["authn_login_fail"], "maxretry": 3, "distinct": "user", "bantime": "1h"}
    by_user = {"events": ["authn_login_fail"], "maxretry": 4, "key": "user"}
    guessed = web_jail(place, by_user).replace("jails.probes", "jails.guessed")
    place.configure(web_jail(place, settings) + guessed)
    daemon = place.start()
    for user in ("ann", "ann", "ann", "bob"):
        fail_basic(place, "203.0.113.5", user)
    wait_until_counted(place, daemon, 4)
    kill(daemon)
    with running_daemon(place) as daemon:
        fail_basic(place, "203.0.113.5", "BOB")
        wait_until_counted(place, daemon, 5)
        assert place.banned() == []
        fail_basic(place, "203.0.113.6", "ann")
        daemon.wait_for("[guessed] Ban 203.0.113.6")
        assert place.banned() == ["203.0.113.5", "203.0.113.6"]
        fail_basic(place, "203.0.113.5", "carol")
        daemon.wait_for("[probes] Ban 203.0.113.5")


def fail_basic(place: Place, address: str, user: str) -> None:
    """Write the line of a login that failed, as nginx does."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    with place.access_log.open("a") as log:
        log.write(BASIC_401.format(address, user, stamp))


def test_too_many_bans_are_an_alarm_people_see(place: Place) -> None:
    """Above the cap everybody is still banned, shortly, and `status` says that something is wrong."""
    place.configure(web_jail(place, {"maxretry": 1, "bantime": -1, "bans_per_minute": 5}) + LOGIN_JAIL)
    with running_daemon(place) as daemon:
        for number in range(1, 11):
            place.append(f"203.0.113.{number}")
        wait_until(lambda: len(place.banned()) == 10, 10, daemon.output)
        ends = [ban["end"] for ban in place.ask("list")["bans"]]
        assert ends.count(None) == 5
        assert all(end - time.time() <= 600 for end in ends if end is not None)
        assert "Alarm:\tjail probes: more than 5 bans a minute" in place.run("status").stdout
        assert "Alarm:\tmore than 5 bans a minute" in place.run("status", "probes").stdout
        assert [line.text for line in daemon.lines() if "ERROR" in line.text and "bans_per_minute" in line.text][
            1:
        ] == []
        summaries = {jail["name"]: jail["alarm"] for jail in place.ask("status")["jails"]}
        assert summaries["login"] == ""


def test_dos_jail_counts_every_request_and_logs_none_of_them(place: Place) -> None:
    """Four good requests in a second ban, beside a jail that counts only bad ones; no request is a line of the log."""
    place.configure(f'[jails.dos]\nuse = "dos"\nsource = "{place.access_log}"\n' + web_jail(place))
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    with running_daemon(place) as daemon:
        with place.access_log.open("a") as log:
            log.write(f'203.0.113.6 - - [{stamp}] "GET /a.png HTTP/1.1" 200 1 "-" "-"\n' * 9)
        for _ in range(5):
            stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
            with place.access_log.open("a") as log:
                log.write(f'203.0.113.5 - - [{stamp}] "GET / HTTP/1.1" 200 1 "-" "-"\n' * 4)
        daemon.wait_for("[dos] Ban 203.0.113.5")
        assert place.banned() == ["203.0.113.5"]
        assert status(place, "probes")["total_failed"] == 0
    assert "Found" not in daemon.output()


def test_position_of_a_log_that_vanished_is_dropped(place: Place) -> None:
    """A month after its log is gone a position is gone from the state; one of a log that is quiet stays."""
    quiet = place.logs / "quiet.log"
    place.configure(web_jail(place).replace(json.dumps(str(place.access_log)), json.dumps(str(place.logs / "*.log"))))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5")
        quiet.write_text(place.access_log.read_text())
        wait_until_counted(place, daemon, 2)
    place.access_log.unlink()
    with closing(sqlite3.connect(place.state / "state.db", isolation_level=None)) as connection:
        connection.execute("UPDATE position SET saved = saved - 32 * 86400")
    with running_daemon(place):
        assert status(place, "probes")["total_failed"] == 2
    with closing(sqlite3.connect(place.state / "state.db")) as connection:
        assert connection.execute("SELECT origin FROM position WHERE origin != ''").fetchall() == [(str(quiet),)]


def test_a_jail_of_ports_shuts_out_of_these_alone(place: Place) -> None:
    """Its bans are in the kernel's set of these ports, over a kill too; who asks is told, and apps are told nothing."""
    place.configure(web_jail(place, {"maxretry": 1, "ports": ["ssh"], "protocol": "tcp"}))
    daemon = place.start()
    place.append("203.0.113.5")
    daemon.wait_for("[probes] Ban 203.0.113.5 tcp/22")
    wait_until(lambda: "203.0.113.5" in of_ports(), 5, daemon.output)
    assert not in_kernel()
    (ban,) = place.ask("list")["bans"]
    assert (ban["network"], ban["ports"], ban["enforced_by"]) == ("203.0.113.5", "tcp/22", ["kernel"])
    assert (status(place, "probes")["banned"], status(place, "probes")["ports"]) == (["203.0.113.5"], "tcp/22")
    assert status(place, "probes")["dropped"] == {"packets": 0, "bytes": 0}
    explained = place.run("explain", "203.0.113.5").stdout
    assert "203.0.113.5 is banned from tcp 22 alone by jail probes" in explained
    assert b"203.0.113.5" not in (place.runtime / "bans").read_bytes()
    assert place.run("ban", "203.0.113.5").returncode == 0
    wait_until(lambda: "203.0.113.5" in in_kernel(), 5, daemon.output)
    kill(daemon)
    with running_daemon(place) as daemon:
        assert {ban["ports"] for ban in place.ask("list")["bans"]} == {"", "tcp/22"}
        wait_until(lambda: "203.0.113.5" in of_ports() and "203.0.113.5" in in_kernel(), 5, daemon.output)
        assert place.run("unban", "203.0.113.5").returncode == 0
        wait_until(lambda: not of_ports() and not in_kernel(), 5, daemon.output)
        assert not place.ask("list")["bans"]


def of_ports() -> dict[str, int]:
    """Give what the kernel holds of the first list of ports."""
    is_there = has_table() and "map ban4_p1 " in run("nft", "list", "table", "inet", "appguard")
    return elements("ban4_p1") if is_there else {}
