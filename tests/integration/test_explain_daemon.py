"""`appguard explain` with a real daemon: its own counters, its own reasons, and nothing counted by being asked."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control import ask
from tests.daemon import NGINX_404, Place, running_daemon, web_jail
from tests.lab import User, wait_until
from tests.netns import has_table, run

pytestmark = pytest.mark.lab
STRANGER = User(65534)


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def line_of(address: str, ago: float = 0.0) -> str:
    """Write a prober's line."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(time.time() - ago))
    return NGINX_404.format(address, stamp).rstrip()


def only(explanation: Any) -> Any:
    """Give the one jail of an explanation."""
    (jail,) = explanation["jails"]
    return jail


def wait_until_failed(place: Place, lines: int) -> None:
    """Wait until the jail has counted so many lines."""
    wait_until(lambda: place.ask("status", "probes")["total_failed"] == lines, 10, "the lines are not counted")


def test_counters_are_the_daemons_and_explaining_counts_nothing(place: Place) -> None:
    """A line and its address say 2 of 3 however often they are explained; the third real line bans."""
    place.configure(web_jail(place))
    with running_daemon(place) as daemon:
        place.append("203.0.113.5", 2)
        wait_until_failed(place, 2)
        explained = place.ask("explain", line_of("203.0.113.5"))
        for _ in range(5):
            explained = place.ask("explain", line_of("203.0.113.5"))
            assert (only(explained)["counted"], only(explained)["maxretry"]) == (2, 3)
        assert (only(place.ask("explain", "203.0.113.5"))["counted"], explained["live"]) == (2, True)
        told = "jail probes has counted 2 in 600 s under 203.0.113.5 and bans at 3; 1 more would do"
        assert explained["conclusion"] == f"Not banned: {told}."
        assert only(place.ask("explain", place.access_log.read_text().splitlines()[0]))["is_evidence"] is True
        assert only(place.ask("explain", line_of("203.0.113.6")))["counted"] == 0
        assert place.ask("status", "probes")["total_failed"] == 2
        assert place.ask("status", "probes")["currently_failed"] == 1
        assert place.banned() == []
        place.append("203.0.113.5")
        daemon.wait_for("[probes] Ban 203.0.113.5")
        wait_until(lambda: "shut out by kernel and app" in place.ask("explain", "203.0.113.5")["conclusion"], 5, "")
        ref = place.ask("list")["bans"][0]["ref"]
        text = place.run("explain", line_of("203.0.113.5")).stdout
        assert text.splitlines()[-1] == (
            f"203.0.113.5 is banned by jail probes (ref {ref}), and shut out by kernel and app."
        )
        assert f"ref {ref}, blocked by kernel, app" in text


def test_each_reason_is_told(place: Place) -> None:
    """Old, safelisted, refused, uninteresting, unreadable, in a file nobody reads, not enforced: each is said."""
    place.configure(web_jail(place), 'safelist = ["198.51.100.0/24"]\n')
    with running_daemon(place):
        good = line_of("203.0.113.5").replace(" 404 ", " 200 ")
        reasons = {
            line_of("203.0.113.5", ago=3 * 86400): "it is 3 days old, and older than 10 minutes does not count",
            line_of("198.51.100.7"): "198.51.100.7 is on the safelist or a trusted proxy",
            line_of("127.0.0.1"): "the judge would refuse the ban: 127.0.0.1 lies in 127.0.0.0/8",
            good: "it is guard_request (answered 200), and the jail counts guard_probe",
            "garbage \\x1b[31m \udcff": "the filter nginx finds no event in it",
        }
        for line, why in reasons.items():
            assert why in place.ask("explain", line)["conclusion"], line
        asked = place.ask("explain", line_of("203.0.113.5"), "--file", "/var/log/other.log")
        assert asked["conclusion"].endswith("it does not read /var/log/other.log.")
        rotated = f"{place.access_log}.2.gz"
        assert only(place.ask("explain", line_of("203.0.113.5"), "--file", rotated))["why_not"] == ""
        assert place.run("ban", "203.0.113.9").returncode == 0
        assert place.run("enforce", "off").returncode == 0
        assert "but enforcement is off" in place.ask("explain", "203.0.113.9")["conclusion"]


def test_every_line_of_a_file_is_explained_by_its_jails(place: Place) -> None:
    """`--file` explains each line; what cannot be meant is refused with what to do instead."""
    place.configure(web_jail(place))
    with running_daemon(place):
        place.append("203.0.113.5", 2)
        wait_until_failed(place, 2)
        explained = place.ask("explain", "--file", str(place.access_log))["explanations"]
        assert [only(each)["counted"] for each in explained] == [2, 2]
        place.access_log.write_text(f"{line_of('203.0.113.6')}\n" * 101)
        many = place.run("explain", "--file", str(place.access_log))
    assert (many.returncode, many.stdout) == (2, "")
    assert f"appguard replay {place.access_log}" in many.stderr


def test_without_a_daemon_the_settings_explain(place: Place) -> None:
    """`--config` says which jail would count a line, that nothing is known of counters, and refuses bad settings."""
    place.configure(web_jail(place, {"ignorecommand": "no.such.module:function"}))
    explained = place.ask("explain", line_of("203.0.113.5"), "--config", str(place.config))
    told = "it counts in jail probes, which bans at 3 in 600 s"
    assert (explained["live"], explained["conclusion"]) == (False, f"Not banned: {told}.")
    text = place.run("explain", "203.0.113.5", "--config", str(place.config)).stdout
    assert text.splitlines()[-1] == "Not banned: no daemon runs that would have counted anything."
    place.config.write_text("nonsense = 1\n")
    assert place.run("explain", "203.0.113.5", "--config", str(place.config)).returncode == 2
    unreached = place.run("explain", "203.0.113.5")
    assert (unreached.returncode, "no daemon listens" in unreached.stderr) == (4, True)


def test_who_may_look_may_ask_and_nobody_else(place: Place) -> None:
    """A member of the daemon's group may explain, but not ban; a stranger reaches nothing; nonsense is refused."""
    place.configure(web_jail(place))
    member = User(65533, groups=(4711,))
    body = json.dumps({"what": line_of("203.0.113.5")})
    with running_daemon(place):
        place.control.parent.chmod(0o755)
        status, told = ask(place.control, "POST", "/v1/explain", body, member)
        assert (status, str(told["conclusion"])[:12]) == (200, "Not banned: ")
        assert ask(place.control, "POST", "/v1/bans", '{"address": "203.0.113.5"}', member)[0] == 403
        assert ask(place.control, "POST", "/v1/explain", body, STRANGER)[0] == 0
        for wrong in ("", "[]", '{"what": 5}', '{"line": "x"}', '{"what": "x", "origin": null}'):
            assert ask(place.control, "POST", "/v1/explain", wrong or " ", member)[0] == 400
        assert ask(place.control, "POST", "/v1/explain", json.dumps({"what": "x" * 70_000}), member)[0] == 413
