"""Connects to Redis or Valkey by URI: one place for the middleware and the daemon.

redis-py's own defaults would keep a request waiting for seconds when Redis is down (ten retries, five-second
timeouts), so every connection made here has an explicit timeout and no retries. Replies are as the server sends them in
RESP2: redis-py's own shaping of them differs between its versions and protocols.

redis-py finds the master of a Sentinel and the shards of a Cluster. A request waits for that, and for the handshakes of
TLS, no longer than it may (`redis_wire`; for a Cluster, whose calls redis-py sends itself, `redis_bounded`). Who works
on the keys of one hash tag only (the ban set) gets a connection to the one server that holds them, and asks for another
when it fails: a server that is not the master of those keys says so.
"""

import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from appguard.stores.redis_bounded import BoundedCommands, ShieldedCommands
from appguard.stores.redis_commands import AsyncCommands, PooledCommands
from appguard.stores.redis_uri import RedisUri, Secret
from appguard.stores.redis_wire import DirectCommands, PipelinedCommands

STEP = 1.0  # seconds one step of finding a server may take
# A name for CLIENT LIST instead of the library's own words, which roles would have to allow. Its answer also takes the
# tickets of TLS 1.3 off the connection, which redis-py else mistakes for an answer that nobody has asked for.
_NAME = {"client_name": "appguard"} | (
    {"driver_info": None} if find_spec("redis.driver_info") else {"lib_name": None, "lib_version": None}
)
_Sentinel: Any = redis.sentinel.Sentinel  # redis-py gives these no types
_AsyncSentinel: Any = redis.asyncio.Sentinel
_ClusterNode: Any = redis.cluster.ClusterNode
_NO_RETRY = Retry(NoBackoff(), 0)
_NO_RETRY_ASYNC = AsyncRetry(NoBackoff(), 0)


class Credentials(CredentialProvider):
    """User and password, read anew at every connection: a file may have been given a new one."""

    def __init__(self, user: str, password: Secret) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Give what to log in with; raise `OSError`."""
        password = self._password.read()
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Do the same: it is a short file."""
        return self.get_credentials()


def connect(uri: RedisUri, timeout: float) -> BoundedCommands | DirectCommands:
    """Give a client for threads, whose every wait is at most `timeout` seconds. Connects at its first command."""
    if uri.kind == "cluster":
        return BoundedCommands(lambda: _ClusterClient(uri), timeout)
    client = _SentinelClient(uri, STEP) if uri.kind == "sentinel" else _single(uri, STEP)
    return DirectCommands(partial(_new_connection, client), timeout, client.close)


def connect_to(uri: RedisUri, timeout: float, key: str) -> PooledCommands:
    """Give a client of the server that holds a key, for one thread; raise redis-py's errors."""
    if uri.kind == "sentinel":
        return _SentinelClient(uri, timeout)
    if uri.kind != "cluster":
        return _single(uri, timeout)
    cluster = _ClusterClient(uri)
    try:
        host, port = cluster.holder_of(key)
        options: dict[str, Any] = {**_login(uri), **_tls(uri), **_times(timeout)}
        return cast("PooledCommands", _plain(redis.Redis(host=host, port=port, **options)))
    finally:
        cluster.close()


def connect_async(uri: RedisUri, timeout: float) -> AsyncCommands:
    """Give a client for one event loop, whose caller is the one to stop waiting after `timeout` seconds."""
    if uri.kind == "cluster":
        return ShieldedCommands(_AsyncClusterClient(uri))
    client = _AsyncSentinelClient(uri) if uri.kind == "sentinel" else _async_single(uri)
    return PipelinedCommands(_new_connection(client), timeout, client.aclose)


def _new_connection(client: Any) -> Any:
    """Make a connection to where a client of redis-py would go."""
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


class _SentinelClient:
    """A client of the master that the Sentinels name, asked at every connection."""

    def __init__(self, uri: RedisUri, timeout: float) -> None:
        sentinel_options = {**_login_of(uri.sentinel_user, uri.sentinel_password), **_tls(uri), **_times(STEP)}
        options: dict[str, Any] = {**_login(uri), **_tls(uri), **_times(timeout), "db": uri.database}
        self._sentinel = _Sentinel(uri.hosts, sentinel_kwargs=sentinel_options, **options)
        self._client = _plain(self._sentinel.master_for(uri.service))
        self.connection_pool = self._client.connection_pool

    def execute_command(self, *arguments: object) -> Any:
        return self._client.execute_command(*arguments)

    def close(self) -> None:
        for client in (self._client, *self._sentinel.sentinels):
            client.close()


