"""The Flask extension: `AppGuard(app)`, or `guard = AppGuard()` and `guard.init_app(app)`; `@guard.limit("5/minute")`.

It wraps `app.wsgi_app`, so it stands in front of routing, of static files and of 404s.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, cast

from appguard.config import AppOptions
from appguard.limit import Limit, LimitOptions, RateOf
from appguard.routes import name_of, visit_of
from appguard.wsgi import AppGuard as WsgiAppGuard

if TYPE_CHECKING:
    from flask import Flask

P = ParamSpec("P")
T = TypeVar("T")


class AppGuard:
    """Protects a Flask app. The options are those of `appguard.config.AppOptions`; none is needed.

    They may also stand in `app.config["APPGUARD"]`; an argument wins. The name defaults to the app's. Raise
    `ConfigError` for a wrong option.
    """

    def __init__(self, app: "Flask | None" = None, **options: Unpack[AppOptions]) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: "Flask") -> None:
        """Protect an app made later; one `AppGuard` may protect several."""
        if not hasattr(app, "wsgi_app"):
            raise TypeError(
                f"{type(app).__name__} is no Flask app: for an ASGI app use `from appguard import AppGuard`, for "
                "another WSGI app `from appguard.wsgi import AppGuard`"
            )
        settings = cast("AppOptions", cast("dict[str, object]", app.config).get("APPGUARD", {}))
        options: AppOptions = {"name": app.name, **settings, **self._options}
        app.wsgi_app = WsgiAppGuard(app.wsgi_app, **options)  # type: ignore[method-assign]  # as Flask's docs do
        app.extensions["appguard"] = self

    def limit(self, rate: str | RateOf, **options: Unpack[LimitOptions]) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Give a decorator that limits a view; put it below `@app.route`, and give it the options of `appguard.Limit`.

        Each view is counted apart unless the limit has a `name` or is `shared`. Raise `ConfigError`.
        """
        limit = Limit(rate, **options)

        def decorate(view: Callable[P, T]) -> Callable[P, T]:
            @wraps(view)
            def limited(*args: P.args, **kwargs: P.kwargs) -> T:
                from flask import Response, current_app, request  # Flask is the app's own

                visit = visit_of(request.environ, "AppGuard(app), or init_app(app)")
                if visit is not None and visit.middleware.ask(
                    visit, limit, request.endpoint or name_of(view), request.environ
                ):
                    return cast("T", Response(status=429))  # AppGuard gives the answer
                ensured: Callable[..., Any] = current_app.ensure_sync(view)
                return cast("T", ensured(*args, **kwargs))

            return limited

        return decorate
