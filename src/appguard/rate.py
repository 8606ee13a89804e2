"""Rate: an amount per time, and the two pure algorithms that count one key under it.

Theory of operation of the sliding window. Each key has a short list of runs: (time of the run's last request, number
of requests). A request joins the newest run while that run is younger than a tenth of the window, else it opens a new
one; so there are at most eleven runs whatever the amount. A run leaves when its *last* request is one window old. So
in no window of that length, wherever it begins, are more requests admitted than the amount, a burst is given back
exactly one window after it ended, and a steady flow loses at most a tenth of what a log of every request would let
in. Refused requests are not counted: a client that keeps knocking is let in again when its window has passed.

The token bucket (with `burst`; known as GCRA) holds `burst` tokens and gets `amount` back per window, evenly. Its whole
state is the time at which it is full again: every token taken puts that off by `window / amount`.

A request counted before its outcome is known may be given back. What is left is then never less than if it had not
been counted: the window takes it out of the run it joined, which may leave a little later for it; the bucket gives back
what it has not refilled since, because it may have been full all the while.

A cost of 0 only asks: it is refused where a cost of 1 would be, and counts nothing.

What is left is told as a number and the seconds until there is more: until the oldest run that holds a request leaves,
or until the next whole token is back; 0 seconds if nothing is used.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import inf

from limits import parse_many

from appguard.errors import ConfigError

Left = tuple[int, float]  # what may still be had at once, and in how many seconds there is more

RUNS_PER_WINDOW = 10
TOLERANCE = 1e-6  # seconds a bucket's token may come early: sums of floats are not exact


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `amount` per `window` seconds; with `burst`, that many at once and then evenly `amount` per window."""

    text: str
    amount: int
    window: float
    burst: int = 0

    @property
    def most(self) -> int:
        """Give the largest cost that is ever admitted at once."""
        return self.burst or self.amount

    def counter(self) -> "SlidingWindow | TokenBucket":
        """Make the counter of a new key."""
        return TokenBucket(self) if self.burst else SlidingWindow(self)


@lru_cache(maxsize=1024)
def parse_rate(text: str, burst: int = 0) -> Rate:
    """Read one rate in the notation of `limits`; raise `ConfigError`."""
    wrong = ConfigError(f"limit {text!r}: expected one rate such as '5/minute' or '100 per 10 minutes'")
    try:
        (item,) = parse_many(text)
        amount, window = item.amount, float(item.get_expiry())
    except (ValueError, OverflowError) as error:
        raise wrong from error
    if amount < 1:
        raise wrong
    if burst < 0:
        raise ConfigError(f"limit {text!r}: burst must be a whole number of at least 1, not {burst}")
    return Rate(f"{text} burst {burst}" if burst else text, amount, window, burst)


