"""The WSGI adapter: `application = AppGuard(application)` for any WSGI app (PEP 3333).

It stands in front of routing. It never buffers: `start_response` is wrapped only to see the status, and the body is
handed on as it is, or, where the app runs while the body is read, through an iterator that closes what it wraps.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

from appguard.answers import Answer
from appguard.config import AppOptions, app_config
from appguard.environ import client_of, exchange_of, header_of, is_preflight, path_of
from appguard.guard import Refusal
from appguard.middleware import VISIT, Middleware, Visit
from appguard.report import NOTES

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
            environ[VISIT] = None
            return self.application(environ, start_response)
        if not self._started:
            middleware.start_under(environ.get(VISIT))
            self._started = True
        client, path, method = client_of(middleware, environ), path_of(environ), environ["REQUEST_METHOD"]
        is_counted = method != "OPTIONS" or not is_preflight(environ)
        visit = middleware.decide(client, method, path, middleware.monotonic(), is_counted=is_counted, native=environ)
        if isinstance(visit, Refusal):
            return _refuse(middleware.answer(visit, client, method, path, environ), environ, start_response)
        environ[VISIT] = visit
        environ[NOTES] = visit.notes
        return self._pass(_Passed(visit, environ, start_response))

    def close(self) -> None:
        """Close what the requests have opened; another request opens it again."""
        if self._middleware is not None:
            self._middleware.close()

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
    """The answer to a request that was let in, on its way out."""

    __slots__ = ("environ", "refused", "status", "to", "visit")

    def __init__(self, visit: Visit, environ: "WSGIEnvironment", to: "StartResponse") -> None:
        self.visit = visit
        self.environ = environ
        self.to = to
        self.status = 0
        self.refused: list[bytes] | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        """Hand the beginning of an answer on, and see what it says; answer a refusal instead if that is the outcome."""
        visit = self.visit
        self.status = int(status[:3])
        if visit.notes or self.status in (401, 403):
            self.record()
        if visit.pending:
            visit.middleware.settle(visit, self.status)
        if visit.refusal is not None and self.refused is None:
            answer = visit.middleware.answer(visit.refusal, visit.client, visit.method, visit.path, self.environ)
            self.refused = list(_refuse(answer, self.environ, self.to))
        if self.refused is not None:
            return lambda _data: None
        return self.to(status, headers, exc_info) if exc_info else self.to(status, headers)  # type: ignore[arg-type]

    def record(self) -> None:
        """Tell of the answer, once."""
        visit = self.visit
        if visit.outcome is None:
            visit.record(exchange_of(self.environ, visit.client, visit.path, self.status))

    def finish(self, status: int) -> None:
        """Note what was reported without an answer, after it, or before an exception."""
        if self.visit.notes:
            self.record()
        if self.visit.pending:
            self.visit.middleware.settle(self.visit, status)


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


def _refuse(answer: Answer, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response(f"{answer.status} {answer.phrase}", list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
