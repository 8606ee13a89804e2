"""The time by which what has ended is dropped for good: one that has surely come, whatever the wall clock was set to.

Theory of operation. Bans end by the wall clock, and somebody may set it ahead by mistake. What has ended by it counts
no more, but is kept until it has ended by this time too: then it counts again when the clock is set back. This time is
that of the wall clock as long as nobody sets it. When it is set ahead, this time goes on as before, and takes it for
true when it has stayed for a day. When it is set back, this time goes back with it. A ban that began after the clock
was set lasts by it as long as it should, and is not kept: else who floods this host with short bans would fill it. When
the clock is set back to what it should be, such a ban begins anew and is as long. One made before ends when it would
have, as the clock may be what is wrong now; so does one that begins in no time to come by it.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from appguard.ban import Ban

DOUBTED = 86_400.0  # seconds
SET_LEAST = 1.0  # seconds by which a clock that was set is another


def uptime() -> float:
    """Give seconds that nobody sets, and that go on while this host sleeps where it can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SureTime:
    """`clock` gives Unix seconds, and may be set; `steady` gives seconds since any time, which nobody sets.

    With one clock for both it is the time of that.
    """

    def __init__(self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = uptime) -> None:
        self._clock = clock
        self._steady = steady
        self._since = steady()  # when it began to doubt
        self._seen = self._believed = clock() - self._since  # by how much the clock leads the steady one
        self._is_set_back = False
        self._set_back_at = inf  # the time that had surely come then, or the clock's if that is later

    def now(self) -> float:
        """Give the time that has surely come, Unix seconds; never later than the wall clock's."""
        return self._look() + min(self._believed, self._seen)

    @property
    def is_in_doubt(self) -> bool:
        """Say whether the wall clock is ahead of the time that has surely come."""
        self._look()
        return self._believed < self._seen

    def set_at(self) -> float:
        """Give the wall clock's time since which nobody is known to have set it."""
        return self._clock() - (self._look() - self._since)

    def has_ended(self, ban: Ban) -> bool:
        """Say whether a ban has ended for good."""
        if ban.in_force(self._clock()):
            return False
        return not ban.in_force(self.now()) or ban.start > self.set_at()

    def righted(self, ban: Ban) -> Ban:
        """Give a ban that begins when the clock was set back last, and is as long, for one made while it was ahead."""
        early = ban.start - self._set_back_at
        if early <= SET_LEAST:
            return ban
        return replace(ban, start=self._set_back_at, end=None if ban.end is None else ban.end - early)

    def was_set_back(self) -> bool:
        """Say whether the clock was set back since that was last asked."""
        self._look()
        found, self._is_set_back = self._is_set_back, False
        return found

    def resume(self, saved: float) -> None:
        """Go on from the time that an earlier process gave, as nobody knows how long ago that was; a day at most."""
        believed = max(saved, self._clock() - DOUBTED) - self._look()
        if believed < self._believed:
            self._doubt(believed)

    def shift(self, seconds: float) -> None:
        """Move with the ends of bans, when these are moved."""
        self._look()
        self._doubt(self._believed + seconds)

    def _doubt(self, believed: float) -> None:
        self._believed, self._since = believed, self._steady()

    def _look(self) -> float:
        steady = self._steady()
        seen = self._clock() - steady
        if abs(seen - self._seen) > SET_LEAST:
            self._since = steady
            if seen < self._seen:
                self._is_set_back, self._set_back_at = True, steady + max(min(self._believed, self._seen), seen)
        self._seen = seen
        if seen < self._believed + SET_LEAST or steady >= self._since + DOUBTED:
            self._believed = seen
        return steady
