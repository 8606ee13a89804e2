"""The public API as the type checkers see it. Never run: mypy and pyright read it, and complain if an error is gone."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from django.http import HttpRequest, HttpResponse
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware

import appguard
from appguard import (
    Answer,
    AppGuard,
    Ban,
    Event,
    Jail,
    Limit,
    open_store,
    report_auth_failure,
    report_auth_success,
)
from appguard import Request as AppGuardRequest
from appguard.asgi import ASGIApp
from appguard.django import limit as django_limit
from appguard.fastapi import limit
from appguard.flask import AppGuard as FlaskAppGuard
from appguard.starlette import RouteLimit
from appguard.stores.base import Store
from appguard.testing import isolated

app = FastAPI()
app.add_middleware(AppGuard)
app.add_middleware(
    AppGuard,
    name="shop",
    limits=["600/minute", Limit("5/minute", path="/login", methods=["POST"])],
    jails=[Jail("login", maxretry=5, findtime="10m", bantime="1h")],
    store="memory://",
    counters="memcached://127.0.0.1:11211?strategy=moving-window",
    secret="the same in all processes",
    trusted_proxies=["127.0.0.1", "10.0.0.0/8", "unix:"],
    forwarding_header="forwarded",
    safelist=("192.0.2.0/24",),
    exempt_paths=["/healthz"],
    login_paths=["login"],
    event_log="stderr",
    on_store_error="local",
    enabled=False,
    traps=["/.env", "/wp-*"],
    hash_users=True,
    headers="both",
    ban_status=404,
    ban_text="Quote {reference}.",
    response=lambda refusal, request: Answer.of(refusal.status, {"path": request.path}),
    on_limit=lambda event: print(event.address),
    on_auth_failure=lambda event: print(event.user),
    on_ban=lambda ban: print(ban.ref),
)
app.add_middleware(AppGuard, headers="drafts")  # type: ignore[arg-type]
app.add_middleware(AppGuard, response=lambda refusal, request: "no")  # type: ignore[arg-type,return-value]
app.add_middleware(AppGuard, on_ban=lambda ban: ban.addres)  # type: ignore[attr-defined]
app.add_middleware(AppGuard, limts=["5/minute"])  # type: ignore[call-arg]
app.add_middleware(AppGuard, limits=[5])  # type: ignore[list-item]
app.add_middleware(AppGuard, enabled="no")  # type: ignore[arg-type]
app.add_middleware(AppGuard, jails=["login"])  # type: ignore[list-item]

Starlette(middleware=[Middleware(AppGuard, name="shop")])
Starlette(middleware=[Middleware(AppGuard, nmae="shop")])  # type: ignore[call-arg]

guarded = AppGuard(app, limits=[])
assert_type(guarded, AppGuard)
an_app: ASGIApp = guarded
AppGuard("app")  # type: ignore[arg-type]
AppGuard()  # type: ignore[call-arg]


def cost_of(request: AppGuardRequest) -> int:
    """Say what a request costs, by all that may be asked of one."""
    assert_type(request.header("X-Plan"), str)
    assert_type(request.user, str)
    assert_type(request.native, object)
    return 5 if request.path == "/search" and request.method == "GET" and request.address else 1


Limit(
    "5/minute",
    path="/login",
    methods=["POST"],
    name="login",
    key="user",
    cost=cost_of,
    count="auth_failure",
    burst=9,
    exempt=lambda request: request.header("X-Monitor") == "yes",
    dry_run=True,
    shared="logins",
)
Limit(lambda request: "5/minute" if request.user else "1/minute", key=lambda request: request.user or None)
Limit("5/minute", count="4xx", cost=3)
Limit("5/minute", count=[401, 404])
Limit("5/minute", count="auth_failures")  # type: ignore[arg-type]
Limit("5/minute", count=401)  # type: ignore[arg-type]
Limit("5/minute", cost="3")  # type: ignore[arg-type]
Limit("5/minute", exempt=cost_of("x"))  # type: ignore[arg-type]
Limit("5/minute", key=lambda request: request.hedaer("X"))  # type: ignore[attr-defined]
Limit(cost_of)  # type: ignore[arg-type]
Limit("5/minute", kye="user")  # type: ignore[call-arg]
app.add_middleware(AppGuard, counters=["memory://"])  # type: ignore[arg-type]

app.add_api_route("/books", lambda: None, dependencies=[Depends(limit("5/minute", key="user", dry_run=True))])
limit("5/minute", kye="user")  # type: ignore[call-arg]
limit(5)  # type: ignore[arg-type]
Middleware(RouteLimit, "5/minute", shared="books")
guard = FlaskAppGuard(limits=[])


@guard.limit("5/minute", methods=["POST"])
def flask_view(number: int) -> str:
    """Answer a page of Flask."""
    return str(number)


assert_type(flask_view(5), str)
flask_view("5")  # type: ignore[arg-type]
guard.limit("5/minute", pth="/")  # type: ignore[call-arg]


@django_limit("5/minute")
def django_view(request: HttpRequest, number: int) -> HttpResponse:
    """Answer a page of Django."""
    return HttpResponse(f"{request.path} {number}")


assert_type(django_view(HttpRequest(), 5), HttpResponse)
django_view(HttpRequest(), "5")  # type: ignore[arg-type]

with isolated() as isolation:
    assert_type(isolation.events, list[Event])
    isolation.clock.advance(60)
    isolation.clock.advance("60")  # type: ignore[arg-type]

a_limit = Limit("5/minute", methods=("POST",))
a_limit.rate = "6/minute"  # type: ignore[misc]
assert_type(Ban.of("203.0.113.5", jail="manual", bantime="1h", reason="ticket 17"), Ban)


def login(request: Request) -> None:
    """Report as an endpoint does."""
    assert_type(report_auth_failure(request, user="alice", credential="tried"), None)
    report_auth_failure(request.scope, "alice")
    report_auth_success(request, user="alice")
    report_auth_failure(request, usr="alice")  # type: ignore[call-arg]
    report_auth_failure(request, "alice", "tried")  # type: ignore[call-arg]


def ban() -> None:
    """Ban as a script does."""
    with open_store("memory://") as store:
        assert_type(store, Store)
        assert_type(store.ban(Ban.of("203.0.113.5")), Ban | None)


assert_type(appguard.open_store(), Store)
print(appguard.AppGaurd)  # type: ignore[attr-defined]
