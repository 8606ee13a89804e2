"""Makes the filter that a name in the settings means: one of ours, a data file, a `log_format`, fields of JSON."""

import difflib
import json
from collections.abc import Callable, Mapping
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


def read_filter(name: str, file: Path) -> Filter:
    """Give the filter of a data file, which holds regexes, the table `[json]` or `log_format`; raise `ConfigError`."""
    table = read_table(file)
    try:
        if "json" in table:
            return _json_filter(name, table["json"])
        if "log_format" in table:
            return LogFormatFilter(name, str(table["log_format"]))
        return data_filter(name, table)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _json_filter(name: str, options: object) -> Filter:
    if not isinstance(options, Mapping):
        raise ConfigError(f"json = {options!r}: expected a table of fields")
    return JsonFilter(name, cast("Mapping[str, object]", options))


def _json_setting(name: str, text: str) -> Filter:
    try:
        return _json_filter(name, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"json: options: {error}") from error


FILTERS: dict[str, Callable[[], Filter]] = {
    "appguard": EventLogFilter,
    "nginx": NginxFilter,
    "nginx-json": NginxJsonFilter,
    "apache": partial(NginxFilter, "apache"),
    **{file.stem: partial(read_filter, file.stem, file) for file in sorted(DATA.glob("*.toml"))},
}
WITH_OPTIONS: dict[str, Callable[[str, str], Filter]] = {
    "json:": _json_setting,
    "log_format:": LogFormatFilter,
    "log_format ": lambda name, _: LogFormatFilter(name, name),
}


def open_filter(name: str) -> Filter:
    """Give a filter; raise `ConfigError`.

    `name` is one of `FILTERS`, the whole path of a data file, `log_format:` and a format of nginx's, or `json:` and its
    options as JSON, to which `config_jails.py` turns the table a user writes.
    """
    if name in FILTERS:
        return FILTERS[name]()
    if name.startswith("/"):
        return read_filter(name, Path(name))
    for prefix, make in WITH_OPTIONS.items():
        if name.startswith(prefix):
            return make(name, name.removeprefix(prefix))
    near = difflib.get_close_matches(name, FILTERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{hint}Expected one of {', '.join(map(repr, sorted(FILTERS)))}, the whole path of a data file, "
        "'log_format:...', or a table with name = \"json\""
    )


def warnings_of(made: Filter) -> tuple[str, ...]:
    """Give what a user should know of a filter before it is trusted with bans."""
    return cast("tuple[str, ...]", getattr(made, "warnings", ()))