class _AsyncSentinelClient:
    """The same on an event loop: it gives the connections, others send commands on them."""

    def __init__(self, uri: RedisUri) -> None:
        sentinel_options = {**_login_of(uri.sentinel_user, uri.sentinel_password), **_tls(uri), **_times_async(STEP)}
        options: dict[str, Any] = {**_login(uri), **_tls(uri), **_times_async(STEP), "db": uri.database}
        self._sentinel = _AsyncSentinel(uri.hosts, sentinel_kwargs=sentinel_options, **options)
        self._client = self._sentinel.master_for(uri.service)
        self.connection_pool = self._client.connection_pool

    async def aclose(self) -> None:
        for client in (self._client, *self._sentinel.sentinels):
            await client.aclose()


class _ClusterClient:
    """A client of a Cluster; what redis-py says of it is no error of its family, so it is made one."""

    def __init__(self, uri: RedisUri) -> None:
        nodes = [_ClusterNode(host, port) for host, port in uri.hosts]
        options: dict[str, Any] = {**_login(uri), **_tls(uri), **_times(STEP), "require_full_coverage": False}
        try:
            with _clusters_errors():
                self._client: Any = redis.RedisCluster(startup_nodes=nodes, **options)
        except BaseException:  # redis-py leaves those it has asked open
            for asked in (node.redis_connection for node in nodes if node.redis_connection is not None):
                asked.close()
            raise

    def execute_command(self, *arguments: object) -> Any:
        with _clusters_errors():
            return self._client.execute_command(*arguments)

    def holder_of(self, key: str) -> tuple[str, int]:
        with _clusters_errors():
            node = self._client.get_node_from_key(key)
        if node is None:
            raise redis.ConnectionError(f"no server of the Cluster holds {key}")
        return node.host, node.port

    def close(self) -> None:
        self._client.close()


class _AsyncClusterClient:
    """The same, awaited."""

    def __init__(self, uri: RedisUri) -> None:
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in uri.hosts]
        options: dict[str, Any] = {**_login(uri), **_tls(uri), **_times_async(STEP), "require_full_coverage": False}
        self._client: Any = redis.asyncio.RedisCluster(startup_nodes=nodes, **options)

    async def execute_command(self, *arguments: object) -> Any:
        with _clusters_errors():
            return await self._client.execute_command(*arguments)

    async def aclose(self) -> None:
        await self._client.aclose()


@contextmanager
def _clusters_errors() -> Generator[None]:
    try:
        yield
    except (RedisClusterException, KeyError, AttributeError) as error:  # the last two while its shards change
        raise redis.ConnectionError(str(error)) from error


def _single(uri: RedisUri, timeout: float) -> PooledCommands:
    options: dict[str, Any] = {**_place(uri), **_login(uri), **_tls(uri), **_times(timeout)}
    if uri.kind == "unix":
        options["unix_socket_path"] = options.pop("path")
    return cast("PooledCommands", _plain(redis.Redis(**options)))


def _async_single(uri: RedisUri) -> Any:
    options: dict[str, Any] = {**_place(uri), **_login(uri), **_tls(uri), **_times_async(STEP)}
    if uri.kind == "unix":
        options["unix_socket_path"] = options.pop("path")
    return redis.asyncio.Redis(**options)


def _plain(client: Any) -> Any:
    """Let a client give replies as they come."""
    client.response_callbacks.clear()
    return client


def _place(uri: RedisUri) -> dict[str, Any]:
    if uri.kind == "unix":
        return {"path": uri.path, "db": uri.database}
    host, port = uri.hosts[0]
    return {"host": host, "port": port, "db": uri.database}


def _login(uri: RedisUri) -> dict[str, Any]:
    return _login_of(uri.user, uri.password)


def _login_of(user: str, password: Secret) -> dict[str, Any]:
    return {"credential_provider": Credentials(user, password)} if user or password.written else {}


def _tls(uri: RedisUri) -> Mapping[str, Any]:
    """Give what encrypts a connection; the certificate of the server and its name are always checked."""
    if not uri.has_tls:
        return {}
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": uri.options.get("ca"),
        "ssl_certfile": uri.options.get("cert"),
        "ssl_keyfile": uri.options.get("key"),
    }


def _times(timeout: float) -> dict[str, Any]:
    return {
        **_NAME,
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, STEP),
        "retry": _NO_RETRY,
    }


def _times_async(timeout: float) -> dict[str, Any]:
    return {**_times(timeout), "retry": _NO_RETRY_ASYNC}
