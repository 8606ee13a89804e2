"""What a limit at a route finds on the framework's request: the visit that AppGuard's middleware has left there."""

from collections.abc import Mapping

from appguard.errors import ConfigError
from appguard.report import VISIT
from appguard.visit import Visit


def visit_of(native: Mapping[str, object], advice: str) -> Visit | None:
    """Give the visit, None where AppGuard is switched off.

    Raise `ConfigError` with `advice` where no AppGuard is in front: a limit that limits nothing is worse than an error.
    """
    if VISIT not in native:
        raise ConfigError(f"a limit stands at a route, but no AppGuard in front of it: {advice}")
    visit = native[VISIT]
    return visit if isinstance(visit, Visit) else None


def name_of(function: object) -> str:
    """Give the name under which requests to a function are counted."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
