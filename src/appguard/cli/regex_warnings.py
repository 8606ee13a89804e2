"""What the verb `regex` warns of: expressions that are dangerous, and clients that must not be banned."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from appguard.address import PRIVATE, Address, NetworkSet, parse_address, parse_network
from appguard.ban import Ban
from appguard.config import CONFIG_FILE, daemon_config
from appguard.errors import ConfigError, RefusedForSafety
from appguard.filters.base import Filter
from appguard.filters.data_file import DataFilter
from appguard.filters.forgery import VICTIM, forged, unanchored
from appguard.filters.linear import degree_of
from appguard.filters.open import warnings_of
from appguard.filters.regex import RegexFilter
from appguard.host import read_host_facts
from appguard.judge import Judge

DEGREE_USUAL = 2  # whatever has <HOST> in it is quadratic in the length of a host name: no reason to warn
NAMED_MOST = 5  # addresses that are named one by one


def judge_of(config: Path | None) -> tuple[Judge, str]:
    """Give who says which addresses must not be banned, and why the configuration is left out, if it is.

    Raise `ConfigError` for a file that was named and cannot be read.
    """
    facts = read_host_facts()
    try:
        found = daemon_config(config or CONFIG_FILE)
    except ConfigError as error:
        if config is not None:
            raise
        is_there = CONFIG_FILE.exists()
        return Judge(facts), f"the safelist and the proxies are not known: {error}" if is_there else ""
    return Judge(facts, safelist=found.safelist, proxies=found.trusted_proxies.networks), ""


def filter_warnings(made: Filter) -> Iterator[str]:
    """Say what is dangerous in a filter, whatever the lines are."""
    yield from warnings_of(made)
    if not isinstance(made, RegexFilter | DataFilter):
        return
    loose = unanchored(made) if isinstance(made, RegexFilter) else ()
    if loose:
        yield (
            f"not anchored: failregex {_ranges(loose)}: also matches within a text that a client chose, who could have"
            " another banned so; begin with '^' and name what stands before <HOST>"
        )
    slow = _not_linear(made)
    if slow:
        yield (
            f"not proven linear: {slow}: a long line may take long; the daemon skips one that takes more than 5 ms,"
            " so that whoever wrote it goes unseen, and nobody else"
        )


def _regexes_of(made: RegexFilter | DataFilter) -> dict[str, Sequence[str]]:
    """Give the regexes of a filter, written so that they can be judged, by what they are called in it."""
    if isinstance(made, DataFilter):
        head, *lines = (each.costs_like for each in made.regexes)
        return {"head": (head,), "regex": lines}
    return {
        "prefregex": (made.prefregex,) if made.prefregex else (),
        "failregex": made.failregexes,
        "ignoreregex": made.ignoreregexes,
    }


def _not_linear(made: RegexFilter | DataFilter) -> str:
    slow = {
        name: [number for number, pattern in enumerate(patterns, start=1) if not _is_usual(degree_of(pattern))]
        for name, patterns in _regexes_of(made).items()
    }
    return ", ".join(
        name if name in ("prefregex", "head") else f"{name} {_ranges(each)}" for name, each in slow.items() if each
    )


def _is_usual(degree: float | None) -> bool:
    return degree is not None and degree <= DEGREE_USUAL


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers in order: `1-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def run_warnings(made: Filter, examples: Sequence[tuple[bytes, float]]) -> Iterator[str]:
    """Say what came up while lines were read; `examples` are some that matched, and when they were written."""
    line = forged(made, examples) if isinstance(made, RegexFilter) else ""
    if line:
        yield f"a client can have another banned: this line, which a client could cause, would ban {VICTIM}: {line}"
    if isinstance(made, RegexFilter | DataFilter) and made.patience.skipped:
        yield f"{made.patience.skipped} lines took longer than 5 ms and were skipped"
    if isinstance(made, RegexFilter) and made.coloured:
        yield f"{made.coloured} lines have colours in them, which are left out"


def ban_warnings(ids: Collection[str], judge: Judge) -> Iterator[str]:
    """Say which of the clients that were found cannot or should not be banned."""
    private = NetworkSet(PRIVATE)
    nobody: list[str] = []
    near: list[str] = []
    for text in ids:
        address = _address(text)
        if address is None:
            nobody.append(text)
            continue
        reason = _refusal(address, judge)
        if reason:
            yield f"would ban what must not be banned: {reason}"
        elif address in private:
            near.append(address.text)
    if near:
        yield (
            f"finds private addresses ({_named(near)}): if one is your own proxy or load balancer, the log does not"
            " name the client, and all clients would be shut out together: log the real client, list the proxy in"
            " trusted_proxies"
        )
    if nobody:
        yield f"finds clients that are no addresses ({_named(nobody)}): names are resolved by the daemon, if at all"


def _named(texts: list[str]) -> str:
    more = f" and {len(texts) - NAMED_MOST} more" if len(texts) > NAMED_MOST else ""
    return ", ".join(texts[:NAMED_MOST]) + more


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _refusal(address: Address, judge: Judge) -> str:
    try:
        judge.check(Ban(parse_network(address.text), jail="regex", start=0.0, end=1.0))
    except RefusedForSafety as error:
        return str(error)
    return ""
