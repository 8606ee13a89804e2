"""Which paths a jail looks at: the patterns of `Limit` (`/a/{name}/b`, `/a*`), and `*.php` for how a path ends."""

from collections.abc import Callable, Sequence

from appguard.errors import ConfigError
from appguard.limit import normal_path, path_pattern


def check_path(pattern: str, what: str) -> None:
    """Raise `ConfigError` if this is no pattern of paths."""
    try:
        if not _is_ending(pattern):
            path_pattern(pattern)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}, or '*...' for what a path ends with") from error


def _is_ending(pattern: str) -> bool:
    return pattern.startswith("*") and len(pattern) > 1 and "*" not in pattern[1:]


def holding(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Give what says whether a path is one of those the patterns mean."""
    endings = tuple(pattern[1:] for pattern in patterns if _is_ending(pattern))
    others = [path_pattern(pattern) for pattern in patterns if not _is_ending(pattern)]

    def holds(path: str) -> bool:
        path = normal_path(path)
        return path.endswith(endings) or any(other.fullmatch(path) for other in others)

    return holds
