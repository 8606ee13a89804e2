"""A limit at a route of FastAPI: `Depends(limit("5/minute"))`, at an endpoint, a router or a mounted app.

The dependency only stops the request; `AppGuard`, which must be in front, gives the answer, the same as to any refusal.
"""

from typing import Unpack

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from appguard.limit import Limit, LimitOptions, RateOf
from appguard.starlette import REFUSED_CLOSE, ask


class RouteLimit:
    """A limit as a dependency; each route is counted apart unless the limit has a `name` or is `shared`."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    async def __call__(self, connection: HTTPConnection) -> None:
        """Count one request that has reached a route; raise the exception that ends it if it is refused."""
        refusal = await ask(self.limit, connection.scope)
        if refusal is None:
            return
        if connection.scope["type"] == "websocket":
            raise WebSocketException(REFUSED_CLOSE)
        raise HTTPException(refusal.status)


def limit(rate: str | RateOf, **options: Unpack[LimitOptions]) -> RouteLimit:
    """Make a limit to depend on; rate and options are those of `appguard.Limit`. Raise `ConfigError`."""
    return RouteLimit(Limit(rate, **options))
