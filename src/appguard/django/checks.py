"""Django's system checks of AppGuard. Each has an id that stays the same, to be searched for or silenced."""

from collections.abc import Sequence

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from appguard.django.settings import from_settings
from appguard.errors import ConfigError
from appguard.middleware import Middleware

MIDDLEWARE = "appguard.django.AppGuardMiddleware"
CORS = "corsheaders.middleware.CorsMiddleware"


def check_settings(**_options: object) -> Sequence[CheckMessage]:
    """Check `APPGUARD` (appguard.E001) and the place in `MIDDLEWARE` (appguard.W001, appguard.W002)."""
    found: list[CheckMessage] = []
    try:
        _ = Middleware(from_settings()).store
    except ConfigError as error:
        found.append(Error(f"settings.APPGUARD: {error}", id="appguard.E001"))
    places = list(settings.MIDDLEWARE)
    if MIDDLEWARE not in places:
        hint = f"Put {MIDDLEWARE!r} at the beginning of MIDDLEWARE."
        found.append(Warning("AppGuard is installed but not in MIDDLEWARE.", hint=hint, id="appguard.W001"))
    elif any(place != CORS for place in places[: places.index(MIDDLEWARE)]):
        hint = f"Put {MIDDLEWARE!r} first, or right behind {CORS!r}: what stands before it works for refused requests."
        found.append(Warning("AppGuard is not first in MIDDLEWARE.", hint=hint, id="appguard.W002"))
    return found
