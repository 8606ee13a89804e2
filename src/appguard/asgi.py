"""The ASGI adapter: `app.add_middleware(AppGuard)` for FastAPI and Starlette, `AppGuard(app)` for any ASGI app.

It stands in front of routing, so routers, mounts, 404s and websocket handshakes are all judged. It never buffers:
`send` is wrapped only to see the status of the answer. Put it inside CORSMiddleware, so that refused answers carry
CORS headers too.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from inspect import getmro
from operator import itemgetter
from typing import Any, Unpack, cast

from appguard.answers import Answer
from appguard.app_events import Exchange
from appguard.config import AppOptions, app_config
from appguard.errors import ConfigError
from appguard.guard import Due, Refusal
from appguard.limit import Least
from appguard.middleware import Middleware
from appguard.proxies import Client, Peer, forwarded_for
from appguard.report import VISIT
from appguard.visit import Visit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
_name = itemgetter(0)  # of a header field
REQUESTS = ("http", "websocket")
START, BODY = "http.response.start", "http.response.body"
BEGINNINGS = (START, "websocket.http.response.start")
TOLD = (401, 403)  # statuses that may be an event
NOBODY = (None, None)
ENDED: Scope = {"type": "http", "headers": ()}  # in place of the scope of a request that is over
WEBSOCKET_ANSWERS = {"websocket.accept": 101, "websocket.close": 403}  # and what they are as a status


class AppGuard:
    """Protects an ASGI app. The options are those of `appguard.config.AppOptions`; none is needed.

    A wrong option does not raise here, where a server would take it for an app without start-up events: it fails the
    app's start-up, so that the server prints it and exits, or else the first request.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[AppOptions]) -> None:
        if hasattr(app, "wsgi_app") or type(app).__module__ == "django.core.handlers.wsgi":
            is_flask = any(base.__module__.startswith("flask.") for base in getmro(type(app)))
            right = "appguard.flask" if is_flask else "appguard.wsgi"
            raise TypeError(
                f"{type(app).__name__} is a WSGI app, and appguard.AppGuard protects ASGI apps: "
                f"use `from {right} import AppGuard`"
            )
        self.app = app
        self._error: ConfigError | None = None
        self._middleware: Middleware | None = None
        self._started: Middleware | None = None  # from the first request on
        try:
            config = app_config(options)
            self._middleware = Middleware(config, _header_of, _Visit) if config.enabled else None
            self._header = config.forwarding_header.encode()
            self._other_header = b"forwarded" if self._header == b"x-forwarded-for" else b"x-forwarded-for"
            self._forwarding = frozenset((self._header, self._other_header))
        except ConfigError as error:
            self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request, or pass on what is none."""
        middleware = self._started
        if middleware is None or scope["type"] not in REQUESTS:
            await self._other(scope, receive, send)
            return
        method = scope.get("method", "GET").upper()  # as frameworks read it
        path = _path(scope) if scope.get("root_path") else scope["path"]
        text, port = scope.get("client") or NOBODY
        peer = middleware.peers.get(text) or middleware.clients.finder.peer(text)
        is_plain = port != 0 and (not peer.forwards or self._forwarding.isdisjoint(map(_name, scope["headers"])))
        client = peer.client if is_plain else self._client(middleware, peer, port, scope)
        is_preflight = method == "OPTIONS" and _is_preflight(scope)
        visit: Any = middleware.consider(client, method, path, is_preflight, scope)  # a refusal, or our kind of visit
        if type(visit) is not Refusal and visit.asked is not None and not await visit.asked:
            visit = await middleware.conclude(visit, is_preflight, scope)
        if type(visit) is Refusal:
            if scope["type"] == "websocket":
                await receive()  # the handshake
            answer = middleware.answer(visit, client, method, path, scope, _header(scope, b"accept"))
            for message in _messages(answer, scope):
                await send(message)
            return
        visit.scope = scope
        visit.to = send
        visit.status = 0
        visit.has_begun = False
        scope[VISIT] = visit
        app = self.app  # `opened` says why
        try:
            await app(scope, receive, visit.send)
        except Exception:
            visit.status = visit.status or 500
            raise
        finally:
            if visit.notes or visit.pending:
                await visit.finish()
            visit.scope, visit.to = ENDED, _nothing  # or each would keep the other until the collector of garbage comes

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do what is not done at every request."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] not in REQUESTS:
            await self.app(scope, receive, send)
        elif self._error is not None:
            raise self._error
        elif self._middleware is None:
            scope[VISIT] = None
            await self.app(scope, receive, send)
        else:
            self._middleware.start_under(scope.get(VISIT))
            self._started = self._middleware
            await self(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._error is not None:
                raise self._error
            if self._middleware is not None:
                self._middleware.start()
        except ConfigError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"AppGuard: {error}"})
            return
        try:
            await self.app(scope, receive, send)
        finally:
            if self._middleware is not None:
                await self._middleware.close_async()

    def _client(self, middleware: Middleware, peer: Peer, port: int | None, scope: Scope) -> Client:
        forwarded = _joined(scope, self._header)
        if forwarded is not None and self._header == b"forwarded":
            forwarded = forwarded_for(forwarded)
        return middleware.clients.behind(
            peer, port, forwarded, forwarded is None and _joined(scope, self._other_header) is not None
        )


class _Visit(Visit):
    """A request that was let in, and the answer to it on its way out."""

    __slots__ = ("fields", "has_begun", "scope", "status", "to")

    fields: Sequence[tuple[bytes, bytes]]
    scope: Scope
    to: Send  # what sends the answer
    status: int
    has_begun: bool

    def send(self, message: Message) -> Awaitable[None]:
        """Hand a message on, see what it says of the answer, and tell in it what is left."""
        if self.has_begun:
            if self.notes:
                self.tell()
            return self.to(message)
        kind = message["type"]
        if kind in BEGINNINGS:
            self.status = message["status"]
        if self.notes or self.pending or self.refusal is not None or self.status in TOLD:
            if self.notes or self.status in TOLD:
                self.tell()
            due = self.due(self.status or WEBSOCKET_ANSWERS.get(kind, 0))
            if due or self.refusal is not None:
                return self._settle(message, due)
        self.has_begun = self.status != 0 or kind in WEBSOCKET_ANSWERS
        return self.to(self._told(message) if self.fields and kind == START else message)

    async def _settle(self, message: Message, due: Sequence[Due]) -> None:
        """Settle the outcome before the answer begins, which may be another one then."""
        await self.settle_async(due)
        kind = message["type"]
        status = self.status or WEBSOCKET_ANSWERS.get(kind, 0)
        if status and self.refusal is not None:
            scope, accept = self.scope, _header(self.scope, b"accept")
            answer = self.middleware.answer(self.refusal, self.client, self.method, self.path, scope, accept)
            to, self.to, self.has_begun = self.to, _nothing, True  # what the app still sends is dropped
            for each in _messages(answer, scope):
                await to(each)
            return
        self.has_begun = status != 0
        await self.to(self._told(message) if self.fields and kind == START else message)

    def _told(self, message: Message) -> Message:
        """Give the beginning of an answer with what is told; the app may send the same one again."""
        told = dict(message)
        told["headers"] = [*message.get("headers", ()), *self.fields]
        return told

    def meet(self, least: Least | None) -> None:
        """Note what is told, and make the fields that tell of it, with those of other requests if it was asked for."""
        self.least = least
        middleware = self.middleware
        self.fields = middleware.fields.passed_raw(self.hits, least, middleware.clock) if least is not None else ()

    def tell(self) -> None:
        """Tell of the answer, once."""
        if self.outcome is None:
            self.record(_exchange(self, self.status, self.scope))

    async def finish(self) -> None:
        """Note what was reported after the last message or before an exception, or of which there is no answer."""
        if self.notes:
            self.tell()
        await self.settle_async(self.due(self.status))


async def _nothing(_: Message) -> None:
    """Send nothing: the answer was replaced."""


def _joined(scope: Scope, name: bytes) -> str | None:
    found = [value for key, value in scope["headers"] if key == name]
    return b",".join(found).decode("latin-1") if found else None


def _header_of(native: object, name: str) -> str:
    return _header(cast("Scope", native), name.encode("latin-1", "replace"))


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


def _is_preflight(scope: Scope) -> bool:
    """Say whether a request with OPTIONS is a CORS preflight: with credentials, which no browser sends, it is none.

    Credentials in another header cannot be told; so limits of outcomes and jails count preflights too.
    """
    names = {name for name, _ in scope["headers"]}
    return b"access-control-request-method" in names and names.isdisjoint((b"authorization", b"cookie"))


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest or "/" if not rest or rest.startswith("/") else path


def _exchange(visit: Visit, status: int, scope: Scope) -> Exchange:
    return Exchange(
        visit.client,
        visit.method,
        visit.path,
        status,
        authorization=_header(scope, b"authorization"),
        user_agent=_header(scope, b"user-agent"),
        request_id=_header(scope, b"x-request-id"),
    )


def _messages(refused: Answer, scope: Scope) -> Sequence[Message]:
    """Give an answer as the messages that send it."""
    start, rest = START, BODY
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            return ({"type": "websocket.close", "code": 1008},)
        start, rest = f"websocket.{START}", f"websocket.{BODY}"
    body = b"" if scope.get("method") == "HEAD" else refused.body
    return (
        {"type": start, "status": refused.status, "headers": [*refused.raw_headers]},
        {"type": rest, "body": body},
    )
