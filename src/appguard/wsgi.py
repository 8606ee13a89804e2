"""The WSGI adapter: `application = AppGuard(application)` for any WSGI app (PEP 3333).

It stands in front of routing. It never buffers: `start_response` is wrapped to see the status, and a body is handed on
as it is, but for one that begins the answer only while it is read.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from appguard.answers import Answer
from appguard.config import AppOptions, app_config
from appguard.environ import (
    FORWARDED,
    FORWARDED_FOR,
    PROXY_FIX,
    REWRITTEN,
    client_of,
    exchange_of,
    header_of,
    is_preflight,
    path_of,
    text_of,
)
from appguard.event import LOGIN_FAIL, LOGIN_SUCCESS
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.report import VISIT, Note
from appguard.visit import Visit

TOLD = ("401", "403")  # statuses that may be an event

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
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
        self._started: Middleware | None = None

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Judge one request."""
        middleware = self._started
        if middleware is None:
            return self._start(environ, start_response)
        peer = middleware.peers.get(environ.get("REMOTE_ADDR"))
        client = (
            client_of(middleware, environ)
            if peer is None
            or (peer.forwards and (FORWARDED_FOR in environ or FORWARDED in environ))
            or PROXY_FIX in environ
            or environ.get("REMOTE_PORT") in REWRITTEN
            else peer.client  # as most are
        )
        path = environ.get("PATH_INFO")
        if not path or not path.isascii():
            path = path_of(environ)
        method = environ["REQUEST_METHOD"].upper()  # as frameworks read it
        found: Any  # a refusal, or our own kind of visit
        found = middleware.decide(client, method, path, method == "OPTIONS" and is_preflight(environ), environ)
        if type(found) is Refusal:
            answer = middleware.answer(found, client, method, path, environ, text_of(environ, "HTTP_ACCEPT"))
            return _refuse(answer, environ, start_response)
        visit: _Visit = found
        visit.line = ""
        visit.refused = None
        environ[VISIT] = visit

        def begin(  # its annotations are texts, or they would be worked out at every request
            status: "str", headers: "list[tuple[str, str]]", exc_info: "OptExcInfo | None" = None, /
        ) -> "Callable[[bytes], object]":
            # Hands the beginning of an answer on with what is left, and sees what it says.
            has_begun = visit.line
            visit.line = status
            if (visit.notes or visit.pending or visit.refusal is not None or status.startswith(TOLD)) and visit.replace(
                environ, start_response, has_begun=bool(has_begun)
            ):
                return _ignore
            if visit.least is not None:
                headers = [*headers, *middleware.fields.passed(visit.hits, visit.least, middleware.clock)]
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        application = self.application  # `opened` says why
        try:
            body = application(environ, begin)
        except Exception:
            visit.finish(environ, 500)
            raise
        return body if visit.line and visit.refused is None else _Body(body, visit, environ)

    def _start(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Do what comes before the first request, or pass it on if AppGuard is switched off."""
        if self._middleware is None:
            environ[VISIT] = None
            return self.application(environ, start_response)
        self._middleware.start_under(environ.get(VISIT))
        self._started = self._middleware
        return self(environ, start_response)

    def close(self) -> None:
        """Close what the requests have opened; another request opens it again."""
        if self._middleware is not None:
            self._middleware.close()


class _Visit(Visit):
    """A request that was let in, and the beginning of the answer to it.

    It lies in the environ and so holds none: they would keep each other until the collector of garbage comes.
    """

    __slots__ = ("line", "refused")

    line: str  # the status as it was given; empty before the answer has begun
    refused: list[bytes] | None  # the body of a refusal that replaced the answer

    @property
    def status(self) -> int:
        """Give the status as a number, 0 before the answer has begun, or if it is none: apps may say `0 UNKNOWN`."""
        digits = self.line[:3]
        return int(digits) if digits.isdecimal() else 0

    def note(self, note: Note, request: Mapping[str, object]) -> None:
        """Note what was reported; of an answer that has begun nobody asks again, so it is told now.

        A failure is told of a request that was told to be a login, too: of both it is what counts.
        """
        super().note(note, request)
        if self.line:
            if note.kind == LOGIN_FAIL and self.outcome is not None and self.outcome.kind == LOGIN_SUCCESS:
                self.outcome = None
            self.tell(request)

    def tell(self, environ: Mapping[str, object]) -> None:
        """Tell of the answer, once."""
        if self.outcome is None:
            self.record(exchange_of(environ, self.client, self.path, self.status))

    def replace(self, environ: "WSGIEnvironment", start_response: "StartResponse", *, has_begun: bool) -> bool:
        """Tell and settle what an answer that begins says, put a refusal in its place, if there is one, and say so.

        Nothing is put in the place of an answer that has begun before and begins anew.
        """
        if self.notes or self.line.startswith(TOLD):
            self.tell(environ)
        if self.pending:
            self.settle(self.due(self.status))
        if self.refusal is not None and not has_begun:
            accept = text_of(environ, "HTTP_ACCEPT")
            answer = self.middleware.answer(self.refusal, self.client, self.method, self.path, environ, accept)
            self.refused = list(_refuse(answer, environ, start_response))
        return self.refused is not None

    def finish(self, environ: "WSGIEnvironment", status: int) -> None:
        """Tell what was reported of a request without an answer, or before an exception, which counts as a status."""
        if self.notes:
            self.tell(environ)
        if self.pending:
            self.settle(self.due(self.status or status))


class _Body:
    """A body that begins its answer when it is read, or one that is replaced by a refusal and closed unread."""

    def __init__(self, body: Iterable[bytes], visit: _Visit, environ: "WSGIEnvironment") -> None:
        self._body = body
        self._visit = visit
        self._environ = environ

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body if self._visit.refused is None else ():
            if self._visit.refused is not None:
                break
            yield part
        yield from self._visit.refused or ()
        self._visit.finish(self._environ, 0)

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._visit.finish(self._environ, 0)


def _ignore(_data: bytes) -> None:
    """Write nothing: the answer was replaced."""


def _refuse(answer: Answer, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response(answer.line, list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
