"""Traps: paths that no visitor of an app has a reason to ask for, and every scanner does: `/.env`, `/wp-*`.

One look-up in a set and, where there are prefixes, one comparison with all of them; case, doubled slashes, one
trailing slash and a trailing newline do not matter.
"""

import re
from collections.abc import Iterable

from appguard.errors import ConfigError
from appguard.limit import normal_path

_TRAP = re.compile(r"/[^*{}/][^*{}]*\*?")


class Traps:
    """Some traps; a trailing `*` stands for any rest. Raise `ConfigError` for what would trap everybody or nobody."""

    def __init__(self, paths: Iterable[str]) -> None:
        found = [check_trap(path) for path in paths]
        self._exact = frozenset(path for path in found if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in found if path.endswith("*"))

    def __contains__(self, path: str) -> bool:
        tidy = path.lower().rstrip("\n")
        while "//" in tidy:
            tidy = tidy.replace("//", "/")
        return tidy.startswith(self._prefixes) or tidy.removesuffix("/") in self._exact


def check_trap(path: str) -> str:
    """Give a trap as it is compared; raise `ConfigError`."""
    if not _TRAP.fullmatch(path):
        raise ConfigError(f"trap {path!r}: expected a path such as '/.env', or '/wp-*' for all that begin so")
    return path.lower() if path.endswith("*") else normal_path(path.lower())
