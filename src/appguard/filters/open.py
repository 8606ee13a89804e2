"""Makes the filter that a name in the settings means."""

from collections.abc import Callable

from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.event_log import EventLogFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter

FILTERS: dict[str, Callable[[], Filter]] = {
    "appguard": EventLogFilter,
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
}
# They read lines of a form of their own: from the journal they get messages without who wrote them in front.
BARE = frozenset({"appguard", "nginx", "nginx-json"})


def open_filter(name: str) -> Filter:
    """Give a filter; raise `ConfigError`."""
    if name not in FILTERS:
        raise ConfigError(f"expected one of {', '.join(map(repr, FILTERS))}")
    return FILTERS[name]()
