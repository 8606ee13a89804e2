"""Limit: a rate for the requests, or for the outcomes, of one key; and what counters are asked and answer.

A limit of requests is counted when the request comes. A limit of outcomes (`count="auth_failure"`, `count=[401]`) is
asked when the request comes, refuses while it is full, and is counted when the outcome is known. Between the two an
attacker could send many guesses at once; so where a request may well be a guess it is counted at once (*reserved*) and
given back if its outcome is another one. A limit reserves all requests it meets if it names a path or methods; one
without either reserves what looks like a login, and only asks for the rest, so that the pictures of a page, fetched all
at once, are no twenty guesses. What nobody had reserved is counted afterwards.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

from appguard.errors import AppGuardError, ConfigError
from appguard.policy import Policy, policy_of
from appguard.rate import Left, Rate, parse_rate
from appguard.request import Request

KeyOf = Callable[[Request], str | None]
CostOf = Callable[[Request], int]
RateOf = Callable[[Request], str]
Question = Callable[[Request], bool]
StatusClass = Literal["1xx", "2xx", "3xx", "4xx", "5xx"]
Counted = Literal["request", "auth_failure", "auth_success"] | StatusClass

OUTCOMES = ("auth_failure", "auth_success")
API_KEY = "header:x-api-key"
_STATUS_CLASS = re.compile("[1-5]xx")
_HEADER_KEY = re.compile(r"header:[!#$%&'*+.^_`|~0-9a-z-]+", re.IGNORECASE)
# A star inside, a router's `{rest:path}` or `<name>`, or two names in one segment (slow to match on hostile paths).
_NO_PATTERN = re.compile(r"\*.|:path\}|[<>]|\}[^/]*\{", re.DOTALL)


class LimitOptions(TypedDict, total=False):
    """The options of a `Limit` beside its rate."""

    path: str
    methods: Sequence[str]
    name: str
    key: str | KeyOf
    cost: int | CostOf
    count: Counted | Sequence[int]
    burst: int
    exempt: Question | None
    dry_run: bool
    shared: str


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many requests, or outcomes, of one key per time.

    `rate`: as in the `limits` package, `"5/minute"`, `"100 per 10 minutes"`, or a function of the request that gives
    one. `path`: a pattern (a literal, `{name}` for one segment, a trailing `*`), empty for every path. `methods`: empty
    for every method; GET includes HEAD. `key`: `"address"` (IPv6 by /64), `"user"`, `"api_key"` (the header X-API-Key),
    `"header:NAME"`, or a function; a request without that key is counted by its address. `cost`: what a request counts,
    a number or a function. `count`: `"request"`, or the outcomes that count: `"auth_failure"`, `"auth_success"`, a
    class such as `"4xx"`, a list of status codes. `burst`: so many at once, then evenly at the rate (a token bucket).
    `exempt`: a function that says which requests are not counted. `dry_run`: count and log, refuse nothing. `shared`:
    a name; limits with the same one, and the same rate, count together. Functions take an `appguard.Request`.
    """

    rate: str | RateOf
    path: str = ""
    methods: Sequence[str] = ()
    name: str = ""
    key: str | KeyOf = "address"
    cost: int | CostOf = 1
    count: Counted | Sequence[int] = "request"
    burst: int = 0
    exempt: Question | None = None
    dry_run: bool = False
    shared: str = ""
    fixed: Rate | None = field(init=False, repr=False, default=None)  # None: the rate is a function's
    statuses: frozenset[int] = field(init=False, repr=False, default=frozenset())
    label: str = field(init=False, repr=False, default="")  # what names the counter beside the rate
    counts_requests: bool = field(init=False, repr=False, default=True)  # when they come, whatever becomes of them

    def __post_init__(self) -> None:
        """Check the options and fill in what follows from them; raise `ConfigError`."""
        fixed = parse_rate(self.rate, self.burst) if isinstance(self.rate, str) else None
        if self.path:
            path_pattern(self.path)
        if isinstance(self.methods, str):
            raise ConfigError(f"limit {self.rate!r}: methods must be a list such as ['POST'], not {self.methods!r}")
        key = self.key.lower() if isinstance(self.key, str) else self.key
        key = API_KEY if key == "api_key" else key
        if isinstance(key, str) and key not in ("address", "user") and not _HEADER_KEY.fullmatch(key):
            raise ConfigError(
                f"limit {self.rate!r}: key must be 'address', 'user', 'api_key', 'header:NAME' or a function, "
                f"not {self.key!r}"
            )
        if isinstance(self.cost, int) and not 1 <= self.cost <= (fixed.most if fixed else self.cost):
            raise ConfigError(f"limit {self.rate!r}: cost must be from 1 to the amount (or burst), not {self.cost}")
        object.__setattr__(self, "methods", tuple(method.upper() for method in self.methods))
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "count", self.count if isinstance(self.count, str) else tuple(self.count))
        object.__setattr__(self, "counts_requests", self.count == "request")
        object.__setattr__(self, "fixed", fixed)
        object.__setattr__(self, "statuses", _statuses(self.count))
        described = self._described()
        object.__setattr__(self, "label", self.shared or self.name or ("" if fixed else described))
        object.__setattr__(self, "name", self.name or described)

    def _described(self) -> str:
        count = ",".join(map(str, self.count)) if not isinstance(self.count, str) else self.count
        return " ".join(
            part
            for part in (
                ",".join(self.methods),
                self.path,
                self.fixed.text if self.fixed else _name_of(self.rate),
                f"per {_name_of(self.key)}" if self.key != "address" else "",
                f"of {count}" if count != "request" else "",
            )
            if part
        )

    def at(self, route: str) -> "Limit":
        """Give this limit as it stands at a route: counted apart from other routes, unless it has a name of its own."""
        name = self.name if self.name != self._described() or self.shared else f"{route}: {self.name}"
        return replace(self, path=self.path or "*", name=name)

    def counter(self, rate: Rate) -> str:
        """Give the name of the counter under a rate: another rate is another counter."""
        return f"{self.label} {rate.text}" if self.label else self.name

    def __str__(self) -> str:
        return self.name


