"""`appguard regex journal` reads a real systemd journal, what the filter or the user matches of it, and ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from appguard.sources.journal_once import read_journal
from tests.journal import Journal
from tests.lab import wait_until

pytestmark = pytest.mark.lab
FILTER = "[Definition]\nfailregex = bad password from <HOST>$\njournalmatch = SYSLOG_IDENTIFIER=shop\n"


def ours(*arguments: str) -> dict[str, object]:
    """Give what the verb counts."""
    command = [sys.executable, "-m", "appguard", "regex", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_entries_that_match_are_tried(open_tmp_path: Path) -> None:
    """The filter's own journalmatch holds unless another is given, and each entry has the time of the entry."""
    (open_tmp_path / "shop.conf").write_text(FILTER)
    with Journal(open_tmp_path).running() as journal:
        journal.write(b"bad password from 203.0.113.5", SYSLOG_IDENTIFIER="shop")
        journal.write(b"started", SYSLOG_IDENTIFIER="shop")
        journal.write(b"bad password from 203.0.113.6", SYSLOG_IDENTIFIER="other")
        where = str(journal.directory)
        wait_until(lambda: len(list(read_journal((), where))) >= 3, 10, "three entries")
        log, made = f"journal:{where}", str(open_tmp_path / "shop.conf")
        found = ours(log, made, "-v")
        assert (found["lines"], found["matched"], found["missed"]) == (2, 1, 1)
        assert "203.0.113.5" in json.dumps(found["failregex"])
        found = ours(log, made, "-m", "SYSLOG_IDENTIFIER=other", "-v")
        assert (found["lines"], found["matched"]) == (1, 1)
        assert "203.0.113.6" in json.dumps(found["failregex"])
        (first,) = (entry for entry in read_journal(("SYSLOG_IDENTIFIER=other",), where))
        assert first.time > 1_700_000_000