class SlidingWindow:
    """The requests of one key under one rate; see the module's theory of operation.

    The newest run is kept apart from the older ones: most requests change it alone. Until `_until` it is open, and no
    older one leaves.
    """

    __slots__ = ("_amount", "_last", "_number", "_older", "_opened", "_total", "_until", "_window")

    def __init__(self, rate: Rate) -> None:
        self._amount = rate.amount
        self._window = rate.window
        self._older: list[tuple[float, int]] = []  # the oldest first
        self._last = self._opened = self._until = -inf
        self._number = 0
        self._total = 0

    def _runs(self) -> list[tuple[float, int]]:
        return [*self._older, (self._last, self._number)]

    def _drop(self, now: float) -> None:
        """Drop the runs that have left."""
        older, window = self._older, self._window
        while older and older[0][0] + window <= now:
            self._total -= older.pop(0)[1]
        if self._last + window <= now:
            self._total -= self._number
            self._number = 0

    def wait(self, now: float, cost: int = 1) -> float:
        """Give the seconds until a request of this cost is admitted; 0 if it is now."""
        asked = cost or 1
        if self._total + asked <= self._amount:  # even with the runs that have left
            return 0.0
        self._drop(now)
        over = self._total + asked - self._amount
        if over <= 0:
            return 0.0
        for last, number in self._runs():
            over -= number
            if over <= 0:
                return last + self._window - now
        return self._window  # more than the whole amount: never

    def take(self, now: float, cost: int = 1) -> Left | None:
        """Count one request and give what is left, None if it has to wait; in one call, as most requests are."""
        total = self._total + cost
        if now >= self._until or total > self._amount or not cost:
            return take(self, now, cost)
        self._total = total
        self._number += cost
        if now > self._last:
            self._last = now
        oldest = self._older[0][0] if self._older else self._last
        return self._amount - total, oldest + self._window - now

    def add(self, now: float, cost: int = 1) -> None:
        """Count one request."""
        if now - self._opened < self._window / RUNS_PER_WINDOW:
            self._last = max(self._last, now)
            self._number += cost
        else:
            self._drop(now)
            if self._number:
                self._older.append((self._last, self._number))
            self._last = self._opened = now
            self._number = cost
        self._total += cost
        self._until = self._opened + self._window / RUNS_PER_WINDOW
        if self._older:
            self._until = min(self._until, self._older[0][0] + self._window) if self._older[0][1] else -inf

    def left(self, now: float) -> Left:
        """Give what is left."""
        self._drop(now)
        for last, number in self._runs():
            if number:
                return self._amount - self._total, last + self._window - now
        return self._amount, 0.0

    def give_back(self, at: float, now: float, cost: int) -> None:
        """Take out a request that was counted at `at`."""
        if now - at >= self._window:
            return  # its run may be gone, and a later one must not pay for it
        self._until = -inf
        for place, (last, number) in enumerate(self._runs()):
            if last >= at:
                cost = min(cost, number)
                self._total -= cost
                if place < len(self._older):
                    self._older[place] = (last, number - cost)
                else:
                    self._number -= cost
                return


class TokenBucket:
    """The tokens of one key under one rate with a burst; see the module's theory of operation."""

    __slots__ = ("_burst", "_full_at", "_interval", "_window")

    def __init__(self, rate: Rate) -> None:
        self._window = rate.window
        self._interval = rate.window / rate.amount
        self._burst = rate.burst
        self._full_at = 0.0

    def wait(self, now: float, cost: int = 1) -> float:
        """Give the seconds until a request of this cost is admitted; 0 if it is now."""
        if cost > self._burst:
            return self._window  # never
        wait = max(self._full_at - now, 0.0) - (self._burst - (cost or 1)) * self._interval
        return wait if wait > TOLERANCE else 0.0

    def take(self, now: float, cost: int = 1) -> Left | None:
        """Count one request and give what is left, None if it has to wait."""
        return take(self, now, cost)

    def add(self, now: float, cost: int = 1) -> None:
        """Count one request."""
        self._full_at = max(self._full_at, now) + cost * self._interval

    def left(self, now: float) -> Left:
        """Give what is left."""
        return tokens_left(self._full_at - now, self._burst, self._interval)

    def give_back(self, at: float, now: float, cost: int) -> None:
        """Put back what the tokens taken at `at` have not been refilled since."""
        self._full_at -= max(0.0, cost * self._interval - (now - at))


def take(counter: SlidingWindow | TokenBucket, now: float, cost: int) -> Left | None:
    """Count one request and give what is left, None if it has to wait."""
    if counter.wait(now, cost) > 0.0:
        return None
    if cost:
        counter.add(now, cost)
    return counter.left(now)


def tokens_left(full_in: float, burst: int, interval: float) -> Left:
    """Give what is left in a bucket that is full in so many seconds and gets a token back in each interval."""
    if full_in <= TOLERANCE:
        return burst, 0.0
    left = max(0, int(burst - (full_in - TOLERANCE) / interval))
    return left, full_in - (burst - left - 1) * interval
