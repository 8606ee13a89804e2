"""The ready jails of `ready_jails.toml`: settings for what most servers need, enabled by `use = "NAME"`."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import cast

from appguard.errors import ConfigError

ABOUT = "about"


@cache
def ready_jails() -> Mapping[str, Mapping[str, object]]:
    """Give the settings of every ready jail, with `about`, by name."""
    text = files("appguard").joinpath("ready_jails.toml").read_text(encoding="utf-8")
    return cast("Mapping[str, Mapping[str, object]]", tomllib.loads(text))


def ready_jail(name: str) -> dict[str, object]:
    """Give the settings of one; raise `ConfigError`."""
    found = ready_jails().get(name)
    if found is None:
        raise ConfigError(f"expected one of {', '.join(map(repr, ready_jails()))}")
    return {key: value for key, value in found.items() if key != ABOUT}
