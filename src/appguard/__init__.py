"""AppGuard: a failed login in the app becomes a kernel drop on the host.

Public names are resolved at their first use, so that importing appguard imports no framework, no redis and no limits.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appguard.answers import Answer
    from appguard.asgi import AppGuard
    from appguard.ban import Ban
    from appguard.errors import AppGuardError, ConfigError, RefusedForSafety, StoreError
    from appguard.event import Event
    from appguard.guard import Refusal
    from appguard.jail import Jail
    from appguard.limit import Limit
    from appguard.report import report_auth_failure, report_auth_success
    from appguard.request import Request
    from appguard.stores.open import open_store

__all__ = [
    "Answer",
    "AppGuard",
    "AppGuardError",
    "Ban",
    "ConfigError",
    "Event",
    "Jail",
    "Limit",
    "Refusal",
    "RefusedForSafety",
    "Request",
    "StoreError",
    "open_store",
    "report_auth_failure",
    "report_auth_success",
]

_MODULES = {
    "Answer": "answers",
    "AppGuard": "asgi",
    "AppGuardError": "errors",
    "Ban": "ban",
    "ConfigError": "errors",
    "Event": "event",
    "Jail": "jail",
    "Limit": "limit",
    "Refusal": "guard",
    "RefusedForSafety": "errors",
    "Request": "request",
    "StoreError": "errors",
    "open_store": "stores.open",
    "report_auth_failure": "report",
    "report_auth_success": "report",
}


if not TYPE_CHECKING:  # a type checker shall know the names above and no others

    def __getattr__(name: str) -> object:
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module 'appguard' has no attribute {name!r}")
        return getattr(importlib.import_module(f"appguard.{module}"), name)


def __dir__() -> list[str]:
    return __all__
