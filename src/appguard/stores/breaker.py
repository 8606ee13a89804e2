"""Breaker: stops asking a store that does not answer, and asks again with one caller at a time.

Closed, everybody may ask. After `FAILURES` failures in a row it opens for a second, then two, four, at most `LONGEST`;
when that time is over one caller may ask (the others still may not), and its success closes the breaker.
"""

import logging
from collections.abc import Callable
from threading import Lock

from appguard.fork import in_every_child

FAILURES = 3
SHORTEST = 0.5  # seconds
LONGEST = 1.0  # seconds: how late a recovery is noticed
MEANWHILE = {  # by `on_store_error`
    "local": "limits are counted in this process",
    "open": "no limit refuses anything",
    "closed": "every request that a limit is about is refused",
}

log = logging.getLogger("appguard.stores")


class Breaker:
    """Whether a store may be asked now.

    `on_store_error` is what happens to limits meanwhile, `monotonic` gives seconds that never step back, `explain` what
    the log says of an error.
    """

    def __init__(
        self,
        what: str,
        on_store_error: str,
        monotonic: Callable[[], float],
        explain: Callable[[Exception], str] = str,
    ) -> None:
        self._what = what
        self._meanwhile = MEANWHILE[on_store_error]
        self._monotonic = monotonic
        self._explain = explain
        self.is_well = True  # nothing has failed since it last worked: nobody need ask or report
        self._is_unexplained = False  # all that the log has said is that the time was over
        self._failures = 0
        self._opened_for = 0.0
        self._ask_again = 0.0
        self._renew_lock()
        in_every_child(self, Breaker._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = Lock()

    def may_ask(self) -> bool:
        """Say whether to ask; who was told yes must report `worked` or `failed`."""
        if not self._opened_for:
            return True
        with self._lock:
            now = self._monotonic()
            if now < self._ask_again:
                return False
            self._ask_again = now + self._opened_for  # the others wait while this caller tries
            return True

    def worked(self) -> None:
        """Note an answer."""
        if self._opened_for:
            log.warning("%s answers again", self._what)
        self._failures, self._opened_for, self.is_well = 0, 0.0, True

    def failed(self, error: Exception) -> None:
        """Note a failure."""
        with self._lock:
            self.is_well = False
            self._failures += 1
            if self._failures < FAILURES and not self._opened_for:
                return
            if not self._opened_for or (self._is_unexplained and not isinstance(error, TimeoutError)):
                self._is_unexplained = isinstance(error, TimeoutError)
                why = self._explain(error)
                log.error("%s does not answer, %s until it does: %s", self._what, self._meanwhile, why)
            self._opened_for = min(LONGEST, self._opened_for * 2 or SHORTEST)
            self._ask_again = self._monotonic() + self._opened_for
