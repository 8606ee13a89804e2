"""The ASGI adapter: `app.add_middleware(AppGuard)` for FastAPI and Starlette, `AppGuard(app)` for any ASGI app.

It stands in front of routing, so routers, mounts, 404s and websocket handshakes are all judged. It never buffers:
`send` is wrapped only to see the status of the answer. Put it inside CORSMiddleware, so that refused answers carry
CORS headers too.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from inspect import getmro
from typing import Any, Unpack, cast

from appguard.address import Client, forwarded_for
from appguard.answers import Answer, answer
from appguard.config import AppOptions, app_config
from appguard.errors import ConfigError
from appguard.guard import Refusal
from appguard.middleware import Exchange, Middleware
from appguard.outcome import Outcome, Pending, with_status
from appguard.report import NOTES, Note

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
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
            self._start()
        middleware = self._middleware
        if middleware is None:
            scope[NOTES] = []  # reports are heard and forgotten
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "GET")
        path = _path(scope)
        client = self._client(middleware, scope)
        found = await middleware.decide_async(
            client, method, path, time.monotonic(), is_counted=not _is_preflight(scope, method), native=scope
        )
        if isinstance(found, Refusal):
            await _refuse(answer(found, _header(scope, b"accept")), scope, receive, send)
            return
        passed = _Passed(middleware, client, path, found, scope, send)
        try:
            await self.app(scope, receive, passed.send)
        except Exception:
            passed.status = passed.status or 500
            raise
        finally:
            if passed.notes:  # reported after the last message, or before an exception
                passed.record()
            if passed.pending is not None:
                await passed.settle(passed.status)

    def _start(self) -> None:
        if self._error is not None:
            raise self._error
        if self._middleware is not None:
            self._middleware.start()
        self._started = True

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            self._start()
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
        text, port, *_ = scope.get("client") or (None, None)
        peer = middleware.finder.peer(text)
        if not peer.forwards and port != 0:
            return peer.client
        forwarded = _joined(scope, self._header)
        if forwarded is not None and self._header == b"forwarded":
            forwarded = forwarded_for(forwarded)
        return middleware.client(
            peer, port, forwarded, forwarded is None and _joined(scope, self._other_header) is not None
        )


class _Passed:
    """A request that was let in, until its answer is known."""

    __slots__ = ("client", "is_replaced", "middleware", "notes", "outcome", "path", "pending", "scope", "status", "to")

    def __init__(
        self, middleware: Middleware, client: Client, path: str, pending: Pending | None, scope: Scope, to: Send
    ) -> None:
        self.middleware = middleware
        self.client = client
        self.path = path
        self.pending = pending
        self.scope = scope
        self.to = to
        self.notes: list[Note] = []
        self.status = 0
        self.outcome: Outcome | None = None
        self.is_replaced = False
        scope[NOTES] = self.notes

    async def send(self, message: Message) -> None:
        """Hand a message on, and see what it says of the answer."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            if self.status in (401, 403):
                self.record()
        if self.notes:
            self.record()
        if self.pending is not None:
            refusal = await self.settle(self.status or WEBSOCKET_ANSWERS.get(kind, 0))
            if refusal is not None:
                self.is_replaced = True
                await _send_answer(answer(refusal, _header(self.scope, b"accept")), self.scope, self.to)
        if not self.is_replaced:
            await self.to(message)

    def record(self) -> None:
        """Write the event of the answer, once."""
        if self.outcome is None:
            exchange = _exchange(self.client, self.path, self.status, self.scope)
            self.outcome = self.middleware.record(exchange, self.notes)

    async def settle(self, status: int) -> Refusal | None:
        """Count the outcome for its limits, once it is known; give a refusal if a user's limit is full.

        A request that ends without an answer told nobody anything: what is counted of it stays counted.
        """
        pending = self.pending
        if pending is None or not status:
            return None
        self.pending = None
        return await self.middleware.settle_async(pending, with_status(self.outcome, status))


def _joined(scope: Scope, name: bytes) -> str | None:
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            found = value if found is None else found + b"," + value
    return None if found is None else found.decode("latin-1")


def _header_of(native: object, name: str) -> str:
    return _header(cast("Scope", native), name.encode("latin-1", "replace"))


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest or "/" if not rest or rest.startswith("/") else path


def _is_preflight(scope: Scope, method: str) -> bool:
    return method == "OPTIONS" and bool(_header(scope, b"access-control-request-method"))


def _exchange(client: Client, path: str, status: int, scope: Scope) -> Exchange:
    return Exchange(
        client,
        scope.get("method", "GET"),
        path,
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
