"""The Django sites of `peers.py`: a page, and a login whose password is always wrong."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, misc, no-any-return, untyped-decorator"

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks import peer_limit
from benchmarks.peer_limit import Build, event_log, is_redis, parts


class Nobody:
    """An authentication backend that knows no user, and spends no time on it."""

    def authenticate(self, _request: object, username: str = "", password: str = "") -> None:
        """Know nobody."""

    def get_user(self, _user_id: object) -> None:
        """Know nobody."""


def django_site(store: str, *, middleware: str = "", backend: str = "", app: str = "", **settings: Any) -> Any:
    """Set Django up, once in a process, and give its WSGI handler."""
    import django
    from django.conf import settings as django_settings
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    cache = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "peers"}
    if is_redis(store):
        cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": store}
    django_settings.configure(
        SECRET_KEY="peers",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.peer_urls",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *filter(None, [app])],
        MIDDLEWARE=list(filter(None, [middleware])),
        AUTHENTICATION_BACKENDS=[*filter(None, [backend]), "benchmarks.peer_django.Nobody"],
        CACHES={"default": cache},
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(mkdtemp()) / "peers.sqlite3"}},
        SILENCED_SYSTEM_CHECKS=["django_ratelimit.E003", "django_ratelimit.W001"],
        USE_TZ=True,
        LOGGING_CONFIG=None,
        **settings,
    )
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    return get_wsgi_application()


def django_bare(store: str, _limit: str) -> Any:
    """No limiter."""
    return django_site(store)


def django_appguard(store: str, limit: str) -> Any:
    """AppGuard with its header fields."""
    guard = {"name": "peers", "limits": [limit], "store": store, "event_log": event_log()}
    return django_site(store, middleware="appguard.django.AppGuardMiddleware", APPGUARD=guard)


def django_ratelimit(store: str, limit: str) -> Any:
    """Django-ratelimit by its decorator."""
    amount, window = parts(limit)
    peer_limit.rate = f"{amount}/{window}s"
    return django_site(store)


def login_appguard(store: str, limit: str) -> Any:
    """AppGuard with a limit of failed logins."""
    limits = [{"rate": limit, "count": "auth_failure"}]
    guard = {"name": "peers", "limits": limits, "store": store, "event_log": event_log()}
    return django_site(store, middleware="appguard.django.AppGuardMiddleware", APPGUARD=guard)


def login_axes(handler: str) -> Build:
    """Django-axes with one of its handlers."""

    def build(store: str, limit: str) -> Any:
        return django_site(
            store,
            middleware="axes.middleware.AxesMiddleware",
            backend="axes.backends.AxesStandaloneBackend",
            app="axes",
            AXES_FAILURE_LIMIT=parts(limit)[0],
            AXES_COOLOFF_TIME=1,
            AXES_HANDLER=handler,
            AXES_VERBOSE=False,
        )

    return build
