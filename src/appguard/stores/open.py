"""Opens a store by its URI; the only place that names the members of the family for the apps' side."""

import re
from collections.abc import Sequence
from pathlib import Path

from appguard.config import RUNTIME_DIRECTORY
from appguard.errors import ConfigError
from appguard.limit import Limit
from appguard.stores.base import Counters, Store
from appguard.stores.limits_counters import STRATEGIES, LimitsCounters, parse_uri
from appguard.stores.memory import MemoryStore

REDIS = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


def default_uri() -> str:
    """Give `local://` where a daemon's directory is, else `memory://`."""
    return "local://" if RUNTIME_DIRECTORY.is_dir() else "memory://"


def open_store(uri: str = "", *, app: str = "app", on_store_error: str = "local") -> Store:
    """Give the store of a URI; raise `ConfigError`.

    `memory://`, `local://` or `local:///path/of/the/daemon`, `redis://` and its kin (see `redis_uri`). In a store that
    others share, limits are counted per `app`; `on_store_error` says what to do about limits while it does not answer.
    """
    uri = uri or default_uri()
    if uri == "memory://":
        return MemoryStore()
    scheme, _, path = uri.partition("://")
    if uri == "local://" or (scheme == "local" and path.startswith("/")):
        from appguard.stores.local import LocalStore  # not every system has all it needs

        return LocalStore(Path(path) if path else RUNTIME_DIRECTORY, app=app)
    if scheme in REDIS:
        from appguard.stores.redis import RedisStore  # redis is imported only where it is used

        return RedisStore(uri, app, on_store_error)
    raise ConfigError(f"store = {without_password(uri)!r}: expected 'memory://', 'local://' or 'redis://host:6379/0'")


def without_password(uri: str) -> str:
    """Give a URI that is not understood without what may be a password."""
    return re.sub("^([^:/@]*:?/*).*@", r"\1...@", uri, flags=re.DOTALL).partition("?")[0]


def open_counters(uri: str, *, app: str = "app", on_store_error: str = "local") -> Counters:
    """Give the counters of any storage URI of `limits` (`memcached://...`, `mongodb://...`); raise `ConfigError`.

    `?strategy=` says how they count: `sliding-window-counter` (the default), `moving-window` or `fixed-window`.
    """
    return LimitsCounters(uri, app, on_store_error)


def check_counters(uri: str, limits: Sequence[Limit]) -> None:
    """Check that such counters can be had and can count these limits; raise `ConfigError`."""
    parse_uri(uri)
    for limit in limits:
        if limit.burst:
            raise ConfigError(f"limit {limit}: counters of the limits package ({', '.join(STRATEGIES)}) have no burst")
