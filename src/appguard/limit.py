"""Limit: a rate for the requests of one client, and the pure algorithm that counts them.

Theory of operation of the sliding window. Each key has a short list of runs: (time of the run's last request, number
of requests). A request joins the newest run while that run is younger than a tenth of the window, else it opens a new
one; so there are at most eleven runs whatever the amount. A run leaves when its *last* request is one window old. So
in no window of that length, wherever it begins, are more requests admitted than the amount, a burst is given back
exactly one window after it ended, and a steady flow loses at most a tenth of what a log of every request would let
in. Refused requests are not counted: a client that keeps knocking is let in again when its window has passed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from limits import parse_many

from appguard.errors import ConfigError

RUNS_PER_WINDOW = 10
# A star inside, a router's `{rest:path}` or `<name>`, or two names in one segment (slow to match on hostile paths).
_NO_PATTERN = re.compile(r"\*.|:path\}|[<>]|\}[^/]*\{", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` requests per `window` seconds from one client.

    Written as in the `limits` package: `Limit("5/minute")`, `Limit("100 per 10 minutes")`. `path` is a pattern
    (a literal, `{name}` for one segment, a trailing `*`), empty for every path; `methods` empty for every method.
    """

    rate: str
    path: str = ""
    methods: Sequence[str] = ()
    name: str = ""
    amount: int = 0
    window: float = 0.0

    def __post_init__(self) -> None:
        """Check the notation and fill in what follows from it; raise `ConfigError`."""
        amount, window = parse_rate(self.rate)
        if self.path:
            path_pattern(self.path)
        if isinstance(self.methods, str):
            raise ConfigError(f"limit {self.rate!r}: methods must be a list such as ['POST'], not {self.methods!r}")
        methods = tuple(method.upper() for method in self.methods)
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "amount", amount)
        object.__setattr__(self, "window", window)
        object.__setattr__(
            self,
            "name",
            self.name or " ".join(part for part in (",".join(methods), self.path, self.rate) if part),
        )

    def __str__(self) -> str:
        return self.name


def parse_rate(rate: str) -> tuple[int, float]:
    """Read the amount and the seconds of one rate; raise `ConfigError`."""
    wrong = ConfigError(f"limit {rate!r}: expected one rate such as '5/minute' or '100 per 10 minutes'")
    try:
        (item,) = parse_many(rate)
        amount, window = item.amount, float(item.get_expiry())
    except (ValueError, OverflowError) as error:
        raise wrong from error
    if amount < 1:
        raise wrong
    return amount, window


@dataclass(frozen=True, slots=True)
class Hit:
    """One limit to be counted for one key."""

    key: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What counters say of a request: admitted (`refused` None), or refused by a limit for `wait` seconds."""

    refused: Hit | None = None
    wait: float = 0.0


ADMITTED = Verdict()


class SlidingWindow:
    """The requests of one key under one limit; see the module's theory of operation."""

    __slots__ = ("_opened", "_runs", "_total", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._runs: list[tuple[float, int]] = []
        self._opened = 0.0
        self._total = 0

    def wait(self, now: float) -> float:
        """Give the seconds until one more request is admitted; 0 if it is now."""
        runs, window = self._runs, self.limit.window
        while runs and runs[0][0] + window <= now:
            self._total -= runs.pop(0)[1]
        if self._total < self.limit.amount:
            return 0.0
        return runs[0][0] + window - now

    def add(self, now: float) -> None:
        """Count one request."""
        runs = self._runs
        if runs and now - self._opened < self.limit.window / RUNS_PER_WINDOW:
            runs[-1] = (max(now, runs[-1][0]), runs[-1][1] + 1)
        else:
            runs.append((now, 1))
            self._opened = now
        self._total += 1


def path_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a limit's path to match what `normal_path` gives: `{name}` is one segment, a trailing `*` any rest.

    Raise `ConfigError` for a pattern that would not match what it seems to.
    """
    if _NO_PATTERN.search(pattern) or (not pattern.startswith("/") and pattern != "*"):
        raise ConfigError(f"path {pattern!r}: expected '/...', with '{{name}}' for a segment and '*' only at the end")
    literal, star = pattern.removesuffix("*"), pattern.endswith("*")
    rest = ("(?:/.*)?" if literal.endswith("/") else ".*") if star else ""
    parts = re.split(r"(\{[^/{}]*\})", normal_path(literal).removesuffix("/") if star else normal_path(literal))
    body = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts)
    return re.compile(body + rest, re.DOTALL)


def normal_path(path: str) -> str:
    """Collapse repeated slashes and drop one trailing slash, so that `//login/` is `/login`."""
    while "//" in path:
        path = path.replace("//", "/")
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
