"""Hooks: the app's own functions that hear of refusals, failed logins and bans, apart from the request.

They are called one after the other by a thread that ends when there is nothing to call. A hook that is slow fills a
bounded queue and then misses what comes; a hook that raises is named in the log, once. Neither is felt by a request.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock, Thread
from typing import Generic, TypeVar

from appguard.fork import in_every_child

WAITING_MOST = 1_000

T = TypeVar("T")
log = logging.getLogger("appguard")


def _renew(hooks: "Hooks[T]") -> None:
    hooks.renew()


class Hooks(Generic[T]):
    """Some hooks, by name; None is no hook."""

    def __init__(self, hooks: Mapping[str, Callable[[T], object] | None]) -> None:
        self._hooks = {name: hook for name, hook in hooks.items() if hook is not None}
        self._said: set[str] = set()
        self.renew()
        in_every_child(self, _renew)

    def renew(self) -> None:
        """Begin with nothing waiting, also in a forked child, where the thread stayed behind."""
        self._lock = Lock()
        self._waiting: deque[tuple[str, T]] = deque()
        self._thread: Thread | None = None

    def call(self, name: str, value: T | None) -> None:
        """Have a hook called soon; without a value nothing is called."""
        if name not in self._hooks or value is None:
            return
        with self._lock:
            if len(self._waiting) >= WAITING_MOST:
                self._say(name, f"is too slow: {WAITING_MOST} calls wait, and what comes now it will not hear of")
                return
            self._waiting.append((name, value))
            if self._thread is not None:
                return
            self._thread = Thread(target=self._drain, name="appguard-hooks", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                self._thread = None

    def _drain(self) -> None:
        while (found := self._next()) is not None:
            name, value = found
            try:
                self._hooks[name](value)
            except Exception as error:  # noqa: BLE001 - a user's function may raise anything, and this thread must go on
                self._say(name, f"failed: {type(error).__name__}: {error}")

    def _next(self) -> tuple[str, T] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            return None

    def _say(self, name: str, what: str) -> None:
        if f"{name} {what[:6]}" in self._said:
            return
        self._said.add(f"{name} {what[:6]}")
        with suppress(Exception):  # the app's logging may raise anything
            log.error("hook %s %s", name, what)
