"""Reads what AppGuard needs from a WSGI environ (PEP 3333); Django's `request.META` has the same keys."""

from collections.abc import Mapping
from typing import cast

from appguard.app_events import Exchange
from appguard.middleware import Middleware
from appguard.proxies import Client, forwarded_for

PROXY_FIX = "werkzeug.proxy_fix.orig"  # what werkzeug's ProxyFix leaves behind when it has replaced the peer
REWRITTEN = frozenset(("0", 0))  # ports by which servers mark a peer they have rewritten; Django under ASGI has numbers
FORWARDED_FOR, FORWARDED = "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED"
# By what is configured: the header to be read, and the other one.
HEADERS = {"x-forwarded-for": (FORWARDED_FOR, FORWARDED), "forwarded": (FORWARDED, FORWARDED_FOR)}


def text_of(environ: Mapping[str, object], key: str) -> str:
    """Give a text of the environ, empty without it."""
    value = environ.get(key, "")
    return value if isinstance(value, str) else ""


def header_of(environ: object, name: str) -> str:
    """Give the text of a header, empty without it."""
    key = "HTTP_" + name.upper().replace("-", "_")
    return text_of(cast("Mapping[str, object]", environ), key)


def client_of(middleware: Middleware, environ: Mapping[str, object]) -> Client:
    """Give the client of a request."""
    peer = middleware.clients.finder.peer(text_of(environ, "REMOTE_ADDR"))
    is_rewritten = PROXY_FIX in environ or environ.get("REMOTE_PORT") in REWRITTEN
    header, other = HEADERS[middleware.config.forwarding_header]
    forwarded = text_of(environ, header) or None
    if forwarded is not None and header == FORWARDED and peer.forwards:
        forwarded = forwarded_for(forwarded)
    return middleware.clients.behind(peer, 0 if is_rewritten else None, forwarded, bool(text_of(environ, other)))


def path_of(environ: Mapping[str, object]) -> str:
    """Give the path inside the app, decoded: PEP 3333 hands the bytes over as latin-1."""
    path = environ.get("PATH_INFO", "")
    if not isinstance(path, str):
        return "/"
    if path.isascii():
        return path or "/"
    try:
        return path.encode("latin-1").decode(errors="replace") or "/"
    except UnicodeEncodeError:
        return path


def exchange_of(environ: Mapping[str, object], client: Client, path: str, status: int) -> Exchange:
    """Give the request and its answer, as far as an event tells of them."""
    return Exchange(
        client,
        text_of(environ, "REQUEST_METHOD").upper(),
        path,
        status,
        authorization=text_of(environ, "HTTP_AUTHORIZATION"),
        user_agent=text_of(environ, "HTTP_USER_AGENT"),
        request_id=text_of(environ, "HTTP_X_REQUEST_ID"),
    )


def is_preflight(environ: Mapping[str, object]) -> bool:
    """Say whether a request is a CORS preflight: with credentials, which no browser sends, it is none.

    Credentials in another header cannot be told; so limits of outcomes and jails count preflights too.
    """
    if environ.get("REQUEST_METHOD") != "OPTIONS" or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
        return False
    return "HTTP_AUTHORIZATION" not in environ and "HTTP_COOKIE" not in environ
