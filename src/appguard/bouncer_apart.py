"""Stands in the daemon for a bouncer that runs apart, as a process of its own: `[firewall] kind = "apart"`.

The daemon then needs no privilege. It enforces nothing, tells its followers (`Following`), and knows of the bouncer
what following shows: who asks, when, and whether the last switch of enforcement was done.
"""

import asyncio
import time
from collections.abc import Callable

from appguard.bouncer import Saved
from appguard.bouncer_status import BouncerStatus
from appguard.errors import FirewallError, RefusedForSafety
from appguard.following import Following

APART = "apart"
PATIENCE = 5.0  # seconds the bouncer may take to do a switch
SILENCE_MOST = 15.0  # seconds without a question after which something is wrong
LOOK = "look at: systemctl status appguard-bouncer"


class BouncerApart:
    """Says how a bouncer apart is."""

    def __init__(self, following: Following, clock: Callable[[], float] = time.time) -> None:
        self._following = following
        self._clock = clock
        self._is_held = False

    @property
    def tried(self) -> asyncio.Event:
        """Give what is set unless the bouncer is taking what was saved."""
        return self._following.loaded

    @property
    def status(self) -> BouncerStatus:
        """Give how enforcement is, as far as the daemon knows: not what was dropped or refused."""
        asked = self._following.asked
        return BouncerStatus(
            kind=APART,
            firewall="a bouncer apart" + (f" (process {asked.pid})" if asked else ""),
            is_held=self._is_held,
            error=self._error(),
            enforced=0,
            dropped=None,
            refused={},
        )

    def _error(self) -> str:
        asked = self._following.asked
        if asked is None:
            return f"no bouncer has asked for the bans yet; {LOOK}"
        silence = self._clock() - asked.time
        return f"the bouncer has not asked for {silence:.0f} s; {LOOK}" if silence > SILENCE_MOST else ""

    def wake(self) -> None:
        """Do nothing: followers are told by `Following`."""

    def begin_restore(self, saved: Saved) -> None:
        """Do nothing: followers are told by `Following`."""

    def end_restore(self) -> None:
        """Do nothing."""

    def force(self, key: str) -> None:
        """Raise `RefusedForSafety`: the bouncer apart takes no forced ban from a process without privilege."""
        raise RefusedForSafety(f"{key}: a bouncer apart judges for itself and cannot be forced; ban narrower networks")

    def hold(self) -> None:
        """Note that nothing is to be enforced."""
        self._is_held = True

    def release(self) -> None:
        """Note that bans are to be enforced."""
        self._is_held = False

    async def settle(self) -> None:
        """Wait until the bouncer has done the last switch; raise `FirewallError` if it takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._following.done()
        except TimeoutError as error:
            raise FirewallError(
                f"the bouncer apart has not done it within {PATIENCE:g} s; it will when it asks again; {LOOK}"
            ) from error

    async def run(self) -> None:
        """Do nothing until cancelled: the bouncer runs by itself."""
        await asyncio.Event().wait()
