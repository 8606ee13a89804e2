"""The control API and the command, end to end: a real server on a real socket, the real command and curl."""

import json
from pathlib import Path
from typing import cast

import pytest

from appguard.ban import Ban
from tests.control import GATEWAY, NOW, DictionaryDaemon, ask, run
from tests.lab import wait_until


def test_status_is_fail2bans_tree(path: Path) -> None:
    """`appguard status` begins with fail2ban's lines, tabs included, and goes on with store, firewall and sources."""
    done = run(path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Status",
        "|- Number of jail:\t2",
        "`- Jail list:\tlogin, nginx-auth",
        "Daemon:\t0.1.0, pid 4242",
        "Store:\tlocal:///run/appguard",
        "Firewall:\tnftables, enforcing, 0 bans, 14 packets dropped",
        "Reach:\t2 bans by nginx and app only: the packets come from 198.51.100.7, not from the client",
        "Source:\tapp (/run/appguard/events.sock), up to date",
        "Source:\tnginx (nothing yet), 2048 bytes behind, complaint: /var/log/nginx/access.log: Permission denied",
        f"Refused:\t{GATEWAY} (jail login): it is the gateway",
    ]


def test_status_of_a_jail_is_fail2bans_tree(path: Path) -> None:
    """`appguard status login` gives fail2ban's lines, tabs included, and who enforces."""
    done = run(path, "status", "login")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Status for the jail: login\n"
        "|- Filter\n"
        "|  |- Currently failed:\t1\n"
        "|  |- Total failed:\t9\n"
        "|  `- File list:\t/run/appguard/events.sock\n"
        "`- Actions\n"
        "   |- Currently banned:\t1\n"
        "   |- Total banned:\t2\n"
        "   |- Banned IP list:\t203.0.113.5\n"
        "   `- Enforced by:\tnftables, 14 packets dropped; "
        "1 ban by nginx and app only: the packets come from 198.51.100.7, not from the client\n"
    )


@pytest.mark.parametrize("name", ["logni", "../status", "a b/\x1b[2J"])
def test_an_unknown_jail_is_named_with_those_there_are(path: Path, name: str) -> None:
    """A mistyped jail exits 1, names the jails there are, and sends nothing to the terminal that it would act on."""
    done = run(path, "status", name)
    assert done.returncode == 1
    assert "no such jail" in done.stderr
    assert "login, nginx-auth" in done.stderr
    assert "\x1b" not in done.stderr


def test_ban_list_unban(path: Path, daemon: DictionaryDaemon) -> None:
    """A ban given on the command line arrives whole, is listed, and is lifted by its address."""
    banned = run(path, "ban", "2001:db8:5::1/64", "--for", "1h", "--jail", "abuse", "--reason", "ticket 17")
    kept = daemon.kept["2001:db8:5::/64"]
    assert banned.stdout == f"Banned 2001:db8:5::/64 for 1h (jail abuse, ref {kept.ref})\n"
    assert (kept.jail, kept.reason, kept.automatic) == ("abuse", "ticket 17", False)
    assert kept.end == pytest.approx(kept.start + 3600)
    header, line = run(path, "list").stdout.splitlines()
    assert header.split() == ["ADDRESS", "PORTS", "JAIL", "ENDS", "IN", "FAILURES", "BLOCKED", "BY", "REASON", "REF"]
    assert line.split()[:3] == ["2001:db8:5::/64", "all", "abuse"]
    assert line.endswith(f"ticket 17  {kept.ref}")
    assert run(path, "unban", "2001:db8:5::/64").stdout == "Lifted the ban of 2001:db8:5::/64 (jail abuse)\n"
    assert daemon.kept == {}
    assert run(path, "list").stdout == "No bans in force.\n"
    assert run(path, "list", "--jail", "abuse").stdout == "No bans of 'abuse' in force.\n"


