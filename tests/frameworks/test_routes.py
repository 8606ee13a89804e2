"""Limits at routes: one small site in every framework, the same limits at its routes, the same answers."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Unpack

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path as django_path
from django.utils.asyncio import async_unsafe
from django.utils.decorators import method_decorator
from django.utils.functional import SimpleLazyObject
from django.views import View
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from flask import Flask, Response
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Mount, Route

from appguard import AppGuard, ConfigError, Limit, report_auth_failure
from appguard.config import AppOptions
from appguard.django import limit as django_limit
from appguard.fastapi import limit
from appguard.flask import AppGuard as FlaskAppGuard
from appguard.starlette import RouteLimit
from tests.frameworks.asgi_client import Caller
from tests.frameworks.sites import Site, django_handler, of_asgi, of_wsgi

BOB = "198.51.100.7"
EVIL = "https://evil.example"


async def page(_request: Request) -> PlainTextResponse:
    """Answer a page."""
    return PlainTextResponse("page")


async def other(_request: Request) -> PlainTextResponse:
    """Answer another page."""
    return PlainTextResponse("other")


async def login(request: Request) -> PlainTextResponse:
    """Let in whoever knows the password."""
    if request.headers.get("x-password") == "wonderland":
        return PlainTextResponse("in")
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)


def fastapi_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on FastAPI."""
    app = FastAPI()
    app.add_api_route("/page", page, dependencies=[Depends(limit("2/minute"))], response_model=None)
    app.add_api_route("/other", other, dependencies=[Depends(limit("2/minute"))], response_model=None)
    app.add_api_route("/one", page, dependencies=[Depends(limit("2/minute", shared="pair"))], response_model=None)
    app.add_api_route("/two", page, dependencies=[Depends(limit("2/minute", shared="pair"))], response_model=None)
    wrong = Depends(limit("2/minute", count="auth_failure"))
    app.add_api_route("/sign", login, methods=["POST"], dependencies=[wrong], response_model=None)
    app.add_api_route("/dry", page, dependencies=[Depends(limit("1/minute", dry_run=True))], response_model=None)
    app.add_middleware(AppGuard, **options)
    return of_asgi(app)


def starlette_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Starlette."""

    def limited(path: str, endpoint: Any, rate: str, methods: list[str] | None = None, **more: Any) -> Route:
        return Route(path, endpoint, methods=methods, middleware=[Middleware(RouteLimit, rate, **more)])

    routes = [
        limited("/page", page, "2/minute"),
        limited("/other", other, "2/minute"),
        limited("/one", page, "2/minute", shared="pair"),
        limited("/two", page, "2/minute", shared="pair"),
        limited("/sign", login, "2/minute", ["POST"], count="auth_failure"),
        limited("/dry", page, "1/minute", dry_run=True),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(AppGuard, **options)
    return of_asgi(app)


def flask_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Flask: the extension is made before the app."""
    guard = FlaskAppGuard(**options)
    app = Flask("site")

    def flask_login() -> Response:
        if flask_request.headers.get("X-Password") == "wonderland":
            return Response("in")
        report_auth_failure(flask_request, user="alice")
        return Response("no", 401)

    def view(text: str) -> Callable[[], str]:
        def answer() -> str:
            return text

        answer.__qualname__ = text
        return answer

    app.add_url_rule("/page", "page", guard.limit("2/minute")(view("page")))
    app.add_url_rule("/other", "other", guard.limit("2/minute")(view("other")))
    app.add_url_rule("/one", "one", guard.limit("2/minute", shared="pair")(view("page")))
    app.add_url_rule("/two", "two", guard.limit("2/minute", shared="pair")(view("page")))
    app.add_url_rule("/sign", "sign", guard.limit("2/minute", count="auth_failure")(flask_login), methods=["POST"])
    app.add_url_rule("/dry", "dry", guard.limit("1/minute", dry_run=True)(view("page")))
    guard.init_app(app)
    return of_wsgi(app)


