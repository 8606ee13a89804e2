"""What a source offers: chunks of whole lines, in order, each with the position to continue from after a restart.

The daemon runs each source as one task on its event loop. It hands every chunk to `deliver`, a plain function that
counts the lines and saves the position in one transaction before it returns; so a source must not read on before
`deliver` has returned, must deliver each line once, and must not advance a position past a line it has not delivered.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

LINE_MOST = 8192  # bytes of a line that are looked at; the rest of a longer line is dropped


class Block(Sequence[bytes]):
    """Some whole lines in one piece, `data`, each with a line end: they are split only if somebody asks for them."""

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> "Block":
        """Make a block of lines that hold no line ends."""
        return cls(b"".join(line + b"\n" for line in lines))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._split())

    def __len__(self) -> int:
        return len(self.data) - len(self.data.replace(b"\n", b""))  # in half the time that `count` takes

    def __bool__(self) -> bool:
        return bool(self.data)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self._split()[at]

    def _split(self) -> list[bytes]:
        return self.data.split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole lines without their line ends, at most `LINE_MOST` bytes each; a `Block` of them is searched quicker.

    `times` (Unix seconds, one a line) says when they were written, where the source knows it, as the journal does.
    Without lines, the position alone is to be kept.

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
