"""Counters in any storage of the `limits` package: memcached, MongoDB, Valkey and what else it knows by a URI.

What a store of our own does and this cannot: a request under several limits is asked about first and then counted, in
a call per limit, so requests at the same time may together get a little more than an amount; and nothing can be given
back, so limits of outcomes reserve nothing. Keys are hashes, because memcached takes neither spaces nor long ones.

The storages block, and how long differs; so they are asked on threads of their own, and a decision waits for them at
most `BUDGET`. After a few failures a breaker keeps everybody from asking, as with Redis, and `on_store_error` holds.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from math import inf
from threading import Lock
from urllib.parse import parse_qsl, urlencode, urlsplit

from limits import RateLimitItem, parse
from limits.storage import SCHEMES, storage_from_string  # type: ignore[attr-defined]  # not in its `__all__`
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from appguard.errors import ConfigError
from appguard.fork import in_every_child
from appguard.limit import ADMITTED, CLOSED_WAIT, Hit, Verdict, least_of
from appguard.rate import Left
from appguard.stores.base import BUDGET
from appguard.stores.breaker import Breaker
from appguard.stores.memory_counters import MemoryCounters
from appguard.stores.redis_advice import said_by
from appguard.stores.waiting import answer_of

THREADS = 8
COUNTERS_MOST = 1_000  # counters of limits that a reset knows
STRATEGIES: dict[str, type[RateLimiter]] = {
    "sliding-window-counter": SlidingWindowCounterRateLimiter,
    "moving-window": MovingWindowRateLimiter,
    "fixed-window": FixedWindowRateLimiter,
}
DEFAULT_STRATEGY = "sliding-window-counter"
_MILLISECONDS = int(1000 * BUDGET)
_REDIS = {"socket_timeout": BUDGET, "socket_connect_timeout": BUDGET}
TIMEOUTS: dict[str, dict[str, float]] = {
    "memcached": {"timeout": BUDGET, "connect_timeout": BUDGET},
    "mongodb": {"serverSelectionTimeoutMS": _MILLISECONDS, "socketTimeoutMS": _MILLISECONDS},
    "redis": _REDIS,
    "rediss": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
}

_TORN = re.compile(r"^[^@\[]*:[0-9]*[^0-9@,][^@]*$")  # a password of which a part was taken for a path
_item = lru_cache(maxsize=1024)(parse)


def parse_uri(uri: str) -> tuple[str, str]:
    """Give the URI without `strategy`, and the strategy; raise `ConfigError`."""
    parts = urlsplit(uri)
    query = parse_qsl(parts.query, keep_blank_values=True)
    strategy = dict(query).get("strategy", DEFAULT_STRATEGY)
    if parts.scheme not in SCHEMES or parts.scheme.startswith("async+"):
        known = ", ".join(sorted(f"{scheme}://" for scheme in SCHEMES if not scheme.startswith("async+")))
        raise ConfigError(f"counters: no storage of the limits package is called {parts.scheme!r}: it has {known}")
    if strategy not in STRATEGIES:
        raise ConfigError(f"counters: strategy={strategy}: expected one of {', '.join(STRATEGIES)}")
    if "@" in uri and _TORN.search(parts.netloc):
        raise ConfigError(
            "counters: what follows user and colon is no port; in a password / is written %2F, ? %3F, # %23"
        )
    rest = urlencode([(name, value) for name, value in query if name != "strategy"])
    return (parts._replace(query=rest).geturl() if query else uri), strategy


class LimitsCounters:
    """Counters of one app in a storage of `limits`. Constructing opens nothing; raise `ConfigError` for a wrong URI."""

    is_immediate = False

    def __init__(
        self, uri: str, app: str, on_store_error: str = "local", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._uri, self._strategy = parse_uri(uri)
        self._app = app
        self._on_store_error = on_store_error
        self._local = MemoryCounters(monotonic)
        self._breaker = Breaker(f"{urlsplit(uri).scheme}:// of the limits package", on_store_error, monotonic, said_by)
        self._names: dict[str, RateLimitItem] = {}
        self.resets = 0
        self._renew()
        in_every_child(self, LimitsCounters._renew)

    def _renew(self) -> None:
        """Begin anew in a forked child, which has neither its parent's threads nor connections of its own."""
        self._threads: ThreadPoolExecutor | None = None
        self._limiter: RateLimiter | None = None
        self._opening = Lock()
        self._connecting = Lock()

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Count one request under every hit, or say which limit refuses it the longest."""
        if seconds <= 0.0 or not hits or not self._breaker.may_ask():
            return self._without_storage(hits)
        try:
            asked = self._submit(hits)
            try:
                verdict = asked.result(min(seconds, BUDGET))
            finally:
                asked.cancel()  # if it has not begun
        except Exception as error:  # noqa: BLE001 - storages raise what their drivers raise
            return self._failed(error, hits, seconds)
        self._breaker.worked()
        return verdict

    async def check_async(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Do what `check` does without blocking the event loop."""
        if seconds <= 0.0 or not hits or not self._breaker.may_ask():
            return self._without_storage(hits)
        try:
            verdict = await answer_of(asyncio.wrap_future(self._submit(hits)), min(seconds, BUDGET))
        except Exception as error:  # noqa: BLE001 - storages raise what their drivers raise
            return self._failed(error, hits, seconds)
        self._breaker.worked()
        return verdict

    def give_back(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do nothing: nothing is reserved here."""

    async def give_back_async(self, hits: Sequence[Hit], time: float, seconds: float = inf) -> None:
        """Do nothing: nothing is reserved here."""

    def reset(self, key: str) -> None:
        """Forget all that is counted for a client's key. Raise the storage's error if it does not answer."""
        self._local.reset(key)
        self.resets += 1
        limiter = self._open()
        for name, item in tuple(self._names.items()):
            limiter.clear(item, self._identifier(f"{key} {name}"))

    def close(self) -> None:
        """End the threads; the next use starts them again."""
        with self._opening:
            threads, self._threads, self._limiter = self._threads, None, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def close_async(self) -> None:
        """Do what `close` does."""
        self.close()

    def _submit(self, hits: Sequence[Hit]) -> Future[Verdict]:
        with self._opening:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "appguard-counters")
            return self._threads.submit(self._count, hits)

    def _open(self) -> RateLimiter:
        """Give the limiter; the first use connects, which is why it is on a thread, and once, though many come."""
        with self._connecting:
            limiter = self._limiter
            if limiter is None:
                timeouts = TIMEOUTS.get(urlsplit(self._uri).scheme.partition("+")[0], {})
                storage = storage_from_string(self._uri, **timeouts)
                limiter = self._limiter = STRATEGIES[self._strategy](storage)
            return limiter

    def _count(self, hits: Sequence[Hit]) -> Verdict:
        limiter = self._open()
        known = [(hit, _item(hit.rate.text), self._identifier(hit.key)) for hit in hits]
        verdict = ADMITTED
        for hit, item, identifier in known:
            if len(self._names) < COUNTERS_MOST:
                self._names[hit.key.partition(" ")[2]] = item
            if not limiter.test(item, identifier, cost=hit.cost or 1):
                wait = _wait(limiter, item, identifier)
                verdict = max(verdict, Verdict(hit, wait), key=lambda verdict: verdict.wait)
        if verdict.refused is not None:
            return verdict
        left: list[Left] = []
        for hit, item, identifier in known:
            if hit.cost and not limiter.hit(item, identifier, cost=hit.cost):
                return Verdict(hit, _wait(limiter, item, identifier))
            left.append(_left(limiter, item, identifier))
        return Verdict(least=least_of(hits, left))

    def _identifier(self, key: str) -> str:
        data = f"{self._app}\0{key}".encode(errors="surrogatepass")
        return blake2b(data, digest_size=20).hexdigest()

    def _failed(self, error: Exception, hits: Sequence[Hit], seconds: float) -> Verdict:
        if seconds >= BUDGET or not isinstance(error, TimeoutError):  # little time left says nothing of the storage
            self._breaker.failed(error)
        return self._without_storage(hits)

    def _without_storage(self, hits: Sequence[Hit]) -> Verdict:
        if self._on_store_error == "local" or not hits:
            return self._local.check(hits)
        return ADMITTED if self._on_store_error == "open" else Verdict(hits[0], CLOSED_WAIT, is_known=False)


def _left(limiter: RateLimiter, item: RateLimitItem, identifier: str) -> Left:
    """Give what is left, and the seconds until the strategy counts anew."""
    stats = limiter.get_window_stats(item, identifier)
    return max(0, stats.remaining), max(0.0, stats.reset_time - time.time())


def _wait(limiter: RateLimiter, item: RateLimitItem, identifier: str) -> float:
    return max(0.001, limiter.get_window_stats(item, identifier).reset_time - time.time())
