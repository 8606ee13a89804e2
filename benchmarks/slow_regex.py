"""How long does a user's catastrophic regex keep everybody else waiting?

A log gets many lines at once that are made to be slow: as one that was read to its end, and behind a backlog of lines
that are quick. What others wait for is the longest turn of its source, in processor time: from a chunk of lines to what
the jail decides. Ends with an error if that is more than 50 ms.
"""

import json
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from appguard.address import Grouping, NetworkSet
from appguard.config_jails import read_jail
from appguard.jail_window import JailWindow
from appguard.members import filter_of
from appguard.pipeline import Pipeline, Route
from appguard.sources.base import Block, Chunk
from appguard.sources.file import FileSource
from tests.integration.reading import DEADLINE, Kept, running
from tests.lab import wait_until

RESULT = Path(__file__).parent / "results/slow_regex.json"
WAIT_MOST = 0.05  # seconds
BYTES = 1 << 20  # of slow lines
Settings = dict[str, str]


def _regex(text: str) -> Settings:
    return {"filter": "regex", "failregex": text}


SLOW = {
    "exponential": (_regex(r"^(?:x|x|xx)*y from <HOST>$"), b"x" * 100 + b"!y from 192.0.2.66"),
    "exponential, short lines": (_regex(r"^(?:x|x|xx)*y from <HOST>$"), b"x" * 30 + b"!y from 192.0.2.66"),
    "words": (_regex(r"^(\w+\s?)*: from <HOST>$"), b"a" * 40 + b"! : from 192.0.2.66"),
    "quadratic": (_regex(r"^.*=.*<HOST>$"), b"=" * 600 + b"!"),
    "cubic": (_regex(r"^.*=.*=.*<HOST>$"), b"=" * 100 + b"!"),
    "our own, the most of its lines": (
        {"filter": "sshd"},
        b"Nov 20 09:00:00 h sshd[1]: banner exchange: Connection from 203.0.113.5 port 57978: invalid format",
    ),
}  # a filter, and a line that it takes long for


class Turns(Kept):
    """Counts the lines of a log in one jail, and keeps the processor time that each chunk took."""

    def __init__(self, log: Path, settings: Settings) -> None:
        super().__init__()
        config = read_jail("slow", {"source": str(log), **settings}, "benchmark")
        route = Route(filter_of(config), JailWindow(config.jail, Grouping()))
        self.pipeline = Pipeline({"log": [route]}, NetworkSet())
        self.took: list[float] = []

    def deliver(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = time.thread_time()
        self.pipeline.feed("log", chunk, time.time())
        self.took.append(time.thread_time() - began)


def longest_turn(log: Path, settings: Settings, backlog: bytes, slow: bytes) -> float:
    """Give the most processor time that a chunk of a log took which is begun with and then written to."""
    turns = Turns(log, settings)
    log.write_bytes(backlog or b"begun\n")
    with running(FileSource("log", [str(log)], {}, may_be_slow=turns.pipeline.may_be_slow("log")), turns):
        wait_until(lambda: turns.pipeline.lines > 0, DEADLINE, lambda: "nothing is read")
        with log.open("ab") as writer:
            writer.write(slow)
        lines = log.read_bytes().count(b"\n")
        wait_until(lambda: turns.pipeline.lines >= lines, DEADLINE, lambda: f"{turns.pipeline.lines} of {lines}")
    return max(turns.took)


def main() -> None:
    """Measure all regexes."""
    logging.getLogger("appguard").setLevel(logging.ERROR)  # that lines are skipped is what is looked for
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as directory:
        for name, (settings, line) in SLOW.items():
            slow = Block.of(line[:-1] + b"%d" % number for number in range(BYTES // len(line))).data
            quick = b"a line that is none of these\n" * (4 * BYTES // 29)
            log = Path(directory) / name
            waits = [longest_turn(log, settings, backlog, slow) for backlog in (b"", quick)]
            found[name] = dict(zip(("read to its end", "behind a backlog"), waits, strict=True))
            print(f"{name:<32}" + "".join(f"{what}: {1000 * wait:>6.1f} ms   " for what, wait in found[name].items()))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"seconds": found}, indent=2) + "\n")
    assert max(wait for waits in found.values() for wait in waits.values()) <= WAIT_MOST


if __name__ == "__main__":
    main()
