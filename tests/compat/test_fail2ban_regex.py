"""`appguard regex` counts as the installed fail2ban-regex counts on the same log with the same filter."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appguard.filters.open import open_filter
from appguard.filters.trial import Trial
from tests.compat.fail2ban_samples import find_layout

SSHD = """\
Nov 20 09:11:02 host sshd[7]: Failed password for root from 203.0.113.5 port 4711 ssh2
Nov 20 09:11:03 host sshd[8]: Failed password for invalid user bob from 203.0.113.6 port 4712 ssh2
Nov 20 09:11:04 host sshd[9]: Accepted password for bob from 203.0.113.7 port 4712 ssh2
Nov 20 09:11:05 host sshd[10]: Failed publickey for carol from 2001:db8::7 port 4713 ssh2: RSA SHA256:x
Nov 20 09:11:06 host sshd[11]: Server listening on 0.0.0.0 port 22.
Nov 20 09:11:07 host cron[12]: (root) CMD (true)
no date at all
"""
NGINX = """\
2026/11/20 09:11:02 [error] 7#7: *1 user "alice": password mismatch, client: 203.0.113.5, server: shop, request: "GET / HTTP/1.1", host: "shop"
2026/11/20 09:11:03 [error] 7#7: *2 user "bob" was not found in "/etc/nginx/htpasswd", client: 203.0.113.6, server: shop, request: "GET / HTTP/1.1", host: "shop"
2026/11/20 09:11:04 [error] 7#7: *3 open() "/srv/x" failed (2: No such file or directory), client: 203.0.113.7, server: shop
"""  # noqa: E501 - lines of a log
ACCESS = """\
203.0.113.5 - - [20/Nov/2026:09:11:02 +0000] "GET /wp-login.php HTTP/1.1" 404 12 "-" "curl"
203.0.113.6 - - [20/Nov/2026:09:11:03 +0000] "GET /logo.PNG HTTP/1.1" 404 12 "-" "curl"
203.0.113.7 - - [20/Nov/2026:09:11:04 +0000] "GET / HTTP/1.1" 200 12 "-" "curl"
# a comment, which does not count

2001:db8::7 - - [20/Nov/2026:09:11:05 +0000] "POST /x HTTP/1.1" 403 12 "-" "curl"
"""
PROBE = r'^<HOST> .* "(GET|POST|PATCH|PUT|DELETE) .*" (444|404|403) .*$'


def theirs(*arguments: str) -> dict[str, int]:
    """Give the counts of fail2ban-regex."""
    done = subprocess.run(["fail2ban-regex", *arguments], capture_output=True, text=True, timeout=60, check=False)
    counts = re.search(r"Lines: (\d+) lines, (\d+) ignored, (\d+) matched, (\d+) missed", done.stdout)
    total = re.search(r"(?m)^Failregex: (\d+) total", done.stdout)
    assert counts and total, done.stdout + done.stderr
    return dict(
        zip(("lines", "ignored", "matched", "missed", "total"), map(int, (*counts.groups(), total[1])), strict=True)
    )


def ours(*arguments: str) -> dict[str, int]:
    """Give the counts of `appguard regex`."""
    command = [sys.executable, "-m", "appguard", "regex", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    total = sum(each["hits"] for each in found["failregex"])
    return {name: found[name] for name in ("lines", "ignored", "matched", "missed")} | {"total": total}


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        (SSHD, ["sshd"], (7, 2, 2, 3)),
        (SSHD, ["sshd[mode=aggressive]"], (7, 2, 2, 3)),
        (NGINX, ["nginx-http-auth"], (3, 0, 2, 1)),
        (ACCESS, [PROBE], (4, 0, 3, 1)),
        (ACCESS, [PROBE, r"(?i)\.(jpg|png) "], (4, 1, 2, 1)),
        (ACCESS, [PROBE, "sshd"], (4, 0, 3, 1)),
    ],
)
def test_the_same_counts(tmp_path: Path, text: str, arguments: list[str], expected: tuple[int, ...]) -> None:
    """Lines ignored, matched and missed, and the hits of all failregexes, are as fail2ban's own tool has them."""
    log = tmp_path / "some.log"
    log.write_text(text)
    named = arguments if arguments[0] != "sshd" else ["fail2ban:sshd"]  # `sshd` alone is our own filter
    found = ours(str(log), *named)
    assert found == theirs("--usedns=no", str(log), *arguments)
    assert (found["lines"], found["ignored"], found["matched"], found["missed"]) == expected


def test_the_same_counts_on_all_samples(tmp_path: Path) -> None:
    """On fail2ban's own samples of every filter nothing is missed that it matches, or the reverse.

    Where several regexes of one filter match a line, fail2ban-regex takes the last one's word for whether the line is a
    failure by itself, and the daemons, theirs and ours, the first one's: two lines of sshd.
    """
    layout = find_layout()
    samples = [file for file in sorted(layout.samples.iterdir()) if layout.filter_file(file.name).is_file()]
    for file in [each for each in samples if each.is_file() and not each.name.startswith("zzz-")]:
        log = tmp_path / file.name
        log.write_bytes(file.read_bytes().rstrip(b"\n") + b"\n")  # a line without its end is none to fail2ban
        trial = Trial(open_filter(f"fail2ban:{layout.filter_file(file.name)}", {"usedns": "no"}), most=0)
        for line in log.read_bytes().split(b"\n"):
            if line.strip() and not line.startswith(b"#"):
                trial.add(line, time.time())
        trial.end()
        expected = theirs("--usedns=no", str(log), str(layout.filter_file(file.name)))
        found = {
            "lines": trial.lines,
            "ignored": trial.ignored.count + 2 * (file.name == "sshd"),
            "matched": trial.matched.count - 2 * (file.name == "sshd"),
            "missed": trial.missed.count,
            "total": sum(tally.hits for tally in trial.failures),
        }
        assert (file.name, found) == (file.name, expected)
    assert len(samples) > 50
