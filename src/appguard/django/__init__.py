"""The Django app: settings, system checks, signals and the middleware.

INSTALLED_APPS = ["appguard.django", ...]
MIDDLEWARE = ["appguard.django.AppGuardMiddleware", ...]
APPGUARD = {"limits": ["600/minute"]}
"""

from appguard.django.limits import limit
from appguard.django.middleware import AppGuardMiddleware

__all__ = ["AppGuardMiddleware", "limit"]
