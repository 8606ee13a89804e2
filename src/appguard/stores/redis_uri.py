"""Reads the URI of a Redis or Valkey; the only module that knows how one is written.

    redis://user:password@host:6379/0           one server; rediss:// with TLS
    redis+unix:///run/redis/redis.sock?db=0     one server, by its socket
    redis+sentinel://h1:26379,h2:26379/service/0     whom the Sentinels name; rediss+sentinel:// with TLS
    redis+cluster://h1:6379,h2:6379             a Cluster; rediss+cluster:// with TLS

A password is written as it is (percent-encoded), as `${NAME}` for a variable of the environment, or as `file:/path`,
which is read anew at every connection. It is never printed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from appguard.errors import ConfigError

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
PORT, SENTINEL_PORT = 6379, 26379
TLS_OPTIONS = ("ca", "cert", "key")
SENTINEL_OPTIONS = ("sentinel_user", "sentinel_password")
FORMS = "redis://host:6379/0, rediss://, redis+unix:///path, redis+sentinel://h1,h2/service/0 or redis+cluster://h1,h2"
_TORN = re.compile(r"\?(.*@|(.*&)?[^=&]+(&|$))", re.DOTALL)  # a password may have been taken for more than one part
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Secret:
    """A password as it is written in the settings; what it means is read when it is used."""

    written: str = field(default="", repr=False)

    def read(self) -> str:
        """Give the password, "" for none; raise `OSError` if its file cannot be read."""
        if self.written.startswith("file:"):
            return Path(self.written.removeprefix("file:")).read_text(encoding="utf-8").strip()
        name = _NAME.fullmatch(self.written)
        return os.environ.get(name[1], "") if name else self.written

    def check(self, shown: str) -> None:
        """Raise `ConfigError` if it names a variable that is not set."""
        name = _NAME.fullmatch(self.written)
        if name and not os.environ.get(name[1]):
            raise ConfigError(f"store = {shown!r}: the environment variable {name[1]} is not set")


@dataclass(frozen=True, slots=True)
class RedisUri:
    """Where a Redis is and how to get in. `kind` is `single`, `unix`, `sentinel` or `cluster`."""

    kind: str
    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    user: str = ""
    password: Secret = Secret()
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    sentinel_user: str = ""
    sentinel_password: Secret = Secret()

    @property
    def has_tls(self) -> bool:
        """Say whether connections are encrypted."""
        return self.scheme.startswith("rediss")

    def __str__(self) -> str:
        """Give the URI without passwords."""
        secret = ":***" if self.password.written else ""
        account = f"{self.user}{secret}@" if self.user or secret else ""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        where = {
            "single": f"/{self.database}",
            "unix": f"{self.path}?db={self.database}",
            "sentinel": f"/{self.service}/{self.database}",
            "cluster": "",
        }
        return f"{self.scheme}://{account}{hosts}{where[self.kind]}"


def parse_redis_uri(text: str) -> RedisUri:
    """Read a URI; raise `ConfigError`. Opens nothing."""
    try:
        return _parse(text)
    except ConfigError:
        if not _TORN.search(text):
            raise
        raise ConfigError(f"store: expected {FORMS}; in a password ? is written %3F, and & is %26") from None


def _parse(text: str) -> RedisUri:
    scheme, separator, rest = text.partition("://")
    if scheme not in SCHEMES or not separator:
        raise ConfigError(f"store: expected {FORMS}")
    rest, _, query = rest.partition("?")
    account, at, place = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")
    user, _, password = account.partition(":")
    hosts, slash, path = place.partition("/")
    kind = scheme.partition("+")[2] or "single"
    shown = f"{scheme}://{'***@' if at else ''}{place}"
    options = _options(kind, scheme, query, shown)
    service, database = _path(kind, path, options, shown)
    if (not hosts) != (kind == "unix") or (kind == "single" and "," in hosts):
        raise ConfigError(f"store = {shown!r}: expected {FORMS}")
    uri = RedisUri(
        kind=kind,
        scheme=scheme,
        hosts=tuple(_host(each, SENTINEL_PORT if kind == "sentinel" else PORT, shown) for each in _split(hosts)),
        path=unquote(slash + path) if kind == "unix" else "",
        service=service,
        database=database,
        user=unquote(user),
        password=Secret(unquote(password)),
        sentinel_user=options.pop("sentinel_user", ""),
        sentinel_password=Secret(options.pop("sentinel_password", "")),
        options=options,
    )
    uri.password.check(shown)
    uri.sentinel_password.check(shown)
    return uri


def _options(kind: str, scheme: str, query: str, shown: str) -> dict[str, str]:
    accepted = [
        *(("db",) if kind == "unix" else ()),
        *(TLS_OPTIONS if scheme.startswith("rediss") else ()),
        *(SENTINEL_OPTIONS if kind == "sentinel" else ()),
    ]
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in accepted or not value:
            raise ConfigError(f"store = {shown!r}: option {name}: expected {' or '.join(accepted) or 'no options'}")
    if ("cert" in options) != ("key" in options):
        raise ConfigError(f"store = {shown!r}: cert and key belong together")
    return options


def _path(kind: str, path: str, options: dict[str, str], shown: str) -> tuple[str, int]:
    """Give service and database."""
    service, number = "", path
    if kind == "unix":
        number = options.pop("db", "")
    elif kind == "sentinel":
        service, _, number = path.partition("/")
    wants_service, has_database = kind == "sentinel", kind != "cluster"
    if wants_service != bool(service) or not (number == "" or (has_database and re.fullmatch(r"[0-9]{1,5}", number))):
        raise ConfigError(f"store = {shown!r}: expected {FORMS}")
    return unquote(service), int(number or 0)


def _split(hosts: str) -> list[str]:
    return hosts.split(",") if hosts else []


def _host(text: str, port: int, shown: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?", text)
    if not found or not 0 < int(found[3] or port) < 65536:
        raise ConfigError(f"store = {shown!r}: {text!r} is no host, host:port or [address]:port")
    return found[1] or found[2], int(found[3] or port)
