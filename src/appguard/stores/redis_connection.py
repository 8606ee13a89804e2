"""Connects to Redis or Valkey by URI: one place for the middleware and the daemon.

redis-py's own defaults would keep a request waiting for seconds when Redis is down (ten retries, five-second
timeouts), so every connection made here has an explicit timeout and no retries. Replies are as the server sends them in
RESP2: redis-py's own shaping of them differs between its versions and protocols.
"""

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from appguard.errors import ConfigError

SCHEMES = ("redis", "rediss", "redis+unix")
CONNECTIONS_MOST = 64
_NO_RETRY = Retry(NoBackoff(), 0)
_NO_RETRY_ASYNC = AsyncRetry(NoBackoff(), 0)


class Commands(Protocol):
    """The commands the stores send; replies are bytes (`Any`: redis-py's own types say little)."""

    def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncCommands(Protocol):
    """The same, awaited."""

    async def execute_command(self, *arguments: object) -> Any:
        """Send one command and give its reply."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def checked_uri(uri: str) -> str:
    """Give the URI as redis-py writes it; raise `ConfigError`."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"store = {uri_for_people(uri)!r}: expected redis://, rediss:// or redis+unix://")
    return uri.removeprefix("redis+") if parts.scheme == "redis+unix" else uri


def uri_for_people(uri: str) -> str:
    """Give the URI without its password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()


def connect(uri: str, timeout: float) -> Commands:
    """Give a client for threads, whose every wait is at most `timeout` seconds. Connects at its first command."""
    client: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        checked_uri(uri), protocol=2, socket_timeout=timeout, socket_connect_timeout=timeout, retry=_NO_RETRY
    )
    client.response_callbacks.clear()
    return cast("Commands", client)


def connect_async(uri: str, timeout: float) -> AsyncCommands:
    """Give a client for one event loop, whose every wait is at most `timeout` seconds."""
    pool: Any = redis.asyncio.BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
        checked_uri(uri),
        protocol=2,
        max_connections=CONNECTIONS_MOST,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=_NO_RETRY_ASYNC,
    )
    client: Any = redis.asyncio.Redis.from_pool(pool)
    client.response_callbacks.clear()
    return cast("AsyncCommands", client)


class Script:
    """A Lua file, sent by its digest, and as text to a server that does not know it yet."""

    def __init__(self, name: str) -> None:
        self._text = files("appguard.stores").joinpath("lua", f"{name}.lua").read_text()
        self._digest = sha1(self._text.encode(), usedforsecurity=False).hexdigest()  # how EVALSHA names a script

    def call(self, client: Commands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it."""
        try:
            return client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.execute_command("EVAL", self._text, len(keys), *keys, *arguments)

    async def call_async(self, client: AsyncCommands, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run it, awaited."""
        try:
            return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, len(keys), *keys, *arguments)
