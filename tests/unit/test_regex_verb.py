"""The verb `regex` as people run it: what it takes for a log and for a filter, what it prints, what it warns of."""

import gzip
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ACCESS = """\
203.0.113.5 - - [20/Nov/2026:09:11:02 +0000] "GET /wp-login.php HTTP/1.1" 404 12 "-" "curl"
203.0.113.7 - - [20/Nov/2026:09:11:04 +0000] "GET / HTTP/1.1" 200 12 "-" "curl"
"""
LOGIN = "Nov 20 09:11:0{} host shop[7]: bad password of alice from {}\n"
COMMAND = [sys.executable, "-m", "appguard", "regex"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def warnings(*arguments: str | Path) -> list[str]:
    """Give the warnings about what is tried."""
    done = run("--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)["warnings"]
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give a log with three failures of two clients and a line of none."""
    file = tmp_path / "shop.log"
    lines = [LOGIN.format(1, "203.0.113.5"), LOGIN.format(2, "203.0.113.6"), LOGIN.format(3, "203.0.113.5")]
    file.write_text("".join(lines) + "Nov 20 09:11:09 host shop[7]: started \x1b]0;x\x07\n")
    return file


REGEX = r"^ \S+ shop\[\d+\]: bad password of <F-USER>\S+</F-USER> from <HOST>$"


def test_the_sections_of_fail2ban_regex(log: Path) -> None:
    """Who knows fail2ban-regex finds each section where it was; what a terminal would act on is escaped."""
    done = run(log, REGEX, "203.0.113.6")
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if line and not line.startswith("[processed")]
    assert said == [
        "Running tests",
        "=============",
        f"Use   failregex line : {REGEX}",
        "Use ignoreregex line : 203.0.113.6",
        f"Use         log file : {log}",
        "Results",
        "=======",
        "Failregex: 2 total",
        "|-  #) [# of hits] regular expression",
        f"|   1) [2] {REGEX}",
        "`-",
        "Ignoreregex: 1 total",
        "|-  #) [# of hits] regular expression",
        "|   1) [1] 203.0.113.6",
        "`-",
        "Date template hits:",
        "|- [# of hits] date format",
        "|  [4] {^LN-BEG}%b %d %H:%M:%S",
        "`-",
        "Lines: 4 lines, 1 ignored, 2 matched, 1 missed",
        "|- Ignored line(s):",
        "|  Nov 20 09:11:02 host shop[7]: bad password of alice from 203.0.113.6",
        "`-",
        "|- Missed line(s):",
        r"|  Nov 20 09:11:09 host shop[7]: started \x1b]0;x\x07",
        "`-",
    ]


def test_nothing_matched_is_exit_code_1(log: Path) -> None:
    """A script can ask whether a regex still finds anything."""
    done = run(log, "^nothing <HOST>$")
    assert done.returncode == 1
    assert "Lines: 4 lines, 0 ignored, 0 matched, 4 missed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give LOG and FILTER or REGEX"),
        (["shop.log"], "give LOG and FILTER or REGEX"),
        (["/nowhere/shop.log", "<HOST>"], "/nowhere/shop.log cannot be read: No such file"),
        (["shop.log.gz", "<HOST>"], "shop.log.gz cannot be read: No such file"),
        (["/etc", "<HOST>"], "/etc cannot be read: it is a directory"),
        (["/dev/null", "<HOST>"], "/dev/null cannot be read: it is no regular file"),
        (["x", "(<HOST>"], "is no regex"),
        (["x", "sshdd"], "there is no filter 'sshdd', so it is taken for a regex; did you mean 'sshd'?"),
        (["x", "nginx", "ignored"], "have regexes of their own"),
        (["x", "<HOST>", "--config", "/nowhere/appguard.toml"], "/nowhere/appguard.toml: cannot be read"),
        (["journal", "<HOST>", "-m", "nonsense"], "expected FIELD=value"),
        (["journal", "<HOST>", "-m", "_COMM='x"], "No closing quotation"),
        (["x", "<HOST>", "-m", "_COMM=sshd"], "--journalmatch is for the log 'journal'"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    """What cannot be done is said in one line."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_logs_and_lines(tmp_path: Path, log: Path) -> None:
    """A file may be packed, and a text that is no file is a line."""
    packed = tmp_path / "shop.log.1.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    for where in (log, packed):
        assert run(where, REGEX, "-o", "ip").stdout.split() == ["203.0.113.5", "203.0.113.6", "203.0.113.5"]
    assert run(LOGIN.format(1, "203.0.113.9").strip(), REGEX, "-o", "ip").stdout == "203.0.113.9\n"


def test_all_kinds_of_filters(tmp_path: Path) -> None:
    """Our own filters, a data file, a format of nginx's, fail2ban's by name and by file are each told apart."""
    (tmp_path / "own.toml").write_text("[[line]]\nkind = 'authn_login_fail'\nregex = 'no (?P<address>[0-9.]++)'\n")
    (tmp_path / "own.conf").write_text("[Definition]\nfailregex = ^no <HOST>$\n")
    access = ACCESS.splitlines()[0]
    tried = [
        (access, "nginx"),
        (access, 'log_format:$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent'
                 ' "$http_referer" "$http_user_agent"'),
        ("no 203.0.113.5", str(tmp_path / "own.toml")),
        ("no 203.0.113.5", str(tmp_path / "own.conf")),
        ("no 203.0.113.5", f"fail2ban:{tmp_path / 'own.conf'}"),
        (LOGIN.format(1, "203.0.113.5").replace("shop[7]: bad password of alice",
                                                "sshd[7]: Failed password for root").strip() + " port 1 ssh2",
         "sshd[mode=aggressive]"),
    ]  # fmt: skip
    for line, name in tried:
        done = run(line, name, "-o", "id")
        assert (name, done.stdout, done.stderr) == (name, "203.0.113.5\n", "")


def test_what_is_printed_of_a_failure(log: Path) -> None:
    """`-o` gives one thing of each failure and nothing else, in the form that scripts for fail2ban-regex read."""
    assert run(log, REGEX, "-o", "user").stdout == "alice\n" * 3
    row = run(log, REGEX, "-o", "row").stdout.splitlines()[0]
    id_, seconds, groups = eval(row.rstrip(","))
    assert (id_, groups["user"], groups["ip4"]) == ("203.0.113.5", "alice", "203.0.113.5")
    assert seconds > 1_000_000_000


def test_which_lines_are_printed(tmp_path: Path) -> None:
    """More than twenty lines of a sort are printed only if asked for, matched ones only then."""
    file = tmp_path / "long.log"
    file.write_text("".join(f"line {number} by 203.0.113.{number}\n" for number in range(25)))
    assert "too many to print.  Use --print-all-missed to print all 25 lines" in run(file, "^no <HOST>$").stdout
    assert "line 24 by" in run(file, "^no <HOST>$", "--print-all-missed").stdout
    assert "Missed" not in run(file, "^no <HOST>$", "--print-no-missed").stdout
    assert "|  line" not in run(file, "by <HOST>$").stdout.partition("Warning")[0]
    assert "|  line 24 by" in run(file, "by <HOST>$", "--print-all-matched").stdout
    assert "|  line 24 by" in run(file, "by <HOST>$", "<HOST>", "--print-all-ignored").stdout


def test_whom_each_regex_found(log: Path) -> None:
    """`-v` says who and when, in the report and as JSON."""
    assert "|      203.0.113.6  Fri Nov 20 09:11:02" in run(log, REGEX, "-v").stdout.replace("Thu", "Fri")
    found = json.loads(run(log, REGEX, "-v", "--json").stdout)
    assert [each["id"] for each in found["failregex"][0]["found"]] == ["203.0.113.5", "203.0.113.6", "203.0.113.5"]
    assert (found["lines"], found["matched"], found["missed"]) == (4, 3, 1)


def test_a_datepattern_of_ones_own(tmp_path: Path) -> None:
    """`-d` takes the place of the built-in dates; what it does not find is not cut out of the line."""
    file = tmp_path / "odd.log"
    file.write_text("at 2026/20/11+09 from 203.0.113.5\n")
    assert run(file, "^at  from <HOST>$").returncode == 1
    done = run(file, "^at  from <HOST>$", "-d", r"%Y/%d/%m\+%H")
    assert done.returncode == 0
    assert "|  [1] %Y/%d/%m+%H" in done.stdout


@pytest.mark.parametrize(
    ("line", "regex", "forged"),
    [
        ("203.0.113.5 bad login", "<HOST> bad login", "hello 192.0.2.66 bad login"),
        ("bad login x from 203.0.113.5", "^bad login <F-USER>.*?</F-USER> from <HOST>", "x from 192.0.2.66 fr"),
        (ACCESS.splitlines()[0], r'^.*<HOST> - .* 404 ', '"192.0.2.66 - '),
    ],
)  # fmt: skip
def test_a_line_that_has_another_banned_is_shown(line: str, regex: str, forged: str) -> None:
    """The line is no claim: the same regex finds the victim in it, and not who wrote it."""
    said = next(each for each in warnings(line, regex) if each.startswith("a client can have another banned"))
    shown = said.partition("would ban 192.0.2.66: ")[2]
    assert forged in shown
    assert run(shown, regex, "-o", "ip").stdout == "192.0.2.66\n"


def test_a_careful_regex_is_not_accused() -> None:
    """Where the program's own words fix the place of the address, there is nothing to warn of."""
    line = 'nov shop: login of "eve" failed: 203.0.113.5'
    assert warnings(line, '^nov shop: login of "[^"]*" failed: <ADDR>$') == []
    assert warnings(ACCESS.splitlines()[0], r'^<ADDR> \S+ \S+ \[\] "GET [^"]*" (444|404|403) ') == []


def test_what_is_not_anchored_and_what_is_slow(log: Path) -> None:
    """Both are said by the number of the regex, also where no line proves anything."""
    done = run(log, "(a+)+b from <HOST>")
    assert done.returncode == 1
    assert "Warning: not anchored: failregex 1: " in done.stdout
    assert "Warning: not proven linear: failregex 1: " in done.stdout


def test_clients_that_must_not_be_banned(tmp_path: Path) -> None:
    """Addresses of this host, of the safelist and of proxies are named; a private one may be a proxy nobody listed."""
    config = tmp_path / "appguard.toml"
    config.write_text('safelist = ["198.51.100.7"]\ntrusted_proxies = ["203.0.113.0/24"]\n')
    file = tmp_path / "x.log"
    addresses = ("198.51.100.7", "203.0.113.9", "127.0.0.1", "10.1.2.3", "198.51.100.8", "name.example")
    file.write_text("".join(f"no {address}\n" for address in addresses))
    found = warnings(file, "^no <HOST>$", "--config", config)
    assert len(found) == 5
    assert found[0] == (
        "would ban what must not be banned: 198.51.100.7 is on the safelist; that is always let in, so a ban would do"
        " nothing (settings: safelist, trusted_proxies)"
    )
    assert "203.0.113.9 lies in 203.0.113.0/24, which is a trusted proxy" in found[1]
    assert "127.0.0.1 lies in 127.0.0.0/8, which is loopback" in found[2]
    assert found[3].startswith("finds private addresses (10.1.2.3): ")
    assert found[4].startswith("finds clients that are no addresses (name.example): ")


def test_progress_is_shown_to_a_person_only(tmp_path: Path) -> None:
    """A big log has a bar on a terminal; a file that takes the messages has none."""
    file = tmp_path / "big.log"
    file.write_text("nothing at all of any interest, over and over again\n" * 100_000)
    controller, terminal = pty.openpty()
    command = [*COMMAND, str(file), "nginx"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, timeout=120, check=False)
    os.close(terminal)
    seen = os.read(controller, 65536)
    os.close(controller)
    assert done.returncode == 1
    assert b"Reading" in seen
    assert run(file, "nginx").stderr == ""
