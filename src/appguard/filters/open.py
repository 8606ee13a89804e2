"""Makes the filter that a name in the settings means."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL
from appguard.filters.base import Filter
from appguard.filters.event_log import EventLogFilter
from appguard.filters.fail2ban import read_filter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.filters.options import FilterOptions, options_of, with_known
from appguard.filters.regex import RegexFilter

log = logging.getLogger("appguard")

FILTERS: dict[str, Callable[[], Filter]] = {
    "appguard": EventLogFilter,
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
}
REGEX = "regex"
FAIL2BAN = "fail2ban:"


def open_filter(
    name: str, options: Mapping[str, object] | None = None, *, logtype: str = "file", kind: str = LOGIN_FAIL
) -> Filter:
    """Give a filter; raise `ConfigError`.

    `options` are what the jail sets beside it in fail2ban's words, `logtype` what its sources give ("file" or
    "journal"), `kind` is the kind of event that a hit of a regex is.
    """
    if name == REGEX or name.startswith(FAIL2BAN):
        return _regex_filter(name, options or {}, logtype, kind)
    if name not in FILTERS:
        known = ", ".join(map(repr, FILTERS))
        raise ConfigError(
            f"expected one of {known}, 'regex' with failregex, or 'fail2ban:NAME' such as 'fail2ban:sshd'"
        )
    if options:
        raise ConfigError(f"{', '.join(options)}: only 'regex' and 'fail2ban:NAME' have regexes of their own")
    return FILTERS[name]()


def _regex_filter(name: str, options: Mapping[str, object], logtype: str, kind: str) -> RegexFilter:
    own = FilterOptions(logtype=logtype)
    if name != REGEX:
        own = read_filter(name.removeprefix(FAIL2BAN), logtype)
    set_here = {option: with_known(option, value, own) for option, value in options.items()}
    checked = options_of(set_here)
    chosen = replace(own, **{option: getattr(checked, option) for option in set_here})
    made = RegexFilter(_unique(name, options, logtype, kind), chosen, kind)
    for remark in made.remarks:
        log.warning("filter %s: %s", made.name, remark)
    return made


def _unique(name: str, options: Mapping[str, object], logtype: str, kind: str) -> str:
    """Name the filter so that jails share it only if all of it is the same."""
    if name != REGEX and not options and (logtype, kind) == ("file", LOGIN_FAIL):
        return name
    told = repr((sorted(options.items()), logtype, kind))
    return f"{name} ({hashlib.sha256(told.encode()).hexdigest()[:8]})"
