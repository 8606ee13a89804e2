"""What a forked child must renew: a lock that another thread held at the fork would stay held in the child for ever."""

import os
from collections.abc import Callable
from weakref import WeakMethod

_methods: set["WeakMethod[Callable[[], None]]"] = set()


def in_every_child(renew: Callable[[], None]) -> None:
    """Call a bound method in every forked child, before anything else runs there, as long as its object lives."""
    _methods.add(WeakMethod(renew, _methods.discard))


def _renew_all() -> None:
    for method in tuple(_methods):
        renew = method()
        if renew is not None:
            renew()


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_renew_all)
