"""What the verb `regex` says, in the sections and words of fail2ban-regex, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from appguard.cli.client import Reply
from appguard.filters.regex import RegexFilter
from appguard.filters.trial import Lines, Tally, Told, Trial

SHOWN_MOST = 20  # lines of a sort; more are shown only if asked for


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be shown beside the counts: `every` and `no` name sorts of lines, all or none of which are."""

    every: frozenset[str] = frozenset()
    no: frozenset[str] = frozenset()
    is_verbose: bool = False


def used_lines(used: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Write what is tried on what."""
    yield from ("", "Running tests", "=============", "")
    yield from (f"Use {what:>16} : {text}" for what, text in used)
    yield ""


def report_lines(trial: Trial, seconds: float, shown: Shown) -> Iterator[str]:
    """Write what became of the lines."""
    yield from ("", "Results", "=======", "")
    is_regex = isinstance(trial.filter, RegexFilter)
    for tally in trial.prefixes:
        yield from (f"Prefregex: {tally.hits} total", f"|  {tally.text}", "`-", "")
    yield from _tallies("Failregex", "regular expression" if is_regex else "kind of event", trial.failures, shown)
    if is_regex:
        yield from _tallies("Ignoreregex", "regular expression", trial.ignores, shown)
        yield from ("Date template hits:", *_dates(trial))
    yield (
        f"Lines: {trial.lines} lines, {trial.ignored.count} ignored,"
        f" {trial.matched.count} matched, {trial.missed.count} missed"
    )
    yield from (f"[processed in {seconds:.2f} sec]", "")
    for name, lines in (("matched", trial.matched), ("ignored", trial.ignored), ("missed", trial.missed)):
        yield from _lines(name, lines, shown)


def _tallies(title: str, of_what: str, tallies: Sequence[Tally], shown: Shown) -> Iterator[str]:
    yield f"{title}: {sum(tally.hits for tally in tallies)} total"
    found = [(number, each) for number, each in enumerate(tallies, start=1) if each.hits or shown.is_verbose]
    if found:
        yield f"|-  #) [# of hits] {of_what}"
        for number, tally in found:
            yield f"|  {number:2}) [{tally.hits}] {tally.text}"
            yield from (f"|      {told.id}  {_time(told)}" for told in tally.told)
        yield "`-"
    yield ""


def _dates(trial: Trial) -> Iterator[str]:
    if trial.dates:
        yield "|- [# of hits] date format"
        yield from (f"|  [{hits}] {form}" for form, hits in trial.dates.most_common())
        yield "`-"
    yield ""


def _time(told: Told) -> str:
    return datetime.fromtimestamp(told.time).strftime("%a %b %d %H:%M:%S %Y") if told.time else "-"


def _lines(name: str, lines: Lines, shown: Shown) -> Iterator[str]:
    wanted = name in shown.every or (name != "matched" and name not in shown.no)
    if not wanted or not lines.count:
        return
    if name not in shown.every and lines.count > SHOWN_MOST:
        yield (
            f"{name.capitalize()} line(s): too many to print.  Use --print-all-{name} to print all {lines.count} lines"
        )
        return
    yield f"|- {name.capitalize()} line(s):"
    yield from (f"|  {line.decode(errors='replace')}" for line in lines.kept)
    yield "`-"


def report_json(trial: Trial, used: Sequence[tuple[str, str]], warned: Sequence[str], seconds: float) -> Reply:
    """Give the same as an object."""
    return {
        "used": dict(used),
        "lines": trial.lines,
        "matched": trial.matched.count,
        "ignored": trial.ignored.count,
        "missed": trial.missed.count,
        "failregex": list(map(_record, trial.failures)),
        "ignoreregex": list(map(_record, trial.ignores)),
        "prefregex": list(map(_record, trial.prefixes)),
        "dates": dict(trial.dates.most_common()),
        "warnings": list(warned),
        "seconds": round(seconds, 3),
    }


def _record(tally: Tally) -> dict[str, object]:
    record: dict[str, object] = {"text": tally.text, "hits": tally.hits}
    if tally.told:
        record["found"] = [{"id": each.id, "time": each.time, "user": each.user} for each in tally.told]
    return record


def out_line(told: Told, wanted: str) -> str:
    """Write a failure as the one thing that is wanted of it."""
    if wanted == "row":
        details = {name: value for name, value in told.details.items() if name != "address"}
        return f"[{told.id!r},\t{told.time!r},\t{details!r}],"
    return {"ip": told.address or told.id, "id": told.id, "user": told.user}[wanted]
