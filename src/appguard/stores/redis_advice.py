"""What to do about an error of Redis, for whoever reads the log: most are a word of `store` that is wrong.

Servers and redis-py say what is wrong, but not where that is set. An error is known by a piece of its text, which Redis
and Valkey write alike.
"""

import re

from appguard.stores.redis_uri import RedisUri

_ROLE = "name the user of this app or daemon in store, and load contrib/redis/appguard.acl anew if its roles are older"
_ANY = {
    "invalid username-password": "look at user and password in store, and whether ACL LIST shows that user as on",
    "Authentication required": "the server wants a password: store = 'redis://USER:PASSWORD@host:6379/0'",
    "without any password configured": "that server has no password: leave it out of store",
    "permissions to": _ROLE,
    "user executing the script can't": _ROLE,
    "DB index is out of range": "the number at the end of store must be less than `databases` in the server's settings",
    "'SENTINEL'": "that is no Sentinel: store = 'redis://host:6379/0', or the port of the Sentinels, mostly 26379",
    "unknown command": "if that is a Sentinel: store = 'redis+sentinel://host:26379/SERVICE/0'",
    "No master found": "store names another service than the Sentinels' `sentinel monitor`, or none is reached",
    "Cluster mode is not enabled": "that is a server of its own: store = 'redis://host:6379/0'",
    "READONLY": "that is a replica: name its master in store, or the Sentinels that know it",
    "certificate": "ca=FILE in store names whom to believe, and the host must be called as its certificate says",
    "WRONG_VERSION_NUMBER": "that port is without TLS: redis:// instead of rediss://",
}
_OF_PLAIN = dict.fromkeys(
    ("closed", "lost", "reset by peer", "no Redis"),
    "if it has never answered, that port may want TLS: rediss:// instead of redis://",
)
_OF_TLS = dict.fromkeys(
    ("no answer in time", "Timeout", "timed out"),
    "if it has never answered, that port may be without TLS: redis:// instead of rediss://",
)
_OF_SOCKET = {
    "Permission denied": "this process's user must be in the group of that socket, with `unixsocketperm 770`",
    "No such file": "store must name the `unixsocket` of the server's settings",
}
_OUTSIDE_CLUSTER = dict.fromkeys(
    ("MOVED", "CLUSTERDOWN", "slot"), "that server belongs to a Cluster: store = 'redis+cluster://host:6379'"
)

_REPEATED = re.compile(",? with args beginning with:.*", re.DOTALL)


def said_by(error: Exception) -> str:
    """Give what an error says, without what a server repeats of a call: a password, or the address of a client."""
    return _REPEATED.sub("", str(error)).strip() or type(error).__name__


def explained(error: Exception, uri: RedisUri) -> str:
    """Give what an error says, and in brackets what to do about it if that is known."""
    text = said_by(error)
    advice = _ANY | (_OF_TLS if uri.has_tls else _OF_PLAIN)
    if uri.kind == "unix":
        advice |= _OF_SOCKET
    if uri.kind != "cluster":
        advice |= _OUTSIDE_CLUSTER
    found = next((what for piece, what in advice.items() if piece in text), "")
    return f"{text} ({found})" if found else text
