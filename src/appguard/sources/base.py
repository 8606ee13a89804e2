"""What a source offers: chunks of whole lines, in order, each with the position to continue from after a restart.

The daemon runs each source as one task on its event loop. It hands every chunk to `deliver`, a plain function that
counts the lines and saves the position in one transaction before it returns; so a source must not read on before
`deliver` has returned, must deliver each line once, and must not advance a position past a line it has not delivered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

LINE_MOST = 8192  # bytes of a line that are looked at; the rest of a longer line is dropped


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole lines without their line ends, at most `LINE_MOST` bytes each.

    `times` (Unix seconds, one a line) says when they were written, where the source knows it, as the journal does.

    `origin` is what status shows (a path). `position` is a text only the source understands: given back to it after a
    restart, it continues right behind these lines; None where nothing can be read again (a socket). `uid` is the
    sender's user id where the kernel vouches for it.
    """

    origin: str
    lines: Sequence[bytes]
    position: str | None = None
    uid: int | None = None
    times: Sequence[float] | None = None


Deliver = Callable[[Chunk], None]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a source says of itself: the files or sockets it reads, how far it is behind, and its complaint.

    `behind` are the bytes that wait, `lag` the seconds since nothing waited, `dropped` the messages that the kernel
    threw away because they came faster than they were read.
    """

    origins: tuple[str, ...]
    behind: int = 0
    complaint: str = ""
    lag: float = 0.0
    dropped: int = 0


class Lag:
    """The seconds since a source last had read all there was. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._up_to_date_at = clock()

    def caught_up(self) -> None:
        """Note that nothing waits."""
        self._up_to_date_at = self._clock()

    def seconds(self, behind: int) -> float:
        """Give the lag of a source that is this many bytes behind."""
        return self._clock() - self._up_to_date_at if behind else 0.0


class Source(Protocol):
    """One place that lines come from."""

    name: str

    async def run(self, deliver: Deliver) -> None:
        """Deliver chunks until cancelled. A file that is missing or unreadable is a complaint, not an end."""
        ...

    def status(self) -> SourceStatus:
        """Say what is being read and how far behind it is. Called at any time from the event loop."""
        ...
