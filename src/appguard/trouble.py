"""What fails for a while, such as a full disk: said once, and once when it works again."""

import logging
from collections.abc import Callable

from appguard.errors import StateError

log = logging.getLogger("appguard")


class Trouble:
    """Knows what cannot be written now."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __contains__(self, what: str) -> bool:
        return what in self._said

    def attempt(self, what: str, act: Callable[[], None]) -> bool:
        """Do what may fail; say whether it worked."""
        try:
            act()
        except (OSError, StateError) as error:
            if self._said.get(what) != str(error):
                log.error("%s cannot be written, trying again: %s", what, error)
            self._said[what] = str(error)
            return False
        if self._said.pop(what, None):
            log.info("%s is written again", what)
        return True
