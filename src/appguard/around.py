"""What an app runs in: its clocks, its store, its event log. `appguard.testing` puts others around it for a while."""

import time
from collections.abc import Callable
from dataclasses import dataclass

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
