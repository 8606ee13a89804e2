"""A limit at a route or mount of Starlette: `Route("/login", login, middleware=[Middleware(RouteLimit, "5/minute")])`.

It only stops the request; `AppGuard`, which must be in front, gives the answer, the same as to any refusal.
"""

from itertools import count
from typing import Unpack

from appguard.asgi import ASGIApp, Receive, Scope, Send
from appguard.guard import Refusal
from appguard.limit import Limit, LimitOptions, RateOf
from appguard.routes import name_of, visit_of

ADVICE = "app.add_middleware(AppGuard)"
REFUSED_CLOSE = 1008  # policy violation

_numbers = count(1)  # the same in all workers of an app, which make its routes in the same order


class RouteLimit:
    """A limit in front of what one route or mount leads to. Raise `ConfigError` for a wrong option."""

    def __init__(self, app: ASGIApp, rate: str | RateOf, **options: Unpack[LimitOptions]) -> None:
        self.app = app
        self.limit = Limit(rate, **options)
        self._number = next(_numbers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request that has reached the route."""
        if scope["type"] not in ("http", "websocket") or await ask(self.limit, scope, f" #{self._number}") is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the handshake
            await send({"type": "websocket.close", "code": REFUSED_CLOSE})
        else:
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body", "body": b""})


async def ask(limit: Limit, scope: Scope, place: str = "") -> Refusal | None:
    """Ask a limit at the route that a request has reached; give its refusal, which AppGuard will answer.

    `place` tells apart routes that lead to the same function.
    """
    visit = visit_of(scope, ADVICE)
    if visit is None:
        return None
    return await visit.middleware.ask_async(visit, limit, _route(scope) + place, scope)


def _route(scope: Scope) -> str:
    """Give the name of a route: its path as it was written, not as a client filled it in, and what it leads to."""
    path = getattr(scope.get("route"), "path", "")
    return f"{path} {name_of(scope.get('endpoint'))}".strip()
