"""What the sites of `peer_sites.py` are given: a store and a limit, in the forms that limiters want."""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

WINDOWS = {"minute": 60, "day": 86_400}

Build = Callable[[str, str], Any]
"""From the URI of a store and a limit to a site."""

rate: str | None = None
"""What django-ratelimit's decorator gets; set before the views are imported."""


def is_redis(store: str) -> bool:
    """Say whether a store is a Redis."""
    return store.startswith("redis:")


def parts(limit: str) -> tuple[int, int]:
    """Give the amount and the seconds of a limit."""
    amount, window = limit.split("/")
    return int(amount), WINDOWS[window]


def event_log() -> str:
    """Give a file for AppGuard's events."""
    return str(Path(mkdtemp()) / "events.jsonl")
