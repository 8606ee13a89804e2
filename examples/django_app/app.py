"""The same small shop on Django, in one file: a page, a login by Django's own authentication, and a private page.

Django says by its signal `user_login_failed` that a login failed: nothing in this file reports it.
"""

import base64
import binascii
import json
import os
from pathlib import Path
from typing import cast

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

DATABASE = Path(os.environ.get("SHOP_DATABASE", "shop.sqlite3"))
PAGE = """<!doctype html>
<title>The shop</title>
<h1>The shop</h1>
<form method="post" action="/login">
  <label>User <input name="user"></label> <label>Password <input name="password" type="password"></label>
  <button>Log in</button>
</form>
<p><a href="/private">Private page</a></p>
"""

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY=os.environ.get("SHOP_SECRET_KEY", "only for the example"),
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["appguard.django", "django.contrib.auth", "django.contrib.contenttypes"],
    MIDDLEWARE=["appguard.django.AppGuardMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.ScryptPasswordHasher"],
    USE_TZ=True,
    APPGUARD={
        "name": "shop",
        "limits": ["100/second", {"rate": "60/minute", "path": "/login", "methods": ["POST"]}],
        "trusted_proxies": ["127.0.0.1", "::1"],  # the nginx of nginx-site.conf, on this host
    },
)
django.setup()

from django.contrib.auth import authenticate  # noqa: E402 - only after the set-up
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402


def home(_request: HttpRequest) -> HttpResponse:
    """Show the page with the login form."""
    return HttpResponse(PAGE)


@csrf_exempt
@require_POST
def login(request: HttpRequest) -> JsonResponse:
    """Log in with a form or with JSON: `user` and `password`."""
    user, password = credentials(request)
    if authenticate(request, username=user, password=password) is None:
        return JsonResponse({"detail": "wrong user or password"}, status=401)
    return JsonResponse({"hello": user})


def private(request: HttpRequest) -> HttpResponse:
    """Show the private page to whoever sends HTTP Basic credentials."""
    user, password = basic_credentials(request.headers.get("Authorization", ""))
    if not user or authenticate(request, username=user, password=password) is None:
        return HttpResponse("wrong user or password", status=401, headers={"WWW-Authenticate": "Basic"})
    return JsonResponse({"private": user})


def credentials(request: HttpRequest) -> tuple[str, str]:
    """Give the user and the password of a login, whichever way it was sent."""
    if request.content_type != "application/json":
        return str(request.POST.get("user", "")), str(request.POST.get("password", ""))
    try:
        sent = json.loads(request.body)
    except ValueError:
        return "", ""
    fields = cast("dict[str, object]", sent) if isinstance(sent, dict) else {}
    return str(fields.get("user", "")), str(fields.get("password", ""))


def basic_credentials(header: str) -> tuple[str, str]:
    """Read HTTP Basic credentials (RFC 7617); empty texts for anything else."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return (user, password) if scheme.lower() == "basic" else ("", "")


def prepare() -> None:
    """Make the database and alice: `python app.py`, once."""
    call_command("migrate", verbosity=0)
    if not User.objects.filter(username="alice").exists():
        User.objects.create_user("alice", password="wonderland")


urlpatterns = [path("", home), path("login", login), path("private", private)]
application = get_wsgi_application()
asgi_application = get_asgi_application()

if __name__ == "__main__":
    prepare()
