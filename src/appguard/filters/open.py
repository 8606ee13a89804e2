"""Makes the filter that a name in the settings means: one of ours, a data file, a `log_format`, fields of JSON."""

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import cast

from appguard.errors import ConfigError
from appguard.filters.base import Filter
from appguard.filters.data_file import DATA, data_filter, read_table
from appguard.filters.event_log import EventLogFilter
from appguard.filters.json_fields import JsonFilter
from appguard.filters.log_format import LogFormatFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.nginx_json import NginxJsonFilter


def read_filter(name: str, file: Path, kinds: Collection[str] = ()) -> Filter:
    """Give the filter of a data file, which holds regexes, the table `[json]` or `log_format`; raise `ConfigError`."""
    table = read_table(file)
    try:
        if "json" in table:
            return _json_filter(name, table["json"], kinds)
        if "log_format" in table:
            return LogFormatFilter(name, str(table["log_format"]), kinds)
        return data_filter(name, table, kinds)
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


FILTERS: dict[str, Callable[[Collection[str]], Filter]] = {
    "appguard": lambda _: EventLogFilter(),
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
    "apache": partial(NginxFilter, name="apache"),
    **{file.stem: _of_data(file) for file in sorted(DATA.glob("*.toml"))},
}
WITH_OPTIONS: dict[str, Callable[[str, str, Collection[str]], Filter]] = {
    "json:": _json_setting,
    "log_format:": LogFormatFilter,
    "log_format ": lambda name, _, kinds: LogFormatFilter(name, name, kinds),
}


def open_filter(name: str, kinds: Collection[str] = ()) -> Filter:
    """Give a filter; raise `ConfigError`. `kinds` are those its jails count: what is costly is yielded only then.

    `name` is one of `FILTERS`, the whole path of a data file, `log_format:` and a format of nginx's, or `json:` and its
    options as JSON, to which `config_jails.py` turns the table a user writes.
    """
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
        "'log_format:...', or a table with name = \"json\""
    )


def warnings_of(made: Filter) -> tuple[str, ...]:
    """Give what a user should know of a filter before it is trusted with bans."""
    return cast("tuple[str, ...]", getattr(made, "warnings", ()))