def test_everything_speaks_json(path: Path, daemon: DictionaryDaemon) -> None:
    """With `--json` every verb prints one JSON object with the documented keys."""

    def reply(*arguments: str) -> dict[str, object]:
        done = run(path, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return cast("dict[str, object]", json.loads(done.stdout))

    record = reply("ban", "203.0.113.5", "--for", "-1", "--reason", "caf\u00e9 \u202e")
    kept = daemon.kept["203.0.113.5"]
    assert record == {
        "network": "203.0.113.5",
        "jail": "manual",
        "start": kept.start,
        "end": None,
        "reason": "caf\u00e9 \u202e",
        "failures": 0,
        "evidence": [],
        "via": [],
        "ref": kept.ref,
        "automatic": False,
        "enforced_by": ["kernel", "app"],
        "not_enforced": "",
        "unconfirmed": False,
        "ports": "",
        "host": "",
    }
    assert reply("list") == {"bans": [record]}
    assert reply("list", "--jail", "login") == {"bans": []}
    assert reply("status")["bans"] == 1
    assert reply("status", "login")["banned"] == ["203.0.113.5"]
    assert reply("enforce", "off") == {"on": False}
    assert reply("unban", "--ref", kept.ref.lower()) == record | {"enforced_by": []}
    assert daemon.kept == {}


def test_enforce_off_and_on(path: Path, daemon: DictionaryDaemon) -> None:
    """Enforcement is switched by a verb, and status says loudly that it is off."""
    assert run(path, "enforce", "off").stdout == "Bans are kept but not enforced\n"
    assert not daemon.enforcing
    assert "NOT enforcing (appguard enforce on)" in run(path, "status").stdout
    assert run(path, "enforce", "on").stdout == "Bans are enforced\n"
    assert daemon.enforcing


def test_refusals_have_their_exit_codes(path: Path, daemon: DictionaryDaemon) -> None:
    """Refused for safety is 3 unless forced, nothing to lift is 1, the daemon's own trouble is 1 in its own words."""
    refused = run(path, "ban", GATEWAY)
    assert (refused.returncode, refused.stderr) == (3, f"Error: {GATEWAY} is the gateway\n")
    assert run(path, "ban", GATEWAY, "--force").returncode == 0
    assert list(daemon.kept) == [GATEWAY]
    nothing = run(path, "unban", "198.51.100.1")
    assert (nothing.returncode, nothing.stderr) == (1, "Error: no such ban: '198.51.100.1'\n")
    assert run(path, "unban", "AAAAAAAA").returncode == 1
    daemon.kept = {f"198.51.100.{host}": Ban.of(f"198.51.100.{host}") for host in range(9)}
    broken = run(path, "enforce", "on")
    assert (broken.returncode, broken.stderr) == (1, "Error: nft: Operation not permitted\n")


def test_text_from_outside_cannot_drive_the_terminal(path: Path, daemon: DictionaryDaemon) -> None:
    """Escape sequences and line ends in a reason are printed escaped, and no terminal encoding makes it fail."""
    daemon.kept["203.0.113.5"] = Ban.of("203.0.113.5", start=NOW, bantime=-1, reason="\x1b[2J\r\nok\u202e caf\u00e9")
    assert "\\x1b[2J\\r\\nok\\u202e caf\u00e9" in run(path, "list", PYTHONIOENCODING="utf-8").stdout
    in_ascii = run(path, "list", PYTHONIOENCODING="ascii")
    assert (in_ascii.returncode, in_ascii.stderr) == (0, "")
    assert "\\x1b[2J\\r\\nok\\u202e caf\\xe9" in in_ascii.stdout


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "words"),
    [
        ("POST", "/v1/bans", '{"adress": "203.0.113.5"}', 400, "unknown field `adress`"),
        ("POST", "/v1/bans", '{"jail": "login"}', 400, "missing required field `address`"),
        ("POST", "/v1/bans", '{"address": 17}', 400, "$.address"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "force": "yes"}', 400, "$.force"),
        ("POST", "/v1/bans", '{"address": "203.0.113"}', 400, "'203.0.113' is not an IP address"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": "soon"}', 400, "bantime = 'soon'"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": 0}', 400, "bantime = 0"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": true}', 400, "$.bantime"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "bantime": "%s"}' % ("9" * 400), 400, "expected a duration"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "jail": "a b"}', 400, "jail = 'a b'"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5"', 400, "truncated"),
        ("POST", "/v1/bans", '["203.0.113.5"]', 400, "Expected `object`"),
        ("POST", "/v1/bans", '{"address": "\udcff"}', 400, "utf-8"),
        ("POST", "/v1/bans", "[" * 60_000, 400, ""),
        ("POST", "/v1/bans", " " * 65_537, 413, "longer than 65536 bytes"),
        ("POST", "/v1/bans", '{"address": "203.0.113.5", "jail": "faulty"}', 500, "unexpected error"),
        ("DELETE", "/v1/bans/not-a-ban", "", 400, "'not-a-ban' is not an IP address"),
        ("DELETE", "/v1/bans/", "", 400, "'' is not an IP address"),
        ("PUT", "/v1/enforce", '{"on": 1}', 400, "$.on"),
        ("PUT", "/v1/enforce", "{}", 400, "`on`"),
        ("GET", "/v1/jails/nonsense", "", 404, "no such jail: 'nonsense'"),
        ("GET", "/v2/status", "", 404, "Not Found"),
        ("DELETE", "/v1/status", "", 405, "Method Not Allowed"),
    ],
)
def test_bad_input_is_a_json_error_with_its_status(
    path: Path, daemon: DictionaryDaemon, method: str, target: str, body: str, status: int, words: str
) -> None:
    """Whatever is wrong with a request, the answer is JSON with the right status, names it, and changes nothing."""
    got, reply = ask(path, method, target, body)
    assert got == status, reply
    assert set(reply) == {"error"}
    assert words in str(reply["error"])
    assert daemon.kept == {}
    assert daemon.enforcing


