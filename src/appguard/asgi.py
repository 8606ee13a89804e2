"""The ASGI adapter: `app.add_middleware(AppGuard)` for FastAPI and Starlette, `AppGuard(app)` for any ASGI app.

It stands in front of routing, so routers, mounts, 404s and websocket handshakes are all judged. It never buffers:
`send` is wrapped only to see the status of the answer. Put it inside CORSMiddleware, so that refused answers carry
CORS headers too.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from inspect import getmro
from typing import Any, Unpack, cast

from appguard.address import Client, forwarded_for
from appguard.answers import Answer
from appguard.app_events import Exchange
from appguard.config import AppOptions, app_config
from appguard.errors import ConfigError
from appguard.guard import Refusal
from appguard.middleware import VISIT, Middleware, Visit
from appguard.report import NOTES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
BEGINNINGS = ("http.response.start", "websocket.http.response.start")
NOBODY = (None, None)
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
        self._started = False
        try:
            config = app_config(options)
            self._middleware = Middleware(config, _header_of) if config.enabled else None
            self._header = config.forwarding_header.encode()
            self._other_header = b"forwarded" if self._header == b"x-forwarded-for" else b"x-forwarded-for"
        except ConfigError as error:
            self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request, or pass on what is none."""
        if scope["type"] not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        if not self._started:
            self._start(scope.get(VISIT))
        middleware = self._middleware
        if middleware is None:
            scope[NOTES] = []  # reports are heard and forgotten
            scope[VISIT] = None
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "GET")
        path = _path(scope)
        client = self._client(middleware, scope)
        is_counted = method != "OPTIONS" or not _header(scope, b"access-control-request-method")  # a CORS preflight
        visit = await middleware.decide_async(
            client, method, path, middleware.monotonic(), is_counted=is_counted, native=scope
        )
        if isinstance(visit, Refusal):
            await _refuse(middleware.answer(visit, client, method, path, scope), scope, receive, send)
            return
        scope[VISIT] = visit
        scope[NOTES] = visit.notes
        passed = _Passed(visit, scope, send)
        try:
            await self.app(scope, receive, passed.send)
        except Exception:
            passed.status = passed.status or 500
            raise
        finally:
            if visit.notes:  # reported after the last message, or before an exception
                passed.record()
            if visit.pending:
                await middleware.settle_async(visit, passed.status)

    def _start(self, outer: object = None) -> None:
        if self._error is not None:
            raise self._error
        if self._middleware is not None:
            self._middleware.start_under(outer)
        self._started = True

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
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

    def _client(self, middleware: Middleware, scope: Scope) -> Client:
        text, port = scope.get("client") or NOBODY
        peer = middleware.clients.finder.peer(text)
        if not peer.forwards and port != 0:
            return peer.client
        forwarded = _joined(scope, self._header)
        if forwarded is not None and self._header == b"forwarded":
            forwarded = forwarded_for(forwarded)
        return middleware.clients.behind(
            peer, port, forwarded, forwarded is None and _joined(scope, self._other_header) is not None
        )


class _Passed:
    """The answer to a request that was let in, on its way out."""

    __slots__ = ("has_begun", "is_replaced", "scope", "status", "to", "visit")

    def __init__(self, visit: Visit, scope: Scope, to: Send) -> None:
        self.visit = visit
        self.scope = scope
        self.to = to
        self.status = 0
        self.has_begun = False
        self.is_replaced = False

    def send(self, message: Message) -> Awaitable[None]:
        """Hand a message on, and see what it says of the answer."""
        visit = self.visit
        if not self.has_begun:
            kind = message["type"]
            if kind in BEGINNINGS:
                self.status = message["status"]
                if self.status in (401, 403):
                    self.record()
            if visit.notes:
                self.record()
            if visit.pending or visit.refusal is not None:
                return self._begin(message, self.status or WEBSOCKET_ANSWERS.get(kind, 0))
            self.has_begun = self.status != 0 or kind in WEBSOCKET_ANSWERS
        elif visit.notes:
            self.record()
        return _nothing() if self.is_replaced else self.to(message)

    async def _begin(self, message: Message, status: int) -> None:
        """Settle the outcome before the answer begins, which may be another one then."""
        visit = self.visit
        await visit.middleware.settle_async(visit, status)
        if status and visit.refusal is not None:
            self.has_begun = self.is_replaced = True
            answer = visit.middleware.answer(visit.refusal, visit.client, visit.method, visit.path, self.scope)
            await _send_answer(answer, self.scope, self.to)
            return
        self.has_begun = status != 0
        await self.to(message)

    def record(self) -> None:
        """Tell of the answer, once."""
        if self.visit.outcome is None:
            self.visit.record(_exchange(self.visit, self.status, self.scope))


async def _nothing() -> None:
    """Send nothing: the answer was replaced."""


def _joined(scope: Scope, name: bytes) -> str | None:
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            found = value if found is None else found + b"," + value
    return None if found is None else found.decode("latin-1")


def _header_of(native: object, name: str) -> str:
    return _header(cast("Scope", native), name.encode("latin-1", "replace"))


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


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


async def _refuse(refused: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake
    await _send_answer(refused, scope, send)


async def _send_answer(refused: Answer, scope: Scope, send: Send) -> None:
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    start = {"type": f"{prefix}http.response.start", "status": refused.status, "headers": [*refused.raw_headers]}
    await send(start)
    body = b"" if scope.get("method") == "HEAD" else refused.body
    await send({"type": f"{prefix}http.response.body", "body": body})
