"""What a forked child must renew: a lock that another thread held at the fork would stay held in the child for ever."""

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_renewals: WeakKeyDictionary[object, list[Callable[[Any], None]]] = WeakKeyDictionary()


def in_every_child(owner: T, renew: Callable[[T], None]) -> None:
    """Call `renew(owner)` in every forked child, before anything else runs there, as long as the owner lives."""
    _renewals.setdefault(owner, []).append(renew)


def _renew_all() -> None:
    for owner, renewals in tuple(_renewals.items()):
        for renew in renewals:
            renew(owner)


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_renew_all)
