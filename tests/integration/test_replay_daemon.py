"""A log replayed gives the bans that the real daemon made while it was written; and the command as users run it."""

import gzip
import json
import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import NGINX_404, Place, running_daemon, web_jail
from tests.lab import wait_until
from tests.netns import has_table, run
from tests.replaying import BEGIN, nginx_line, settings, write

BIN = [sys.executable, "-m", "appguard", "replay"]


@pytest.fixture
def place(open_tmp_path: Path) -> Iterator[Place]:
    """Give a daemon's directories, and take its table away afterwards."""
    yield Place(open_tmp_path)
    if has_table():
        run("nft", "delete", "table", "inet", "appguard")


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    return subprocess.run([*BIN, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def facts(bans: list[dict[str, Any]], prolonged: set[str]) -> set[tuple[Any, ...]]:
    """Give what bans are compared by: of one that was prolonged the daemon tells only the last, and its end."""
    return {
        (ban["network"], ban["jail"], ban["end"])
        if ban["network"] in prolonged
        else (ban["network"], ban["jail"], ban["end"], ban["start"], ban["reason"], ban["failures"])
        for ban in bans
    }


@pytest.mark.lab
def test_replay_bans_whom_the_daemon_banned(place: Place) -> None:
    """Through a rotation, with lines told late and a wrong clock, both ban the same, from and until the same second."""
    probes = web_jail(place, {"maxretry": 3, "bantime": "1h", "escalate": 3, "bantime_increment": True})
    slow = web_jail(place, {"maxretry": 5, "bantime": -1, "dry_run": True}).replace("jails.probes", "jails.slow")
    safe = 'safelist = ["198.51.100.0/24"]'
    place.configure(probes + slow + '[jails.recidive]\nuse = "recidive"\nmaxretry = 1\nbantime = "1d"\n', safe)
    chance = random.Random(6)
    addresses = [*(f"203.0.113.{n}" for n in range(30)), "198.51.100.7", "192.0.2.50", "2001:db8::1", "2001:db8::2"]
    with running_daemon(place) as daemon:
        for part in range(2):
            with place.access_log.open("a") as log:
                for _ in range(60):
                    at = time.time() - chance.choice((0, 0, 0, 1, 5, 20))
                    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(at))
                    log.write(NGINX_404.format(chance.choice(addresses), stamp))
                    log.flush()
                log.write(NGINX_404.format("203.0.113.99", "01/Jan/2020:00:00:00 +0000") * 5)
            wait_until(lambda: found(place) == countable(place), 10, daemon.output)
            if part == 0:
                place.access_log.rename(f"{place.access_log}.1")
        live = place.ask("list")["bans"]
        assert len(live) > 5
    files = [place.access_log, f"{place.access_log}.1"]
    first, second = (replay(*each, "--config", place.config, "--json") for each in (files, files[::-1]))
    assert (first.returncode, first.stdout) == (0, second.stdout), first.stderr
    found_bans = json.loads(first.stdout)["bans"]
    last = {ban["network"]: ban for ban in found_bans if not ban["dry_run"]}  # the last to be put in force is in force
    prolonged = {ban["network"] for ban in last.values() if ban["prolonged"]}
    assert len(prolonged) < len(last)
    assert facts(list(last.values()), prolonged) == facts(live, prolonged)


def countable(place: Place) -> int:
    """Give how many lines were written that count: of now, and not of the safelist."""
    lines = [line for file in place.logs.iterdir() for line in file.read_text().splitlines()]
    return sum("Jan/2020" not in line and not line.startswith("198.51.100.7 ") for line in lines)


def found(place: Place) -> int:
    """Give how many lines the daemon has counted."""
    return int(place.ask("status", "probes")["total_failed"])


def test_the_table_says_who_when_and_why(tmp_path: Path) -> None:
    """Who is banned when, until when and for which line stands in a row, and the jails' totals below."""
    write(tmp_path / "access.log", {0: "203.0.113.5", 1: "203.0.113.5", 2: "203.0.113.5", 3: "203.0.113.6"})
    done = replay(tmp_path / "access.log", "--config", settings(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    head, row, _, jails, totals, _, summary = done.stdout.splitlines()
    assert head.split("  ")[0] == "ADDRESS"
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(BEGIN + 2))
    assert row.startswith(f"203.0.113.5  probes  {local}  ")
    assert "  3         203.0.113.5 - - [" in row
    assert (jails.split(), totals.split()) == (["JAIL", "FAILURES", "BANS", "ADDRESSES"], ["probes", "4", "1", "1"])
    assert summary.startswith("4 lines of 1 file, 4 with an event, ")
    assert summary.endswith("(3s): 1 ban")


def test_what_strangers_write_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Escape sequences and marks of writing direction in a path are shown as text."""
    lines = [nginx_line("203.0.113.5", at, path="/\x1b]0;owned\x07\u202e") for at in range(3)]
    (tmp_path / "access.log").write_bytes(b"".join(lines))
    done = replay(tmp_path / "access.log", "--config", settings(tmp_path))
    assert "\\x1b]0;owned\\x07" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)


def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    """A file no jail reads, a time that is none, settings that are not there: exit code 2; a damaged file: 1."""
    config = settings(tmp_path)
    log = write(tmp_path / "other.log", dict.fromkeys(range(3), "203.0.113.5"))
    unread = replay(log, "--config", config)
    assert (unread.returncode, unread.stdout, "--jail NAME" in unread.stderr) == (2, "", True)
    assert "203.0.113.5" in replay(log, "--config", config, "--jail", "probes").stdout
    assert "--since 'soon'" in replay(log, "--config", config, "--since", "soon").stderr
    assert "cannot be read" in replay(log, "--config", tmp_path / "none.toml").stderr
    packed = gzip.compress(os.urandom(100_000))
    (tmp_path / "access.log.1").write_bytes(packed[:50_000])
    damaged = replay(tmp_path / "access.log.1", "--config", config)
    assert (damaged.returncode, "access.log.1 cannot be read" in damaged.stderr) == (1, True)


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    """On a terminal standard error has a bar while files are read, and nothing of it is left behind."""
    log = write(tmp_path / "access.log", {n: f"203.0.113.{n % 200}" for n in range(6000)})
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = [*BIN, str(log), "--config", str(settings(tmp_path))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False)
        os.close(theirs)
        drawn = terminal.read(65536)
    assert done.returncode == 0
    assert b"\r[####" in drawn.replace(b"#" * 5, b"####")
    assert drawn.endswith(b"\r\x1b[K")