def _statuses(count: str | Sequence[int]) -> frozenset[int]:
    if not isinstance(count, str):
        if count and all(isinstance(status, int) and 100 <= status <= 599 for status in count):
            return frozenset(count)
    elif _STATUS_CLASS.fullmatch(count):
        return frozenset(range(int(count[0]) * 100, int(count[0]) * 100 + 100))
    elif count == "request" or count in OUTCOMES:
        return frozenset()
    raise ConfigError(
        f"count must be 'request', 'auth_failure', 'auth_success', a class such as '4xx' or a list of status codes "
        f"such as [401, 404], not {count!r}"
    )


def _name_of(value: object) -> str:
    return value if isinstance(value, str) else str(getattr(value, "__name__", type(value).__name__))


@dataclass(frozen=True, slots=True)
class Hit:
    """One limit to be counted for one key, at a cost; a cost of 0 only asks.

    `is_reserved`: counted before the outcome is known, and perhaps to be given back.
    """

    key: str
    limit: Limit
    cost: int = 1
    dynamic: Rate | None = None
    is_reserved: bool = False
    rate: Rate = field(init=False, repr=False, compare=False)
    policy: Policy | None = field(init=False, repr=False, compare=False)  # what is told of it: nothing of outcomes

    def __post_init__(self) -> None:
        """Take the limit's own rate where there is no other; raise `AppGuardError`."""
        rate = self.dynamic or self.limit.fixed
        if rate is None:
            raise AppGuardError(f"limit {self.limit}: its rate depends on the request")
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "policy", policy_of(self.limit.name, rate) if self.limit.counts_requests else None)


# What clients are told of several limits: the place of the hit whose limit of requests has least left, of equals the
# first one's, and what is left of it, as `Left` says it.
Least = tuple[int, int, float]


def least_of(hits: Sequence[Hit], left: Sequence[Left]) -> Least | None:
    """Give what clients are told of hits, from what is left of each: None if all are of outcomes."""
    told = [(number, place) for place, (number, _) in enumerate(left) if hits[place].policy is not None]
    if not told:
        return None
    number, place = min(told)
    return place, number, left[place][1]


@dataclass(slots=True)
class Verdict:
    """What counters say of a request: admitted (`refused` None), or refused by a limit for `wait` seconds.

    `time`, by the counters' own clock, is what they need to take a reserved request back. `least` is what is left of
    an admitted request's limits: None where nobody can tell, or all are of outcomes. `is_known` is False of a refusal
    because counters could not be asked: it says nothing of the client.

    It is not frozen, so that `admitted` can fill it in; nobody changes it afterwards (`ADMITTED` is everybody's).
    """

    refused: Hit | None = None
    wait: float = 0.0
    time: float = 0.0
    least: Least | None = None
    is_known: bool = True


ADMITTED = Verdict()
CLOSED_WAIT = 1.0  # seconds a client is told to wait while counters cannot be asked
_new = object.__new__


def admitted(time: float, least: Least | None) -> Verdict:
    """Make the verdict on an admitted request, in less time than calling its class takes.

    Where a call is too much, on the quick way of `LocalCounters.check`, the same lines stand again.
    """
    verdict = _new(Verdict)
    verdict.refused = None
    verdict.wait = 0.0
    verdict.time = time
    verdict.least = least
    verdict.is_known = True
    return verdict


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
    """Collapse repeated slashes and drop trailing ones, so that `//login/` is `/login`.

    Trailing newlines (`/login%0A`) are dropped too: to routers whose regexes end with `$` the path is the same without.
    """
    while "//" in path:
        path = path.replace("//", "/")
    return path.rstrip("/\n") or ("/" if path.startswith("/") else "")
