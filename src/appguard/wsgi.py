"""The WSGI adapter: `application = AppGuard(application)` for any WSGI app (PEP 3333).

It stands in front of routing. It never buffers: `start_response` is wrapped only to see the status, and the body is
handed on as it is, or, where the app runs while the body is read, through an iterator that closes what it wraps.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

from appguard.address import Client
from appguard.answers import answer
from appguard.config import AppOptions, app_config
from appguard.environ import client_of, exchange_of, is_preflight, path_of, text_of
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.report import NOTES, Note

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class AppGuard:
    """Protects a WSGI app. The options are those of `appguard.config.AppOptions`; none is needed.

    Raise `ConfigError` for a wrong option and `TypeError` for an ASGI app.
    """

    def __init__(self, application: "WSGIApplication", **options: Unpack[AppOptions]) -> None:
        if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
            getattr(application, "__call__", None)  # noqa: B004 - asked what it is, not whether it is there
        ):
            raise TypeError(
                f"{type(application).__name__} is an ASGI app, and appguard.wsgi.AppGuard protects WSGI apps: "
                "use `from appguard import AppGuard`"
            )
        self.application = application
        config = app_config(options)
        self._middleware = Middleware(config) if config.enabled else None
        self._started = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Judge one request."""
        middleware = self._middleware
        if middleware is None:
            environ[NOTES] = []  # reports are heard and forgotten
            return self.application(environ, start_response)
        if not self._started:
            middleware.start()
            self._started = True
        client, path = client_of(middleware, environ), path_of(environ)
        refusal = middleware.decide(
            client, environ["REQUEST_METHOD"], path, time.monotonic(), is_counted=not is_preflight(environ)
        )
        if refusal is not None:
            return _refuse(refusal, environ, start_response)
        return self._pass(middleware, client, path, environ, start_response)

    def _pass(
        self,
        middleware: Middleware,
        client: Client,
        path: str,
        environ: "WSGIEnvironment",
        start_response: "StartResponse",
    ) -> Iterable[bytes]:
        notes: list[Note] = []
        environ[NOTES] = notes
        code = 0
        recorded = False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = middleware.record(exchange_of(environ, client, path, code), notes)

        def watched(
            status: str, headers: list[tuple[str, str]], exc_info: object = None, /
        ) -> Callable[[bytes], object]:
            nonlocal code
            code = int(status[:3])
            if notes or code in (401, 403):
                record()
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)  # type: ignore[arg-type]

        try:
            body = self.application(environ, watched)
        finally:
            if notes:  # reported without an answer, or before an exception
                record()
        if isinstance(body, (list, tuple, environ.get("wsgi.file_wrapper", list))):
            return body
        return _Body(body, lambda: record() if notes else None)


class _Body:
    """A body that is made while it is read: `finished` is called after its last part."""

    def __init__(self, body: Iterable[bytes], finished: Callable[[], None]) -> None:
        self._body = body
        self._finished = finished

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body
        self._finished()

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._finished()


def _refuse(refusal: Refusal, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    refused = answer(refusal, text_of(environ, "HTTP_ACCEPT"))
    start_response(f"{refused.status} {refused.phrase}", list(refused.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [refused.body]
