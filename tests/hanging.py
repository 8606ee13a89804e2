"""A check for `ignorecommand` that never answers."""

import threading


def check(address: str) -> bool:
    """Wait for ever."""
    return threading.Event().wait()
