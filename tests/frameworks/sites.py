"""One small site in every framework, called without a server: the same paths, the same answers.

GET  /           200 "home"
GET  /basic      401 with a challenge unless alice:wonderland is sent
POST /login      401, after `report_auth_failure` for the user of the header X-User; with the header X-Password:
                 wonderland 200, after `report_auth_success`
GET  /denied     403
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path as django_path
from fastapi import FastAPI
from flask import Flask, Response
from flask import request as flask_request
from flask_httpauth import HTTPBasicAuth  # type: ignore[import-untyped]  # it has no types
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from appguard import AppGuard, report_auth_failure, report_auth_success
from appguard.config import AppOptions
from appguard.flask import AppGuard as FlaskAppGuard
from tests.frameworks.asgi_client import ALICE, Caller

CHALLENGE = {"WWW-Authenticate": 'Basic realm="site"'}
RIGHT = "Basic " + base64.b64encode(b"alice:wonderland").decode()
WRONG = "Basic " + base64.b64encode(b"alice:looking-glass").decode()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: status, headers (names in lower case) and body."""

    status: int
    headers: Mapping[str, str]
    text: str


Site = Callable[..., Answered]  # (method, path, headers, peer) -> Answered


def of_asgi(app: Any) -> Site:
    """Give the site of an ASGI app."""

    def ask(
        method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, peer: str = ALICE
    ) -> Answered:
        reply = Caller(app, (peer, 4711)).request(method, path, dict(headers or {}))
        return Answered(reply.status, reply.headers, reply.text)

    return ask


def of_wsgi(app: Any) -> Site:
    """Give the site of a WSGI app."""

    def ask(
        method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, peer: str = ALICE
    ) -> Answered:
        found: list[Any] = []
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": peer,
            "REMOTE_PORT": "4711",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        } | {"HTTP_" + name.upper().replace("-", "_"): value for name, value in (headers or {}).items()}

        def start_response(
            status: str, headers: Sequence[tuple[str, str]], _exc_info: object = None
        ) -> Callable[[bytes], object]:
            found[:] = [int(status[:3]), {name.lower(): value for name, value in headers}]
            return lambda _data: None

        body = app(environ, start_response)
        try:
            text = b"".join(body).decode()
        finally:
            if hasattr(body, "close"):
                body.close()
        return Answered(found[0], found[1], text)

    return ask


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


async def _basic(request: Request) -> PlainTextResponse:
    if request.headers.get("authorization") == RIGHT:
        return PlainTextResponse("in")
    return PlainTextResponse("who?", 401, CHALLENGE)


async def _login(request: Request) -> PlainTextResponse:
    if request.headers.get("x-password") == "wonderland":
        report_auth_success(request, user=request.headers.get("x-user", ""))
        return PlainTextResponse("in")
    report_auth_failure(request, user=request.headers.get("x-user", ""))
    return PlainTextResponse("no", 401)


async def _denied(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("denied", 403)


def starlette_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Starlette."""
    app = Starlette(
        routes=[
            Route("/", _home),
            Route("/basic", _basic),
            Route("/login", _login, methods=["POST"]),
            Route("/denied", _denied),
        ]
    )
    app.add_middleware(AppGuard, **options)
    return of_asgi(app)


def fastapi_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on FastAPI."""
    app = FastAPI()
    app.add_api_route("/", _home, response_model=None)
    app.add_api_route("/basic", _basic, response_model=None)
    app.add_api_route("/login", _login, methods=["POST"], response_model=None)
    app.add_api_route("/denied", _denied, response_model=None)
    app.add_middleware(AppGuard, **options)
    return of_asgi(app)


def flask_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Flask, its basic auth by Flask-HTTPAuth."""
    app = Flask("site")
    auth: Any = HTTPBasicAuth()

    def verify(user: str, password: str) -> bool:
        return (user, password) == ("alice", "wonderland")

    auth.verify_password(verify)

    def login() -> Response:
        if flask_request.headers.get("X-Password") == "wonderland":
            report_auth_success(flask_request, user=flask_request.headers.get("X-User", ""))
            return Response("in")
        report_auth_failure(flask_request, user=flask_request.headers.get("X-User", ""))
        return Response("no", 401)

    app.add_url_rule("/", "home", lambda: "home")
    app.add_url_rule("/basic", "basic", auth.login_required(lambda: "in"))
    app.add_url_rule("/login", "login", login, methods=["POST"])
    app.add_url_rule("/denied", "denied", lambda: Response("denied", 403))
    FlaskAppGuard(app, **options)
    return of_wsgi(app)


def _django_home(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


def _django_basic(request: HttpRequest) -> HttpResponse:
    if request.headers.get("Authorization") == RIGHT:
        return HttpResponse("in")
    return HttpResponse("who?", status=401, headers=CHALLENGE)


def _django_login(request: HttpRequest) -> HttpResponse:
    if request.headers.get("X-Password") == "wonderland":
        report_auth_success(request, user=request.headers.get("X-User", ""))
        return HttpResponse("in")
    report_auth_failure(request, user=request.headers.get("X-User", ""))
    return HttpResponse("no", status=401)


def _django_denied(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("denied", status=403)


urlpatterns = [
    django_path("", _django_home),
    django_path("basic", _django_basic),
    django_path("login", _django_login),
    django_path("denied", _django_denied),
]
DJANGO: dict[str, object] = {
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": __name__,
    "SECRET_KEY": "only for tests",
    "INSTALLED_APPS": ["appguard.django", "django.contrib.auth", "django.contrib.contenttypes"],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    "USE_TZ": True,
}


def set_up_django() -> None:
    """Set Django up, once per process."""
    if not settings.configured:
        import django

        settings.configure(**DJANGO)
        django.setup()


def django_handler(kind: type[Any], options: AppOptions, *more: str) -> Any:
    """Give a handler of Django with these options, and with more middleware behind AppGuard's."""
    set_up_django()
    settings.APPGUARD = options  # without the signal of `override_settings`, which sites made before would follow
    settings.MIDDLEWARE = ["appguard.django.AppGuardMiddleware", *more]
    return kind()


def django_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Django under WSGI."""
    return of_wsgi(django_handler(WSGIHandler, options))


def django_async_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Django under ASGI."""
    return of_asgi(django_handler(ASGIHandler, options))


def django_rest_site(**options: Unpack[AppOptions]) -> Site:
    """Give the site on Django REST framework."""
    return of_wsgi(django_handler(WSGIHandler, options, "tests.frameworks.rest_framework_site.UseTheseUrls"))


SITES: dict[str, Callable[..., Site]] = {
    "starlette": starlette_site,
    "fastapi": fastapi_site,
    "flask": flask_site,
    "django": django_site,
    "django-async": django_async_site,
    "django-rest": django_rest_site,
}
