"""No line makes fail2ban's own filters, unmodified, cost more than five milliseconds."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

from appguard.errors import ConfigError
from appguard.filters.expression import LINE_SECONDS
from appguard.filters.fail2ban import read_filter
from appguard.filters.patience import Patience
from appguard.filters.regex import RegexFilter
from appguard.sources.base import LINE_MOST
from tests.compat.fail2ban_samples import find_layout, records

SUFFIXES = (b"", *(b"%c!" % letter for letter in b"abcdefghijklm"))  # tries: other processes may have slowed the first
LENGTHS = (64, 90, 130, 200, 400, 900, 2500, LINE_MOST)
HEADS = (
    b"",
    b"2005-08-14 10:00:00 ",
    b"Aug 14 10:00:00 host sshd[1]: Failed password for ",
    b"Aug 14 10:00:00 host dovecot: ",
)
PIECES = (
    b" ",
    b"a",
    b"a ",
    b"1",
    b"a:",
    b"[",
    b'"',
    b"User a ",
    b"from 192.0.2.1 ",
    b"<",
    b"=",
    b"a=b, ",
    b"::",
    b"1:",
)
# What the two filters of fail2ban's advisory GHSA-33wh-ccjc-p397 hang on when nothing limits their time.
PUBLISHED = {
    "domino-smtp": b"[003A-0008] 14-08-2005 10:00:00 smtp: " + b"a " * 64,
    "dovecot": b"Aug 14 10:00:00 host dovecot: imap-login: Disconnected" + b": a" * 30 + b" (x",
}


def filters() -> Iterator[RegexFilter]:
    """Open all filters there are, but those that only others include."""
    for file in sorted(Path(find_layout().filters).glob("*.conf")):
        try:
            yield RegexFilter(file.stem, read_filter(str(file)))
        except ConfigError as error:
            assert "failregex is missing" in str(error) or "is set nowhere" in str(error)


def cost(chosen: RegexFilter, line: bytes) -> float:
    """Give the seconds of processor time that a line takes, at best; no try is of a line seen before."""
    best = 9.9
    for suffix in SUFFIXES:
        chosen.patience = Patience(chosen.name)  # many slow lines would otherwise be given up sooner
        begin = time.process_time()
        chosen.find(line + suffix, 0.0)
        best = min(best, time.process_time() - begin)
        if best <= LINE_SECONDS:
            break
    return best


def test_lines_that_make_regexes_backtrack() -> None:
    """Long runs of whatever the regexes repeat, behind what lets them begin, keep every filter in its budget."""
    opened = list(filters())
    for chosen in opened:
        for line in (head + piece * LINE_MOST for head in HEADS for piece in PIECES):
            for length in (200, LINE_MOST):
                assert cost(chosen, line[:length]) < LINE_SECONDS, f"{chosen.name}: {line[:80]!r}"
    assert len(opened) > 50


def test_sample_lines_made_long() -> None:
    """Lines that a filter knows, with a piece of theirs or of what regexes repeat again and again, of many lengths."""
    known: dict[str, list[bytes]] = {}
    for record in records(find_layout()):
        known.setdefault(record.filter, []).append(record.line)
    for chosen in filters():
        chance = random.Random(chosen.name)
        for line in chance.sample(known.get(chosen.name, []), min(4, len(known.get(chosen.name, [])))):
            at = chance.randrange(len(line) + 1)
            for piece in (*chance.sample(PIECES, 3), *(b" " + word for word in chance.sample(line.split(), 2))):
                for length in LENGTHS:
                    again = piece * (length // len(piece))
                    for made in ((line[:at] + again + line[at:])[:LINE_MOST], (line[:at] + again)[:length] + b"!"):
                        assert cost(chosen, made) < LINE_SECONDS, f"{chosen.name}: {made[:120]!r}"


def test_the_published_lines() -> None:
    """The two filters known to hang fail2ban 1.0.2 do not hang on such lines, whole or cut anywhere."""
    for name, line in PUBLISHED.items():
        chosen = RegexFilter(name, read_filter(str(find_layout().filters / name)))
        for length in range(60, len(line)):
            assert cost(chosen, line[:length]) < LINE_SECONDS
            assert cost(chosen, line[:length] + b"\xff") < LINE_SECONDS
