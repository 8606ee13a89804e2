"""The Django middleware: one class for sync and async, around what all adapters share."""

import time
from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from appguard.address import Client
from appguard.answers import answer
from appguard.django.settings import from_settings
from appguard.environ import client_of, exchange_of, header_of, is_preflight, text_of
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.outcome import Outcome, with_status
from appguard.report import NOTES, Note

Answering = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class AppGuardMiddleware:
    """Protects a Django project by its setting `APPGUARD`. Put it first in `MIDDLEWARE`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Answering) -> None:
        self.get_response = get_response
        # `inspect` sees what asgiref has marked only from Python 3.12 on.
        self._is_async = iscoroutinefunction(get_response)  # pyright: ignore[reportDeprecated]
        if self._is_async:
            markcoroutinefunction(self)
        config = from_settings()
        self._middleware = Middleware(config, _header_of) if config.enabled else None
        if self._middleware is not None:
            self._middleware.start()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Judge one request."""
        if self._is_async:
            return self._call_async(request)
        respond = cast("Callable[[HttpRequest], HttpResponseBase]", self.get_response)
        middleware = self._middleware
        notes = _take_notes(request)
        if middleware is None:
            return respond(request)
        client = client_of(middleware, request.META)
        found = middleware.decide(
            client,
            request.method or "",
            request.path_info,
            time.monotonic(),
            is_counted=not is_preflight(request.META),
            native=request,
        )
        if isinstance(found, Refusal):
            return _refused(found, request)
        response = respond(request)
        outcome = _record(middleware, client, request, response, notes)
        if found is not None:
            refusal = middleware.settle(found, with_status(outcome, response.status_code))
            if refusal is not None:
                response.close()
                return _refused(refusal, request)
        return response

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        respond = cast("Callable[[HttpRequest], Awaitable[HttpResponseBase]]", self.get_response)
        middleware = self._middleware
        notes = _take_notes(request)
        if middleware is None:
            return await respond(request)
        client = client_of(middleware, request.META)
        found = await middleware.decide_async(
            client,
            request.method or "",
            request.path_info,
            time.monotonic(),
            is_counted=not is_preflight(request.META),
            native=request,
        )
        if isinstance(found, Refusal):
            return _refused(found, request)
        response = await respond(request)
        outcome = _record(middleware, client, request, response, notes)
        if found is not None:
            refusal = await middleware.settle_async(found, with_status(outcome, response.status_code))
            if refusal is not None:
                response.close()
                return _refused(refusal, request)
        return response


def _take_notes(request: HttpRequest) -> list[Note]:
    notes: list[Note] = []
    request.META[NOTES] = notes
    return notes


def _record(
    middleware: Middleware, client: Client, request: HttpRequest, response: HttpResponseBase, notes: list[Note]
) -> Outcome | None:
    if not notes and response.status_code not in (401, 403):
        return None
    return middleware.record(exchange_of(request.META, client, request.path_info, response.status_code), notes)


def _header_of(request: object, name: str) -> str:
    return header_of(cast("HttpRequest", request).META, name)


def _refused(refusal: Refusal, request: HttpRequest) -> HttpResponse:
    found = answer(refusal, text_of(request.META, "HTTP_ACCEPT"))
    return HttpResponse(found.body, status=found.status, headers=dict(found.headers))
