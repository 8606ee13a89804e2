"""What an app runs in: its clocks, its store, its event log. `appguard.testing` puts others around it for a while."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

from appguard.event import Event
from appguard.stores.base import Store


@dataclass(frozen=True, slots=True)
class Around:
    """`wall` gives Unix seconds, `monotonic` seconds that never step back; None is what the settings say."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    open_store: Callable[[], Store] | None = None
    write: Callable[[Event], None] | None = None


REAL = Around()


class Surrounded(Protocol):
    """What begins anew in other surroundings."""

    def begin(self, around: Around) -> None:
        """Begin with nothing counted, in these surroundings."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


_around = [REAL]  # what everything of this process runs in
_surrounded: WeakSet[Surrounded] = WeakSet()


def begin_around(one: Surrounded) -> None:
    """Begin in the surroundings of this process, and anew whenever they change."""
    one.begin(_around[-1])
    _surrounded.add(one)


def surround(around: Around) -> None:
    """Let all of this process begin anew in other surroundings, and what is made from now on."""
    _around[:] = [around]
    for one in list(_surrounded):
        one.close()
        one.begin(around)
