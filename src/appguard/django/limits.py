"""A limit at a view: `@limit("5/minute")`, for a function, sync or async; for a class through `method_decorator`."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, Unpack, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse

from appguard.limit import Limit, LimitOptions, RateOf
from appguard.routes import name_of, visit_of

P = ParamSpec("P")
T = TypeVar("T")
ADVICE = 'put "appguard.django.AppGuardMiddleware" into MIDDLEWARE'


def limit(
    rate: str | RateOf, **options: Unpack[LimitOptions]
) -> Callable[[Callable[Concatenate[HttpRequest, P], T]], Callable[Concatenate[HttpRequest, P], T]]:
    """Give a decorator that limits a view; the options are those of `appguard.Limit`.

    Each view is counted apart unless the limit has a `name` or is `shared`. The middleware gives the answer. Raise
    `ConfigError`.
    """
    made = Limit(rate, **options)

    def decorate(view: Callable[Concatenate[HttpRequest, P], T]) -> Callable[Concatenate[HttpRequest, P], T]:
        name = name_of(view)

        @wraps(view)
        def limited(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> T:
            visit = visit_of(request.META, ADVICE)
            if visit is not None and visit.middleware.ask(visit, made, _route(request, name), request):
                return cast("T", HttpResponse(status=429))
            return view(request, *args, **kwargs)

        @wraps(view)
        async def limited_async(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> object:
            visit = visit_of(request.META, ADVICE)
            if visit is not None and made.key == "user":
                await sync_to_async(_read_user)(request)
            if visit is not None and await visit.middleware.ask_async(visit, made, _route(request, name), request):
                return HttpResponse(status=429)
            return await cast("Awaitable[object]", view(request, *args, **kwargs))

        # `inspect` sees what asgiref has marked only from Python 3.12 on.
        is_async = iscoroutinefunction(view)  # pyright: ignore[reportDeprecated]
        return cast("Callable[Concatenate[HttpRequest, P], T]", limited_async) if is_async else limited

    return decorate


def _read_user(request: HttpRequest) -> None:
    """Have Django read the session now, on a thread: it would at the first question, and raises on an event loop."""
    with suppress(Exception):  # the limit asks again, and says what fails
        _ = request.user.is_authenticated


def _route(request: HttpRequest, name: str) -> str:
    """Give the name of a route: its pattern, not as a client filled it in, and the view."""
    return f"{getattr(request.resolver_match, 'route', '')} {name}"
