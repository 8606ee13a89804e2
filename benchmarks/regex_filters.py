"""How fast are fail2ban's own filters here, compared with fail2ban-regex on the same lines in the same run?

Both sides count processor time, without what a log of one line takes. Ours is blocks of lines in, events out: the lines
that may match are searched for, then read by the filter; `alone` is without the first of these. fail2ban-regex runs as
installed and with the log's date pattern given; `appguard regex`, which says of every line what each regex makes of it,
as it does, without. Ends with an error if the numbers of failures differ.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from appguard.filters.fail2ban import read_filter
from appguard.filters.regex import RegexFilter
from appguard.sieve import Sieve
from appguard.sources.base import LINE_MOST
from benchmarks.synthetic_logs import BEGIN, USERS, client, lines, offender

RESULT = Path(__file__).parent / "results/regex_filters.json"
BLOCK = 1 << 18  # bytes
FAIL2BAN = "fail2ban-regex"
TOOL = (sys.executable, "-m", "appguard", "regex")
COUNTED = re.compile(r"Lines: \d+ lines, \d+ ignored, (\d+) matched")


def stamp(form: str, number: int) -> str:
    """Give the time of a line; 100 are written a second."""
    return time.strftime(form, time.localtime(BEGIN + number // 100))


def nginx_error(chance: random.Random, number: int, hostile: float) -> str:
    """Give a line of nginx's error log: a wrong password, or a file that is not there."""
    head, rest = (
        f"{stamp('%Y/%m/%d %H:%M:%S', number)} [error] 77#77: *{number} ",
        'server: shop, request: "GET / HTTP/1.1"',
    )
    if chance.random() < hostile:
        who = offender(chance, number, fresh=False)
        return f'{head}user "{chance.choice(USERS)}": password mismatch, client: {who}, {rest}, host: "shop"'
    return f'{head}open() "/srv/{number}.gif" failed (2: No such file or directory), client: {client(chance)}, {rest}'


def botsearch(chance: random.Random, number: int, hostile: float) -> str:
    """Give a line of nginx's access log: somebody looks for an admin page, or anything."""
    when = stamp("%d/%b/%Y:%H:%M:%S +0000", number)
    if chance.random() < hostile:
        page = chance.choice(("/wp-login.php", "/phpmyadmin/scripts/setup.php", "/roundcube/"))
        return f'{offender(chance, number, fresh=False)} - - [{when}] "GET {page} HTTP/1.1" 404 153 "-" "curl/8.14.1"'
    return f'{client(chance)} - - [{when}] "GET /items/{number}/reviews HTTP/1.1" 200 5120 "https://shop.example/" "-"'


def apache(chance: random.Random, number: int, hostile: float) -> str:
    """Give a line of Apache's error log."""
    when = stamp("%a %b %d %H:%M:%S.250000 %Y", number)
    if chance.random() < hostile:
        who = f"{offender(chance, number, fresh=False)}:{chance.randrange(1024, 65_535)}"
        told = f'AH01617: user {chance.choice(USERS)}: authentication failure for "/": Password Mismatch'
        return f"[{when}] [auth_basic:error] [pid 77:tid 7] [client {who}] {told}"
    told = f"AH00128: File does not exist: /srv/{number}.gif"
    return f"[{when}] [core:info] [pid 77:tid 7] [client {client(chance)}:{chance.randrange(1024, 65_535)}] {told}"


def bans(chance: random.Random, number: int, hostile: float) -> str:
    """Give a line of fail2ban's own log."""
    head, who = stamp("%Y-%m-%d %H:%M:%S,250", number), offender(chance, number, fresh=False)
    if chance.random() < hostile:
        return f"{head} fail2ban.actions        [77]: NOTICE  [sshd] Ban {who}"
    return f"{head} fail2ban.filter         [77]: INFO    [sshd] Found {who} - {stamp('%Y-%m-%d %H:%M:%S', number)}"


MADE = {"nginx-http-auth": nginx_error, "nginx-botsearch": botsearch, "apache-auth": apache, "recidive": bans}
DATES = {
    "sshd": "%b %d %H:%M:%S",
    "nginx-http-auth": "^%Y/%m/%d %H:%M:%S",
    "nginx-botsearch": "%d/%b/%Y:%H:%M:%S %z",
    "apache-auth": r"%a %b %d %H:%M:%S\.%f %Y",
    "recidive": "^%Y-%m-%d %H:%M:%S,%f",
}


def written(name: str, count: int, hostile: float) -> Iterator[str]:
    """Give the lines of the log that a filter is for."""
    if name == "sshd":
        return (line.rstrip("\n") for line in lines("sshd", count, hostile))
    chance = random.Random(f"{name} {hostile}")
    return (MADE[name](chance, number, hostile) for number in range(count))


