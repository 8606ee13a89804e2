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
from appguard.environ import client_of, exchange_of, header_of, is_preflight, path_of, text_of
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.outcome import Outcome, Pending, with_status
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
        self._middleware = Middleware(config, header_of) if config.enabled else None
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
        found = middleware.decide(
            client,
            environ["REQUEST_METHOD"],
            path,
            time.monotonic(),
            is_counted=not is_preflight(environ),
            native=environ,
        )
        if isinstance(found, Refusal):
            return _refuse(found, environ, start_response)
        return self._pass(_Passed(middleware, client, path, found, environ, start_response))

    def _pass(self, passed: "_Passed") -> Iterable[bytes]:
        try:
            body = self.application(passed.environ, passed.start_response)
        except Exception:
            passed.finish(passed.status or 500)
            raise
        if passed.refused is None and isinstance(body, (list, tuple, passed.environ.get("wsgi.file_wrapper", list))):
            passed.finish(passed.status)
            return body
        return _Body(body, passed)


class _Passed:
    """A request that was let in, until its answer is known."""

    __slots__ = ("client", "environ", "middleware", "notes", "outcome", "path", "pending", "refused", "status", "to")

    def __init__(
        self,
        middleware: Middleware,
        client: Client,
        path: str,
        pending: Pending | None,
        environ: "WSGIEnvironment",
        to: "StartResponse",
    ) -> None:
        self.middleware = middleware
        self.client = client
        self.path = path
        self.pending = pending
        self.environ = environ
        self.to = to
        self.notes: list[Note] = []
        self.status = 0
        self.outcome: Outcome | None = None
        self.refused: list[bytes] | None = None
        environ[NOTES] = self.notes

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        """Hand the beginning of an answer on, and see what it says; answer a refusal instead if that is the outcome."""
        self.status = int(status[:3])
        if self.notes or self.status in (401, 403):
            self.record()
        refusal = self.settle(self.status)
        if refusal is not None:
            self.refused = list(_refuse(refusal, self.environ, self.to))
        if self.refused is not None:
            return lambda _data: None
        return self.to(status, headers, exc_info) if exc_info else self.to(status, headers)  # type: ignore[arg-type]

    def record(self) -> None:
        """Write the event of the answer, once."""
        if self.outcome is None:
            exchange = exchange_of(self.environ, self.client, self.path, self.status)
            self.outcome = self.middleware.record(exchange, self.notes)

    def settle(self, status: int) -> Refusal | None:
        """Count the outcome for its limits, once it is known; give a refusal if a user's limit is full.

        A request that ends without an answer told nobody anything: what is counted of it stays counted.
        """
        pending = self.pending
        if pending is None or not status:
            return None
        self.pending = None
        return self.middleware.settle(pending, with_status(self.outcome, status))

    def finish(self, status: int) -> None:
        """Note what was reported without an answer, after it, or before an exception."""
        if self.notes:
            self.record()
        self.settle(status)


class _Body:
    """A body that may be made while it is read; what is replaced by a refusal is closed unread."""

    def __init__(self, body: Iterable[bytes], passed: _Passed) -> None:
        self._body = body
        self._passed = passed

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body if self._passed.refused is None else ():
            if self._passed.refused is not None:  # an app that starts its answer while its body is read
                break
            yield part
        yield from self._passed.refused or ()
        self._passed.finish(self._passed.status)

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._passed.finish(self._passed.status)


def _refuse(refusal: Refusal, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    refused = answer(refusal, text_of(environ, "HTTP_ACCEPT"))
    start_response(f"{refused.status} {refused.phrase}", list(refused.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [refused.body]
