"""The Flask extension: `AppGuard(app)`, or `guard = AppGuard()` and `guard.init_app(app)`.

It wraps `app.wsgi_app`, so it stands in front of routing, of static files and of 404s.
"""

from typing import TYPE_CHECKING, Unpack, cast

from appguard.config import AppOptions
from appguard.wsgi import AppGuard as WsgiAppGuard

if TYPE_CHECKING:
    from flask import Flask


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
        """Protect an app made later."""
        if not hasattr(app, "wsgi_app"):
            raise TypeError(
                f"{type(app).__name__} is no Flask app: for an ASGI app use `from appguard import AppGuard`, for "
                "another WSGI app `from appguard.wsgi import AppGuard`"
            )
        settings = cast("AppOptions", cast("dict[str, object]", app.config).get("APPGUARD", {}))
        options: AppOptions = {"name": app.name, **settings, **self._options}
        app.wsgi_app = WsgiAppGuard(app.wsgi_app, **options)  # type: ignore[method-assign]  # as Flask's docs do
        app.extensions["appguard"] = self