def ours(name: str, log: Sequence[bytes], *, sieved: bool) -> tuple[float, int]:
    """Give the seconds that a log takes, and the number of events."""
    chosen = RegexFilter(name, read_filter(name))
    sieve = Sieve(chosen.needs if sieved else (), LINE_MOST)
    blocks = list(cut(log))
    chosen.match(log[0], BEGIN)
    sieve.candidates(log[0] + b"\n")
    begin = time.process_time()
    found = sum(chosen.match(line, BEGIN) is not None for block in blocks for line in sieve.candidates(block))
    return time.process_time() - begin, found


def cut(log: Sequence[bytes]) -> Iterator[bytes]:
    """Give a log in blocks as a source reads it."""
    per_block = max(1, BLOCK // (1 + len(log[0])))
    for first in range(0, len(log), per_block):
        yield b"\n".join(log[first : first + per_block]) + b"\n"


def told(log: Sequence[bytes], command: Sequence[str], name: str) -> tuple[float, int]:
    """Give the same of a command that is given a log and the name of a filter."""
    with tempfile.TemporaryDirectory() as directory:
        whole, one = Path(directory) / "whole.log", Path(directory) / "one.log"
        whole.write_bytes(b"\n".join(log) + b"\n")
        one.write_bytes(log[0] + b"\n")
        start, _ = processor_time([*command, str(one), name])
        seconds, said = processor_time([*command, str(whole), name])
    counted = COUNTED.search(said)
    assert counted, said[-500:]
    return seconds - start, int(counted[1])


def processor_time(command: Sequence[str]) -> tuple[float, str]:
    """Run a command; give its seconds of processor time and what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


def measure(name: str, hostile: float, count: int, rounds: int) -> dict[str, float]:
    """Give lines per second of both sides, taken in turns, and how many times as fast ours is."""
    log = [line.encode() for line in written(name, count, hostile)]
    sides = ("ours", "filter_alone", "tool", "fail2ban", "fail2ban_tuned")
    taken: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for _ in range(rounds):
        taken["ours"].append(ours(name, log, sieved=True))
        taken["fail2ban"].append(told(log, [FAIL2BAN], name))
        taken["filter_alone"].append(ours(name, log, sieved=False))
        taken["fail2ban_tuned"].append(told(log, [FAIL2BAN, "-d", DATES[name]], name))
        taken["tool"].append(told(log, TOOL, f"fail2ban:{name}"))
    counts = {side: {found for _, found in each} for side, each in taken.items()}
    assert len(set[int]().union(*counts.values())) == 1, f"{name}: the numbers of failures differ: {counts}"
    seconds = {side: statistics.median(each for each, _ in times) for side, times in taken.items()}
    speeds = {f"{side}_lines_per_second": count / each for side, each in seconds.items()}
    return {
        "lines": count,
        "failures": taken["ours"][0][1],
        **speeds,
        "times_fail2ban": seconds["fail2ban"] / seconds["ours"],
        "times_fail2ban_tuned": seconds["fail2ban_tuned"] / seconds["ours"],
        "alone_times_fail2ban_tuned": seconds["fail2ban_tuned"] / seconds["filter_alone"],
        "tool_times_fail2ban": seconds["fail2ban"] / seconds["tool"],
        "tool_times_fail2ban_tuned": seconds["fail2ban_tuned"] / seconds["tool"],
    }


def main() -> None:
    """Measure sshd at two shares of hostile lines, and the other filters."""
    parser = argparse.ArgumentParser(description="Compare fail2ban's filters here and in fail2ban-regex.")
    parser.add_argument("--lines", type=int, default=50_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    chosen = parser.parse_args()
    cases = [("sshd", 0.1), ("sshd", 1.0), *((name, share) for name in MADE for share in (0.1, 1.0))]
    results: dict[str, dict[str, float]] = {}
    heads = ("times", "tuned", "alone", "tool", "tuned")
    print(f"{'':<24}{'lines/s':>10}{'fail2ban':>10}{'tuned':>10}" + "".join(f"{head:>8}" for head in heads))
    for name, hostile in cases:
        found = results[f"{name} {hostile:.0%}"] = measure(name, hostile, chosen.lines, chosen.rounds)
        speeds = (found[f"{side}_lines_per_second"] for side in ("ours", "fail2ban", "fail2ban_tuned"))
        ratios = (each for side, each in found.items() if "times_fail2ban" in side)
        row = "".join(f"{each:>10,.0f}" for each in speeds) + "".join(f"{each:>8.1f}" for each in ratios)
        print(f"{name + f' {hostile:.0%}':<24}{row}", flush=True)
    version = subprocess.run([FAIL2BAN, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    host = {"python": platform.python_version(), "cpus": os.cpu_count(), "fail2ban": version}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"host": host, "filters": results}, indent=2) + "\n")
    print(f"written to benchmarks/results/{RESULT.name}")


if __name__ == "__main__":
    main()
