"""The ASGI adapter: `app.add_middleware(AppGuard)` for FastAPI and Starlette, `AppGuard(app)` for any ASGI app.

It stands in front of routing, so routers, mounts, 404s and websocket handshakes are all judged. It never buffers:
`send` is wrapped only to see the status of the answer. Put it inside CORSMiddleware, so that refused answers carry
CORS headers too.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from inspect import getmro
from typing import Any, Unpack

from appguard.address import Client, forwarded_for
from appguard.answers import Answer, answer
from appguard.config import AppOptions, app_config
from appguard.errors import ConfigError
from appguard.middleware import Exchange, Middleware
from appguard.report import NOTES, Note

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


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
            self._middleware = Middleware(config) if config.enabled else None
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
        refusal = await middleware.decide_async(
            client, method, path, time.monotonic(), is_counted=not _is_preflight(scope, method)
        )
        if refusal is None:
            await self._pass(middleware, client, path, scope, receive, send)
            return
        await _refuse(answer(refusal, _header(scope, b"accept")), scope, receive, send)

    async def _pass(
        self, middleware: Middleware, client: Client, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        notes: list[Note] = []
        scope[NOTES] = notes
        status = 0
        recorded = False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = middleware.record(_exchange(client, path, status, scope), notes)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                if status in (401, 403):
                    record()
            if notes:
                record()
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            if notes:  # reported after the last message, or before an exception
                record()

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


def _joined(scope: Scope, name: bytes) -> str | None:
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            found = value if found is None else found + b"," + value
    return None if found is None else found.decode("latin-1")


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
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # the handshake
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    headers = [(name.encode(), value.encode()) for name, value in refused.headers]
    await send({"type": f"{prefix}http.response.start", "status": refused.status, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else refused.body
    await send({"type": f"{prefix}http.response.body", "body": body})