def test_an_unexpected_error_is_logged_and_not_told(
    path: Path, daemon: DictionaryDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in the daemon is logged with its traceback, kept from the client, and does not end the server."""
    done = run(path, "ban", "203.0.113.5", "--jail", "faulty")
    assert done.returncode == 1
    assert "a detail nobody outside should read" not in done.stderr
    wait_until(lambda: "a detail nobody outside should read" in caplog.text, 10, "the error is logged")
    assert run(path, "ban", "203.0.113.5").returncode == 0
    assert list(daemon.kept) == ["203.0.113.5"]


@pytest.mark.parametrize("number", [0, 1, 500, 501, 1201])
def test_a_list_written_in_pieces_is_whole(path: Path, daemon: DictionaryDaemon, number: int) -> None:
    """A list of any length is one JSON object with every ban once."""
    bans = [Ban.of(f"10.0.{host // 256}.{host % 256}", start=NOW) for host in range(number)]
    daemon.kept = {ban.key: ban for ban in bans}
    status, reply = ask(path, "GET", "/v1/bans")
    assert status == 200
    assert [record["network"] for record in cast("list[dict[str, object]]", reply["bans"])] == list(daemon.kept)


def test_safelist(path: Path, daemon: DictionaryDaemon) -> None:
    """What is put on the safelist lifts its ban, is listed with its reason, and goes; wrong input is said in words."""
    assert run(path, "ban", "203.0.113.5").returncode == 0
    added = run(path, "safelist", "add", "203.0.113.5", "--for", "1d", "--reason", "a scanner of ours\x1b[2J")
    assert added.returncode == 0, added.stderr
    assert added.stdout == "203.0.113.5 is on the safelist for 1d\nLifted the ban of 203.0.113.5 (jail manual)\n"
    assert daemon.kept == {}
    run(path, "safelist", "add", "2001:db8::/32", "--for", "-1", "--reason", "ours too")
    listed = run(path, "safelist", "list").stdout.splitlines()
    assert listed[0].split("  ")[0] == "ADDRESS"
    assert [line.split()[0] for line in listed[1:]] == ["2001:db8::/32", "203.0.113.5"]
    assert "for ever" in listed[1]
    assert "a scanner of ours?[2J" in listed[2]
    assert run(path, "safelist", "remove", "203.0.113.5").returncode == 0
    gone = run(path, "safelist", "remove", "203.0.113.5")
    assert (gone.returncode, "not on the safelist" in gone.stderr) == (1, True)
    for wrong, word in ((("x",), "x"), (("203.0.113.5", "--for", "soon"), "soon"), (("0.0.0.0/1",), "wider than a /8")):
        refused = run(path, "safelist", "add", *wrong, "--reason", "none")
        assert refused.returncode == 2
        assert word in refused.stderr
    assert run(path, "safelist", "add", "203.0.113.5").returncode == 2  # without a reason