def _django_page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


def _django_other(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("other")


def _django_login(request: HttpRequest) -> HttpResponse:
    if request.headers.get("X-Password") == "wonderland":
        return HttpResponse("in")
    report_auth_failure(request, user="alice")
    return HttpResponse("no", status=401)


async def _django_async_page(request: HttpRequest) -> HttpResponse:
    return _django_page(request)


async def _django_async_other(request: HttpRequest) -> HttpResponse:
    return _django_other(request)


async def _django_async_login(request: HttpRequest) -> HttpResponse:
    return _django_login(request)


@method_decorator(django_limit("2/minute"), name="get")
class DjangoClass(View):
    """A view that is a class."""

    def get(self, _request: HttpRequest) -> HttpResponse:
        """Answer."""
        return HttpResponse("class")


class DjangoUser:
    """A user as Django's session gives one, read from a database, which no event loop may wait for."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.username = name


def _logged_in(view: Any) -> Any:
    """Give a view behind what Django's middleware does: the user is read when it is first asked for."""

    def log_in(request: HttpRequest) -> None:
        read = async_unsafe("reads a database")(lambda: DjangoUser(request.headers["X-User"]))
        request.user = SimpleLazyObject(read)  # type: ignore[assignment]

    def sync_view(request: HttpRequest) -> Any:
        log_in(request)
        return view(request)

    async def async_view(request: HttpRequest) -> Any:
        log_in(request)
        return await view(request)

    return async_view if inspect.iscoroutinefunction(view) else sync_view


def _django_urls(page: Any, other: Any, login: Any) -> list[Any]:
    return [
        django_path("page", django_limit("2/minute")(page)),
        django_path("other", django_limit("2/minute")(other)),
        django_path("one", django_limit("2/minute", shared="pair")(page)),
        django_path("two", django_limit("2/minute", shared="pair")(page)),
        django_path("sign", django_limit("2/minute", count="auth_failure")(login)),
        django_path("dry", django_limit("1/minute", dry_run=True)(page)),
        django_path("class", DjangoClass.as_view()),
        django_path("user", _logged_in(django_limit("2/minute", key="user")(page))),
    ]


class SyncUrls:
    """The sync views."""

    urlpatterns = _django_urls(_django_page, _django_other, _django_login)


class AsyncUrls:
    """The async views."""

    urlpatterns = _django_urls(_django_async_page, _django_async_other, _django_async_login)


def _routed(site: Site, urls: type[Any]) -> Site:
    from django.test.utils import override_settings

    def ask(*args: Any, **more: Any) -> Any:
        with override_settings(ROOT_URLCONF=urls):
            return site(*args, **more)

    return ask


def django_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Django under WSGI."""
    return _routed(of_wsgi(django_handler(WSGIHandler, options)), SyncUrls)


def django_async_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Django under ASGI, with async views."""
    return _routed(of_asgi(django_handler(ASGIHandler, options)), AsyncUrls)


SITES: dict[str, Callable[..., Site]] = {
    "fastapi": fastapi_site,
    "starlette": starlette_site,
    "flask": flask_site,
    "django": django_site,
    "django-async": django_async_site,
}


@pytest.fixture(params=SITES, name="ask")
def make_site(request: pytest.FixtureRequest) -> Site:
    """Give the site in each framework, without limits but those at its routes."""
    make: Callable[..., Site] = SITES[request.param]
    return make(store="memory://", limits=[], event_log="logger")


def statuses(ask: Site, path: str, times: int, method: str = "GET", **more: Any) -> list[int]:
    """Ask several times; give the statuses."""
    return [ask(method, path, **more).status for _ in range(times)]


def test_a_route_is_limited_apart_and_answered_as_anywhere(ask: Site) -> None:
    """Each client has its amount at each route; the refusal is AppGuard's own answer, fields and all."""
    assert statuses(ask, "/page", 3) == [200, 200, 429]
    assert statuses(ask, "/other", 3) == [200, 200, 429]
    assert statuses(ask, "/page", 1, peer=BOB) == [200]
    refused = ask("GET", "/page", {"Accept": "application/json"})
    assert refused.status == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "60"
    assert ";q=2;w=60" in refused.headers["ratelimit-policy"]


def test_shared_routes_count_together(ask: Site) -> None:
    """One shared name is one bucket, whichever route is asked."""
    assert [ask("GET", path).status for path in ("/one", "/two", "/one", "/two")] == [200, 200, 429, 429]


def test_wrong_passwords_at_a_route(ask: Site) -> None:
    """Right logins use up nothing, two wrong ones fill the limit, and then a right one is refused too."""
    right = {"X-Password": "wonderland"}
    assert statuses(ask, "/sign", 5, "POST", headers=right) == [200] * 5
    assert statuses(ask, "/sign", 3, "POST") == [401, 401, 429]
    assert statuses(ask, "/sign", 1, "POST", headers=right) == [429]


def test_dry_run_at_a_route(ask: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is refused, and the log says what would be."""
    assert statuses(ask, "/dry", 3) == [200, 200, 200]
    assert "in dry run, would refuse 203.0.113.5 GET '/dry'" in caplog.text


@pytest.mark.parametrize("make", SITES.values(), ids=SITES)
def test_a_switched_off_app_has_no_limits_at_routes_either(make: Callable[..., Site]) -> None:
    """With enabled=False every route is served."""
    ask = make(enabled=False)
    assert statuses(ask, "/page", 5) == [200] * 5


@pytest.mark.parametrize("make", SITES.values(), ids=SITES)
def test_safelist_and_exempt_paths_hold_at_routes(make: Callable[..., Site]) -> None:
    """Who is never limited is not limited at a route, and a path that is not counted is not counted there."""
    ask = make(store="memory://", limits=[], safelist=[BOB], exempt_paths=["/other"], event_log="logger")
    assert statuses(ask, "/page", 5, peer=BOB) == [200] * 5
    assert statuses(ask, "/other", 5) == [200] * 5
    assert statuses(ask, "/page", 3) == [200, 200, 429]


@pytest.mark.parametrize("make", SITES.values(), ids=SITES)
def test_what_is_left_at_a_route_is_told(make: Callable[..., Site]) -> None:
    """A limit of wrong passwords in front hides it not, and who wants no fields gets none, however little is left."""
    wrong = Limit("1/hour", count="auth_failure")
    ask = make(store="memory://", limits=[wrong], event_log="logger")
    assert ask("GET", "/page").headers["ratelimit"].endswith(";r=1;t=60")
    silent = make(store="memory://", limits=[], headers="none", event_log="logger")
    for answer in (silent("GET", "/page"), silent("GET", "/page"), silent("GET", "/page")):
        assert not any("ratelimit" in name for name in answer.headers)


@pytest.mark.parametrize("make", SITES.values(), ids=SITES)
def test_whichever_has_least_left_is_told_at_a_route(make: Callable[..., Site]) -> None:
    """The route's limit or the app's."""
    ask = make(store="memory://", limits=["9/hour"], event_log="logger")
    assert ask("GET", "/page").headers["ratelimit"].endswith(";r=1;t=60")
    ask = make(store="memory://", limits=["1/hour"], event_log="logger")
    assert ask("GET", "/page").headers["ratelimit"] == '"1/hour";r=0;t=3600'


def test_a_class_of_django_is_limited() -> None:
    """A view class takes the decorator through Django's own `method_decorator`."""
    ask = django_site(store="memory://", limits=[], event_log="logger")
    assert statuses(ask, "/class", 3) == [200, 200, 429]


@pytest.mark.parametrize("make", [django_site, django_async_site])
def test_users_of_django_have_their_own_amounts(make: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """A user is counted from whatever address, in async views too, where the session must be read on a thread."""
    ask = make(store="memory://", limits=[], event_log="logger")
    asked = [("alice", BOB), ("alice", "198.51.100.8"), ("bob", BOB), ("alice", "198.51.100.9"), ("bob", BOB)]
    answers = [ask("GET", "/user", {"X-User": user}, peer=peer).status for user, peer in asked]
    assert answers == [200, 200, 200, 429, 200]
    assert "failed" not in caplog.text


def fastapi_app() -> FastAPI:
    """Give an app with limits at a router, in a mounted app, at a websocket and at a parameter."""
    app, mounted = FastAPI(), FastAPI()
    router = APIRouter(prefix="/api", dependencies=[Depends(limit("2/minute"))])
    router.add_api_route("/books/{number}", page, response_model=None)
    router.add_api_route("/authors", page, response_model=None)
    mounted.add_api_route("/page", page, dependencies=[Depends(limit("2/minute"))], response_model=None)

    @app.websocket("/chat")
    async def chat(  # pyright: ignore[reportUnusedFunction]
        socket: WebSocket, _: Annotated[None, Depends(limit("2/minute"))]
    ) -> None:
        await socket.accept()
        await socket.close()

    app.include_router(router)
    app.mount("/inner/{tenant}", mounted)
    return app


def guarded() -> FastAPI:
    """Give it behind AppGuard."""
    app = fastapi_app()
    app.add_middleware(AppGuard, limits=[], store="memory://", event_log="logger")
    return app


def test_a_routers_limit_counts_each_route_and_not_each_book() -> None:
    """The limit of an included router is one bucket per route, whatever a parameter of the path is."""
    caller = Caller(guarded())
    assert [caller.get(f"/api/books/{number}").status for number in range(3)] == [200, 200, 429]
    assert caller.statuses(3, path="/api/authors") == [200, 200, 429]


def test_a_limit_in_a_mounted_app_is_answered_by_the_outer_guard() -> None:
    """The mounted app has no guard of its own; what the mount's path holds makes no new bucket."""
    caller = Caller(guarded())
    replies = [caller.get(f"/inner/{tenant}/page") for tenant in ("a", "b", "c")]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].headers["retry-after"] == "60"
    assert replies[2].text.startswith("Too many requests")


def test_a_websocket_is_refused_before_it_is_accepted() -> None:
    """The third handshake is closed and never accepted."""
    caller = Caller(guarded())
    kinds = [[message["type"] for message in caller.handshake("/chat").messages] for _ in range(3)]
    assert kinds == [["websocket.accept", "websocket.close"]] * 2 + [["websocket.close"]]
    denied = caller.handshake("/chat", can_deny=True)
    assert denied.status == 429


def test_a_refusal_at_a_route_passes_other_middleware() -> None:
    """Middleware of the app inside and outside AppGuard sees the refusal as an answer like any."""
    app = fastapi_app()

    class Inner(BaseHTTPMiddleware):
        """Marks what passes."""

        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> StarletteResponse:
            """Mark."""
            response = await call_next(request)
            response.headers["x-inner"] = "seen"
            return response

    app.add_middleware(Inner)
    app.add_middleware(AppGuard, limits=[], store="memory://", event_log="logger")
    app.add_middleware(CORSMiddleware, allow_origins=[EVIL])
    caller = Caller(app)
    replies = [caller.get("/api/authors", {"origin": EVIL}) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].headers["access-control-allow-origin"] == EVIL
    assert replies[0].headers["x-inner"] == "seen"


def test_a_limit_without_appguard_in_front_is_an_error() -> None:
    """A limit that would limit nothing says which line is missing."""
    with pytest.raises(ConfigError, match=r"app.add_middleware\(AppGuard\)"):
        Caller(fastapi_app()).get("/api/authors")
    app = Flask("site")
    app.testing = True
    app.add_url_rule("/", "page", FlaskAppGuard().limit("2/minute")(lambda: "page"))
    with pytest.raises(ConfigError, match="init_app"):
        app.test_client().get("/")


def test_guesses_at_once_at_a_route() -> None:
    """64 at once against five wrong passwords are five tries, as with a limit in front of routing."""
    app = FastAPI()
    wrong = Depends(limit("5/minute", count="auth_failure"))
    tried: list[str] = []

    async def slow(request: Request) -> PlainTextResponse:
        tried.append("guess")
        await asyncio.sleep(0)
        report_auth_failure(request, user="alice")
        return PlainTextResponse("no", 401)

    app.add_api_route("/enter", slow, methods=["POST"], dependencies=[wrong], response_model=None)
    app.add_middleware(AppGuard, limits=[], store="memory://", event_log="logger")
    caller = Caller(app)

    async def all_at_once() -> list[int]:
        replies = await asyncio.gather(*(caller.ask(caller.http("POST", "/enter")) for _ in range(64)))
        return [reply.status for reply in replies]

    assert sorted(asyncio.run(all_at_once())) == [401] * 5 + [429] * 59
    assert len(tried) == 5


def test_starlette_classes_and_mounts() -> None:
    """`RouteLimit` stands before a class of endpoints and before a whole mount."""

    class Shelf(HTTPEndpoint):
        """A class of endpoints."""

        async def get(self, _request: Request) -> PlainTextResponse:
            """Answer."""
            return PlainTextResponse("shelf")

    inside = [Route("/a", page), Route("/b", other)]
    app = Starlette(
        routes=[
            Route("/shelf", Shelf, middleware=[Middleware(RouteLimit, "2/minute")]),
            Mount("/rooms", routes=inside, middleware=[Middleware(RouteLimit, "2/minute")]),
        ]
    )
    app.add_middleware(AppGuard, limits=[], store="memory://", event_log="logger")
    caller = Caller(app)
    assert caller.statuses(3, path="/shelf") == [200, 200, 429]
    assert [caller.get(path).status for path in ("/rooms/a", "/rooms/b", "/rooms/a")] == [200, 200, 429]


@pytest.mark.parametrize("path", ["/one/", "/two/"])
def test_routes_to_one_function_are_counted_apart(path: str) -> None:
    """The same function at two routes, or two mounts that look alike, are two buckets."""
    lone = Starlette(
        routes=[Route(f"/{name}/", page, middleware=[Middleware(RouteLimit, "2/minute")]) for name in ("one", "two")]
    )
    mounts = [
        Mount(f"/{name}", routes=[Route("/", page)], middleware=[Middleware(RouteLimit, "2/minute")])
        for name in ("one", "two")
    ]
    for app in (lone, Starlette(routes=mounts)):
        app.add_middleware(AppGuard, limits=[], store="memory://", event_log="logger")
        caller = Caller(app)
        assert caller.statuses(3, path=path) == [200, 200, 429]
        assert caller.statuses(3, path="/two/" if path == "/one/" else "/one/") == [200, 200, 429]
    flask = Flask("site")
    guard = FlaskAppGuard(flask, store="memory://", limits=[], event_log="logger")
    for name in ("one", "two"):
        flask.add_url_rule(f"/{name}/", name, guard.limit("2/minute")(lambda: "page"))
    ask = of_wsgi(flask)
    assert statuses(ask, path, 3) == [200, 200, 429]
    assert statuses(ask, "/two/" if path == "/one/" else "/one/", 3) == [200, 200, 429]


def test_one_extension_protects_two_apps() -> None:
    """The apps of one Flask extension have counters of their own, and its limits stand in both."""
    guard = FlaskAppGuard(store="memory://", limits=[], event_log="logger")
    sites: list[Site] = []
    for name in ("shop", "blog"):
        app = Flask(name)
        app.add_url_rule("/", "page", guard.limit("2/minute")(lambda: "page"))
        guard.init_app(app)
        sites.append(of_wsgi(app))
    for ask in sites:
        assert statuses(ask, "/", 3) == [200, 200, 429]
