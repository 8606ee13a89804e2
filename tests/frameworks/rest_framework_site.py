"""The site of `sites.py` on Django REST framework: its own requests, its own basic authentication, its own answers.

Imported once Django is set up; `sites.django_rest_site` has its URLs used.
"""

# pyright: reportIncompatibleMethodOverride=false, reportUntypedFunctionDecorator=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# mypy: disable-error-code="import-untyped, misc, untyped-decorator, no-any-unimported"

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework.authentication import BasicAuthentication  # pyright: ignore[reportMissingTypeStubs]
from rest_framework.decorators import (  # pyright: ignore[reportMissingTypeStubs]
    api_view,
    authentication_classes,
    permission_classes,
)
from rest_framework.exceptions import AuthenticationFailed  # pyright: ignore[reportMissingTypeStubs]
from rest_framework.permissions import AllowAny, BasePermission  # pyright: ignore[reportMissingTypeStubs]
from rest_framework.renderers import BaseRenderer  # pyright: ignore[reportMissingTypeStubs]
from rest_framework.response import Response  # pyright: ignore[reportMissingTypeStubs]

from appguard import report_auth_failure, report_auth_success


class Alice(BasicAuthentication):
    """Basic authentication that knows one user."""

    def authenticate_credentials(self, userid: str, password: str, request: object = None) -> tuple[str, None]:
        """Let Alice in."""
        if (userid, password) != ("alice", "wonderland"):
            raise AuthenticationFailed
        return userid, None


class Known(BasePermission):
    """Lets in whom the authentication knows."""

    def has_permission(self, request: Any, view: object) -> bool:
        """Say whether somebody is known."""
        return bool(request.user == "alice")


class Plain(BaseRenderer):
    """Writes what it is given."""

    media_type = "text/plain"
    format = "text"

    def render(self, data: Any, accepted_media_type: object = None, renderer_context: object = None) -> bytes:
        """Give text."""
        return str(data).encode()


def _view(
    function: Callable[[Any], Any], method: str = "GET", *, authentication: Any = (), permission: Any = AllowAny
) -> Any:
    view = permission_classes([permission])(authentication_classes(list(authentication))(function))
    made: Any = api_view([method])(view)
    made.cls.renderer_classes = [Plain]
    return made


def _home(_request: Any) -> Any:
    return Response("home")


def _basic(_request: Any) -> Any:
    return Response("in")


def _login(request: Any) -> Any:
    user = request.headers.get("X-User", "")
    if request.headers.get("X-Password") == "wonderland":
        report_auth_success(request, user=user)
        return Response("in")
    report_auth_failure(request, user=user)
    return Response("no", status=401)


def _denied(_request: Any) -> Any:
    return Response("denied", status=403)


urlpatterns = [
    path("", _view(_home)),
    path("basic", _view(_basic, authentication=[Alice], permission=Known)),
    path("login", _view(_login, "POST")),
    path("denied", _view(_denied)),
]


class UseTheseUrls:
    """A middleware for a site beside others that have other URLs."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serve this module's pages."""
        request.urlconf = __name__
        return self._get_response(request)
