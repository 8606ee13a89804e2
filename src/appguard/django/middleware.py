"""The Django middleware: one class for sync and async, around what all adapters share."""

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from appguard.django.settings import from_settings
from appguard.environ import client_of, exchange_of, header_of, is_preflight
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.proxies import Client
from appguard.report import VISIT
from appguard.visit import Visit

Answering = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class AppGuardMiddleware:
    """Protects a Django project by its setting `APPGUARD`. Put it first in `MIDDLEWARE`.

    When `override_settings` changes the setting, it is read anew, and everything counted is forgotten.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Answering) -> None:
        self.get_response = get_response
        # `inspect` sees what asgiref has marked only from Python 3.12 on.
        self._is_async = iscoroutinefunction(get_response)  # pyright: ignore[reportDeprecated]
        if self._is_async:
            markcoroutinefunction(self)
        self._read_settings()
        setting_changed.connect(self._follow_settings)  # by a weak reference

    def _read_settings(self) -> None:
        config = from_settings()
        self._middleware = Middleware(config, _header_of) if config.enabled else None
        self._started = False
        if self._middleware is not None:
            self._middleware.start()

    def _follow_settings(self, *, setting: str, **_more: object) -> None:
        if setting == "APPGUARD":
            self._read_settings()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Judge one request."""
        if self._is_async:
            return self._call_async(request)
        respond = cast("Callable[[HttpRequest], HttpResponseBase]", self.get_response)
        middleware = self._middleware
        if middleware is None:
            request.META[VISIT] = None
            return respond(request)
        client, method, path, is_cors = self._prepare(middleware, request)
        visit = middleware.decide(client, method, path, is_cors, request)
        if isinstance(visit, Refusal):
            return _refused(middleware, visit, client, request)
        request.META[VISIT] = visit
        response = respond(request)
        _record(visit, request, response)
        visit.settle(visit.due(response.status_code))
        return _answer(visit, request, response)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        respond = cast("Callable[[HttpRequest], Awaitable[HttpResponseBase]]", self.get_response)
        middleware = self._middleware
        if middleware is None:
            request.META[VISIT] = None
            return await respond(request)
        client, method, path, is_cors = self._prepare(middleware, request)
        visit = await middleware.decide_async(client, method, path, is_cors, request)
        if isinstance(visit, Refusal):
            return _refused(middleware, visit, client, request)
        request.META[VISIT] = visit
        response = await respond(request)
        _record(visit, request, response)
        await visit.settle_async(visit.due(response.status_code))
        return _answer(visit, request, response)

    def _prepare(self, middleware: Middleware, request: HttpRequest) -> tuple[Client, str, str, bool]:
        """Give client, method and path of a request, and whether it is a CORS preflight."""
        if not self._started:
            self._started = True
            middleware.start_under(request.META.get(VISIT))
        client = client_of(middleware, request.META)
        return client, request.method or "", request.path_info, is_preflight(request.META)


def _record(visit: Visit, request: HttpRequest, response: HttpResponseBase) -> None:
    if visit.notes or response.status_code in (401, 403):
        visit.record(exchange_of(request.META, visit.client, visit.path, response.status_code))


def _answer(visit: Visit, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Give the app's answer, or the refusal by a limit at its view or of a user."""
    if visit.refusal is None:
        fields, clock = visit.middleware.fields, visit.middleware.clock
        for name, value in fields.passed(visit.hits, visit.least, clock) if visit.least is not None else ():
            response.headers[name] = value
        return response
    response.close()
    return _refused(visit.middleware, visit.refusal, visit.client, request)


def _header_of(request: object, name: str) -> str:
    return header_of(cast("HttpRequest", request).META, name)


def _refused(middleware: Middleware, refusal: Refusal, client: Client, request: HttpRequest) -> HttpResponse:
    accept = header_of(request.META, "accept")
    found = middleware.answer(refusal, client, request.method or "", request.path_info, request, accept)
    return HttpResponse(found.body, status=found.status, headers=dict(found.headers))
