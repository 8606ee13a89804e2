"""Runs the verb `regex`: a filter on every line of a log, then what is to be said of it."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from appguard.cli.client import say, say_json
from appguard.cli.regex_filter import Chosen, chosen_filter
from appguard.cli.regex_log import Log, is_journal, journal_matches, open_log, progress
from appguard.cli.regex_text import SHOWN_MOST, Shown, out_line, report_json, report_lines, used_lines
from appguard.cli.regex_warnings import ban_warnings, filter_warnings, judge_of, run_warnings
from appguard.errors import ConfigError
from appguard.filters.open import is_bare
from appguard.filters.trial import Trial

IDS_MOST = 10_000  # different clients that are looked at
COMMENT = b"#"  # such lines and empty ones do not count, as in fail2ban-regex: samples have them
EXAMPLES_MOST = 8  # lines that matched, from which forged ones are made up


@dataclass(frozen=True, slots=True)
class Asked:
    """What the verb was asked for."""

    log: str
    filter: str
    ignoreregex: str
    options: dict[str, object]
    journalmatch: str
    config: Path | None
    out: str
    every: frozenset[str]
    no: frozenset[str]
    is_verbose: bool
    as_json: bool


class _Found:
    """The clients that were found, and some lines that matched."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.examples: list[tuple[bytes, float]] = []

    def add(self, id_: str, line: bytes, at: float) -> None:
        if len(self.ids) < IDS_MOST:
            self.ids[id_] = None
        if len(self.examples) < EXAMPLES_MOST:
            self.examples.append((line, at))


def run(asked: Asked) -> int:
    """Try the filter and say what became of the lines; give the exit code. Raise `AppGuardError`."""
    chosen = chosen_filter(asked.filter, asked.ignoreregex, asked.options, is_journal=is_journal(asked.log))
    judge, unknown = judge_of(asked.config)
    matches = journal_matches(asked.journalmatch or chosen.journalmatch)
    if asked.journalmatch and not is_journal(asked.log):
        raise ConfigError("--journalmatch is for the log 'journal'")
    log = open_log(asked.log, matches, is_bare=is_bare(chosen.name))
    used = [*chosen.used, (log.what, log.shown)]
    if not (asked.as_json or asked.out):
        say(*used_lines(used))
    begin = time.monotonic()
    trial, found = _read(log, chosen, asked)
    seconds = time.monotonic() - begin
    if asked.out:
        return 0 if trial.matched.count else 1
    warned = [*filter_warnings(chosen.filter), *run_warnings(chosen.filter, found.examples)]
    warned += [*ban_warnings(found.ids, judge), *([unknown] if unknown else [])]
    if asked.as_json:
        say_json(report_json(trial, used, warned, seconds))
    else:
        say(*report_lines(trial, seconds, Shown(asked.every, asked.no, asked.is_verbose)))
        say(*(f"Warning: {warning}" for warning in warned))
    return 0 if trial.matched.count else 1


def _read(log: Log, chosen: Chosen, asked: Asked) -> tuple[Trial, _Found]:
    most = None if asked.every else SHOWN_MOST
    trial = Trial(chosen.filter, most=most, told_most=sys.maxsize if asked.is_verbose else 0)
    found = _Found()
    with progress(log) as lines:
        for line, at in lines:
            if line.startswith(COMMENT) or not line.strip():
                continue
            told = trial.add(line, at)
            if told is None:
                continue
            found.add(told.address or told.id, line, at)
            if asked.out:
                say(out_line(told, asked.out))
    trial.end()
    return trial, found
