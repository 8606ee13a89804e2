"""What a store offers: `Counters` for limits and a `BanSet`.

Counters are asked on the request path: by any thread of a WSGI server through `check`, on the event loop through
`check_async`; both must be quick (no network in `memory` and `local`) and may be called at any rate. A ban set is read
on the request path through `get` from any thread; it is changed by the daemon, the CLI, or an app without a daemon.
All times are Unix seconds.
"""

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from appguard.address import Address, Network
from appguard.ban import Ban, Fact
from appguard.limit import Hit, Least, Verdict

BUDGET = 0.04  # seconds that counters outside this host are waited for; with the rest of a request it stays below 60 ms


class Counters(Protocol):
    """Counts hits against limits, all or nothing: if one limit refuses, none is counted.

    Whoever remembers refusals forgets them when `resets` changes. `is_immediate`: `check` asks nobody outside this
    host, so that an event loop may call it.
    """

    is_immediate: bool

    @property
    def resets(self) -> int:
        """Give a number that changes when something was reset."""
        ...

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Count one request under every hit, or say which limit refuses it and for how long.

        A hit at a cost of 0 only asks. If the last hit is reserved the verdict says when. Whoever is
        asked outside this host is waited for at most so many `seconds`, if any.
        """
        ...

    async def check_async(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Do what `check` does without blocking the event loop."""
        ...

    def give_back(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Take reserved hits out again; `time` is what the verdict said. What is left is never too little."""
        ...

    async def give_back_async(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do what `give_back` does without blocking the event loop."""
        ...

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key, under every limit."""
        ...

    def close(self) -> None:
        """Close what is open. May be repeated; the next use opens it again."""
        ...

    async def close_async(self) -> None:
        """Do what `close` does, and close what belongs to the running event loop."""
        ...


class Asker(Protocol):
    """A request that asks counters about its hits, and says of each verdict whether with it all is decided.

    A verdict that makes it raise is taken for a failure of the counters.
    """

    hits: Sequence[Hit]

    def hear(self, verdict: Verdict) -> bool:
        """Take the verdict."""
        ...

    def admit(self, time: float, least: Least | None) -> bool:
        """Take a verdict that admits, given as its parts: most do, and need not be made."""
        ...


@runtime_checkable
class Asking(Protocol):
    """Counters that answer many requests of an event loop at once."""

    def ask(self, asker: Asker) -> "Future[bool] | None":
        """Do what `check_async` does, and let the asker hear the verdict where it arrives; give what it says of it.

        Verdicts arrive many at once: what askers do with them there needs no coroutine. Only the usual question is
        asked so, one that was asked before while all is well. If it is not asked (None), or the asker has heard nothing
        although what was asked gave False, nothing was counted, and `check_async` is to be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All bans in force and the cursor from which `follow` continues."""

    cursor: int
    bans: tuple[Ban, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """The facts after a cursor, oldest first, and the cursor after them."""

    cursor: int
    facts: tuple[Fact, ...]


class Followed(Protocol):
    """What tells which bans there are, and then what changes."""

    def snapshot(self) -> Snapshot:
        """Give all bans in force."""
        ...

    def follow(self, cursor: int) -> Changes | None:
        """Give what changed since the cursor; None if that history is gone and a snapshot is needed."""
        ...


class BanSet(Followed, Protocol):
    """The shared truth about bans."""

    @property
    def lifts(self) -> int:
        """Give a number that changes when a ban was lifted."""
        ...

    def ban(self, ban: Ban) -> Ban | None:
        """Put a ban in force; give it as kept (with start and version), or None if one in force already outlasts it.

        May be repeated. Raises `StoreError` if this process may not ban.
        """
        ...

    def unban(self, network: Network, ports: str = "") -> Ban | None:
        """Lift the ban of exactly this network and these ports, as a canonical text; empty is the ban of all ports.

        Give the ban lifted, None if there was none. May be repeated.
        """
        ...

    def get(self, address: Address) -> Ban | None:
        """Give the ban in force that shuts the address out of what the web serves: of all ports, or of 80 or 443.

        Never blocks, never raises.
        """
        ...


class Closing(Protocol):
    """What is closed when a `with` block ends. Members inherit it."""

    def close(self) -> None:
        """Close what is open."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Store(Counters, BanSet, Closing, Protocol):
    """A place that offers both. Constructing one opens nothing; what it opens, `close` closes."""

    name: str
