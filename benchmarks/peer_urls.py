"""The views of the Django sites of `peer_sites.py`."""

# pyright: basic, reportMissingImports=false
# mypy: disable-error-code="import-not-found,import-untyped,misc"

from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks import peer_limit


def hello(_request: HttpRequest) -> HttpResponse:
    """Answer."""
    return HttpResponse(b"hello")


def login(request: HttpRequest) -> HttpResponse:
    """Refuse a wrong password."""
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    return HttpResponse(status=401 if user is None else 200)


if peer_limit.rate:
    from django_ratelimit.decorators import ratelimit

    hello = ratelimit(key="ip", rate=peer_limit.rate)(hello)

urlpatterns = [path("", hello), path("login", login)]
