"""Makes the filter that a name in the settings means: one of ours, a data file, a `log_format`, JSON, fail2ban's."""

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from appguard.errors import ConfigError
from appguard.event import LOGIN_FAIL
from appguard.filters.base import Filter
from appguard.filters.data_file import DATA, data_filter, read_table
from appguard.filters.event_log import EventLogFilter
from appguard.filters.fail2ban import read_filter as read_fail2ban
from appguard.filters.json_fields import JsonFilter
from appguard.filters.log_format import LogFormatFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter
from appguard.filters.options import FilterOptions, options_of, with_known
from appguard.filters.regex import RegexFilter


def read_filter(name: str, file: Path, kinds: Collection[str] = ()) -> Filter:
    """Give the filter of a data file, which holds regexes, the table `[json]` or `log_format`; raise `ConfigError`."""
    table = read_table(file)
    try:
        if "json" in table:
            return _json_filter(name, table["json"], kinds)
        if "log_format" in table:
            return LogFormatFilter(name, str(table["log_format"]), kinds)
        return data_filter(name, table, kinds, is_ours=file.parent == DATA)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _json_filter(name: str, options: object, kinds: Collection[str]) -> Filter:
    if not isinstance(options, Mapping):
        raise ConfigError(f"json = {options!r}: expected a table of fields")
    return JsonFilter(name, cast("Mapping[str, object]", options), kinds)


def _json_setting(name: str, text: str, kinds: Collection[str]) -> Filter:
    try:
        return _json_filter(name, json.loads(text), kinds)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"json: options: {error}") from error


def _of_data(file: Path) -> Callable[[Collection[str]], Filter]:
    return lambda kinds: read_filter(file.stem, file, kinds)


ACCESS_LOGS: dict[str, Callable[..., Filter]] = {
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
    "apache": partial(NginxFilter, name="apache"),
}
FILTERS: dict[str, Callable[[Collection[str]], Filter]] = {
    "appguard": EventLogFilter,
    **ACCESS_LOGS,
    **{file.stem: _of_data(file) for file in sorted(DATA.glob("*.toml"))},
}
WITH_OPTIONS: dict[str, Callable[[str, str, Collection[str]], Filter]] = {
    "json:": _json_setting,
    "log_format:": LogFormatFilter,
    "log_format ": lambda name, _, kinds: LogFormatFilter(name, name, kinds),
}
REGEX = "regex"
FAIL2BAN = "fail2ban:"
BEHIND_A_HEAD = frozenset({"sshd"})  # reads lines with who wrote them in front, as syslog has them


def open_filter(
    name: str,
    options: Mapping[str, object] | None = None,
    *,
    logtype: str = "file",
    kind: str = LOGIN_FAIL,
    kinds: Collection[str] = (),
    statuses: Collection[int] = (),
) -> Filter:
    """Give a filter; raise `ConfigError`.

    `name` is one of `FILTERS`, `regex`, `fail2ban:` and how fail2ban spells a filter, the whole path of a data file,
    `log_format:` and a format of nginx's, or `json:` and its options as JSON, to which `config_jails.py` turns the
    table a user writes. `options` are what the jail sets beside it in fail2ban's words, `logtype` what its sources give
    ("file" or "journal"), `kind` is the kind of event that a hit of a regex is. `kinds` are those its jails count:
    what is costly is yielded only then. `statuses` are the only ones that matter to those which count any request.
    """
    if name == REGEX or name.startswith(FAIL2BAN):
        return _regex_filter(name, options or {}, logtype, kind)
    if options:
        raise ConfigError(f"{', '.join(options)}: only 'regex' and 'fail2ban:NAME' have regexes of their own")
    if name in ACCESS_LOGS and statuses:
        return ACCESS_LOGS[name](kinds, statuses=statuses)
    if name in FILTERS:
        return FILTERS[name](kinds)
    if name.startswith("/"):
        return read_filter(name, Path(name), kinds)
    for prefix, make in WITH_OPTIONS.items():
        if name.startswith(prefix):
            return make(name, name.removeprefix(prefix), kinds)
    near = difflib.get_close_matches(name, FILTERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{hint}Expected one of {', '.join(map(repr, sorted(FILTERS)))}, the whole path of a data file, "
        "'log_format:...', a table with name = \"json\", 'regex' with failregex, or 'fail2ban:NAME' such as "
        "'fail2ban:sshd'"
    )


def is_bare(name: str) -> bool:
    """Say whether a filter reads lines of a form of its own: the journal gives it messages without who wrote them."""
    return name.startswith(tuple(WITH_OPTIONS)) or (name in FILTERS and name not in BEHIND_A_HEAD)


def journalmatch_of(name: str) -> str:
    """Give what one of fail2ban's filters matches in the journal, empty if it does not say."""
    return read_fail2ban(name.removeprefix(FAIL2BAN), "journal").journalmatch if name.startswith(FAIL2BAN) else ""


def warnings_of(made: Filter) -> tuple[str, ...]:
    """Give what a user should know of a filter before it is trusted with bans."""
    return cast("tuple[str, ...]", getattr(made, "warnings", ()))


def _regex_filter(name: str, options: Mapping[str, object], logtype: str, kind: str) -> RegexFilter:
    own = FilterOptions(logtype=logtype)
    if name != REGEX:
        own = read_fail2ban(name.removeprefix(FAIL2BAN), logtype)
    set_here = {option: with_known(option, value, own) for option, value in options.items()}
    checked = options_of(set_here)
    chosen = replace(own, **{option: getattr(checked, option) for option in set_here})
    return RegexFilter(_unique(name, options, logtype, kind), chosen, kind)


def _unique(name: str, options: Mapping[str, object], logtype: str, kind: str) -> str:
    """Name the filter so that jails share it only if all of it is the same."""
    if name != REGEX and not options and (logtype, kind) == ("file", LOGIN_FAIL):
        return name
    told = repr((sorted(options.items()), logtype, kind))
    return f"{name} ({hashlib.sha256(told.encode()).hexdigest()[:8]})"
