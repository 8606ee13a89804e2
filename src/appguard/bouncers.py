"""All bouncers of one daemon: one for each firewall, told the same, none waiting for another.

A slow firewall (nginx reads its bans again at most every two seconds) must not delay a quick one, so each has its own
bouncer, its own judge and its own task.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from appguard.bouncer import Bouncer, Saved
from appguard.bouncer_apart import BouncerApart
from appguard.bouncer_status import BouncerStatus
from appguard.errors import AppGuardError, FirewallError

FIRST_MOST = 10.0  # seconds


class Bouncers:
    """Passes on what one bouncer is told; see `Bouncer`."""

    def __init__(self, bouncers: Sequence[Bouncer | BouncerApart]) -> None:
        self._bouncers = tuple(bouncers)
        self._patient_until: float | None = None

    @property
    def status(self) -> tuple[BouncerStatus, ...]:
        """Give how enforcement is, of each."""
        return tuple(bouncer.status for bouncer in self._bouncers)

    def wake(self) -> None:
        """Say that the ban set has changed."""
        for bouncer in self._bouncers:
            bouncer.wake()

    def begin_restore(self, saved: Saved) -> None:
        """Say that the ban set will be filled after a restart, and with what."""
        for bouncer in self._bouncers:
            bouncer.begin_restore(saved)

    async def tried(self) -> None:
        """Wait until all firewalls were given everything once, or failed; but not long in all for one that hangs."""
        if self._patient_until is None:
            self._patient_until = asyncio.get_running_loop().time() + FIRST_MOST
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._patient_until):
                for bouncer in self._bouncers:
                    await bouncer.tried.wait()

    def end_restore(self) -> None:
        """Say that all bans are back."""
        for bouncer in self._bouncers:
            bouncer.end_restore()

    def force(self, key: str) -> None:
        """Let a ban pass that the judges refuse unless forced; raise `RefusedForSafety` if one takes no such ban."""
        for bouncer in self._bouncers:
            bouncer.force(key)

    def hold(self) -> None:
        """Lift everything and enforce nothing until `release`."""
        for bouncer in self._bouncers:
            bouncer.hold()

    def release(self) -> None:
        """Enforce again."""
        for bouncer in self._bouncers:
            bouncer.release()

    async def settle(self) -> None:
        """Enforce what is new; raise `FirewallError` with the words of all firewalls that fail."""
        found = await asyncio.gather(*(bouncer.settle() for bouncer in self._bouncers), return_exceptions=True)
        for error in found:
            if error is not None and not isinstance(error, AppGuardError):
                raise error
        if any(found):
            raise FirewallError("; ".join(str(error) for error in found if error is not None))

    async def run(self) -> None:
        """Keep all firewalls in step until cancelled; what they hold stays in force then."""
        async with asyncio.TaskGroup() as tasks:
            for bouncer in self._bouncers:
                tasks.create_task(bouncer.run())
