"""The WSGI adapter: `application = AppGuard(application)` for any WSGI app (PEP 3333).

It stands in front of routing. It never buffers: `start_response` is wrapped only to see the status, and the body is
handed on as it is, or, where the app runs while the body is read, through an iterator that closes what it wraps.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

from appguard.answers import Answer
from appguard.config import AppOptions, app_config
from appguard.environ import client_of, exchange_of, header_of, is_preflight, path_of, text_of
from appguard.guard import Refusal
from appguard.middleware import Middleware, Visit
from appguard.report import VISIT

WHOLE = (list, tuple)  # bodies that are made when they are given
TOLD = (401, 403)  # statuses that may be an event
ENDED: "WSGIEnvironment" = {"REQUEST_METHOD": "GET"}  # in place of the environ of a request that is over

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
        self._middleware = Middleware(config, header_of, _Visit) if config.enabled else None
        self._started = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Judge one request."""
        middleware = self._middleware
        if middleware is None:
            environ[VISIT] = None
            return self.application(environ, start_response)
        if not self._started:
            middleware.start_under(environ.get(VISIT))
            self._started = True
        client, path = client_of(middleware, environ), path_of(environ)
        method = environ["REQUEST_METHOD"].upper()  # as frameworks read it
        visit = middleware.decide(client, method, path, method == "OPTIONS" and is_preflight(environ), environ)
        if type(visit) is Refusal:
            answer = middleware.answer(visit, client, method, path, environ, text_of(environ, "HTTP_ACCEPT"))
            return _refuse(answer, environ, start_response)
        assert type(visit) is _Visit
        visit.environ, visit.to, visit.status, visit.refused = environ, start_response, 0, None
        environ[VISIT] = visit
        try:
            body = self.application(environ, visit.start_response)
        except Exception:
            visit.end(visit.status or 500)
            raise
        if visit.refused is None and _is_whole(body, environ):
            visit.end(visit.status)
            return body
        return _Body(body, visit)

    def close(self) -> None:
        """Close what the requests have opened; another request opens it again."""
        if self._middleware is not None:
            self._middleware.close()


class _Visit(Visit):
    """A request that was let in, and the answer to it on its way out."""

    __slots__ = ("environ", "refused", "status", "to")

    environ: "WSGIEnvironment"
    to: "StartResponse"  # what begins the answer
    status: int
    refused: list[bytes] | None  # the body of a refusal that replaced the answer

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        """Hand the beginning of an answer on with what is left, and see what it says; a refusal replaces it."""
        self.status = int(status[:3])
        if self.notes or self.status in TOLD:
            self.tell()
        if self.pending:
            self.middleware.settle(self, self.middleware.due(self, self.status))
        if self.refusal is not None and self.refused is None:
            environ, accept = self.environ, text_of(self.environ, "HTTP_ACCEPT")
            answer = self.middleware.answer(self.refusal, self.client, self.method, self.path, environ, accept)
            self.refused = list(_refuse(answer, self.environ, self.to))
        if self.refused is not None:
            return lambda _data: None
        if self.left:
            headers = [*headers, *self.middleware.fields.passed(self.hits, self.left, self.middleware.clock)]
        return self.to(status, headers, exc_info) if exc_info else self.to(status, headers)  # type: ignore[arg-type]

    def tell(self) -> None:
        """Tell of the answer, once."""
        if self.outcome is None:
            self.record(exchange_of(self.environ, self.client, self.path, self.status))

    def finish(self, status: int) -> None:
        """Note what was reported without an answer, after it, or before an exception."""
        if self.notes:
            self.tell()
        if self.pending:
            self.middleware.settle(self, self.middleware.due(self, status))

    def end(self, status: int) -> None:
        """Do the same, and let go of the request: nothing of the app runs for it any more."""
        if self.notes or self.pending:
            self.finish(status)
        self.environ, self.to = ENDED, _too_late  # or each would keep the other until the collector of garbage comes


class _Body:
    """A body that may be made while it is read; what is replaced by a refusal is closed unread."""

    def __init__(self, body: Iterable[bytes], visit: _Visit) -> None:
        self._body = body
        self._visit = visit

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body if self._visit.refused is None else ():
            if self._visit.refused is not None:  # an app that starts its answer while its body is read
                break
            yield part
        yield from self._visit.refused or ()
        self._visit.finish(self._visit.status)

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._visit.end(self._visit.status)


def _too_late(_status: str, _headers: list[tuple[str, str]], _exc_info: object = None, /) -> Callable[[bytes], object]:
    """Begin no answer: it is over."""
    return lambda _data: None


def _is_whole(body: Iterable[bytes], environ: "WSGIEnvironment") -> bool:
    """Say whether nothing of the app runs while a body is read; of a server's wrapper of files, where it is a class."""
    if type(body) in WHOLE:
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _refuse(answer: Answer, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response(answer.line, list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
