"""Which paths a jail looks at: the patterns of `Limit` (`/a/{name}/b`, `/a*`), and `*.php` for how a path ends."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from appguard.errors import ConfigError
from appguard.limit import normal_path, path_pattern

REMEMBERED = 4096  # paths that were asked for
SHORT = 128  # letters of a path that is remembered


def check_path(pattern: str, what: str) -> None:
    """Raise `ConfigError` if this is no pattern of paths."""
    try:
        if not _is_ending(pattern):
            path_pattern(pattern)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}, or '*...' for what a path ends with") from error


def _is_ending(pattern: str) -> bool:
    return pattern.startswith("*") and len(pattern) > 1 and "*" not in pattern[1:]


def holding(patterns: Sequence[str], *, answer: bool = True) -> Callable[[str], bool]:
    """Give what says whether a path is one of those the patterns mean; `answer` is what it says of such."""
    endings = tuple(pattern[1:] for pattern in patterns if _is_ending(pattern))
    others = [path_pattern(pattern) for pattern in patterns if not _is_ending(pattern)]

    if not others:
        in_question = *endings, "/", "\n"  # what most paths end with is none of these
        return lambda path: (
            (("//" in path or path.endswith(in_question)) and normal_path(path).endswith(endings)) is answer
        )

    def holds(path: str) -> bool:
        path = normal_path(path)
        return (path.endswith(endings) or any(other.fullmatch(path) for other in others)) is answer

    remembered = lru_cache(maxsize=REMEMBERED)(holds)
    return lambda path: remembered(path) if len(path) <= SHORT else holds(path)


def watching(paths: Sequence[str], exempt: Sequence[str]) -> Callable[[str], bool] | None:
    """Give what says whether a jail looks at a path: one of `paths`, none of `exempt`. None: it looks at any."""
    is_watched = holding(paths) if paths else None
    is_spared = holding(exempt, answer=False) if exempt else None
    if is_watched is None or is_spared is None:
        return is_watched or is_spared
    return lambda path: is_watched(path) and is_spared(path)
