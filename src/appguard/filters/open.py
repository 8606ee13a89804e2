"""Makes the filter that a name in the settings means."""

from collections.abc import Callable, Collection

from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.event_log import EventLogFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter

FILTERS: dict[str, Callable[[Collection[str]], Filter]] = {
    "appguard": lambda _: EventLogFilter(),
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
}


def open_filter(name: str, kinds: Collection[str] = ()) -> Filter:
    """Give a filter; raise `ConfigError`. `kinds` are those its jails count: what is costly is yielded only then."""
    if name not in FILTERS:
        raise ConfigError(f"expected one of {', '.join(map(repr, FILTERS))}")
    return FILTERS[name](kinds)
