"""How many bans a minute one jail makes, and when that is too many to be believed.

The first `bans_per_minute` bans of any minute last as long as the jail says. What comes above is more likely a filter
gone wrong, or an attack made to look like it, so it costs little either way: an address is still banned, but for ten
minutes at most, and networks are not banned at all, until a minute has passed in which there was room. People are told.
"""

from dataclasses import replace

from appguard.ban import Ban, is_host
from appguard.jail import Jail
from appguard.rate import SlidingWindow, parse_rate

CAPPED_BANTIME = 600.0
MINUTE = 60.0


class BanRate:
    """The bans a jail has made lately. `alarm` says what is wrong; it is empty while nothing is."""

    def __init__(self, jail: Jail) -> None:
        self._most = jail.bans_per_minute
        self._window = SlidingWindow(parse_rate(f"{jail.bans_per_minute}/minute"))
        self._alarm_until = 0.0
        self.alarm = ""

    def count(self, now: float) -> bool:
        """Count one ban; say whether it is one too many."""
        if self._window.wait(now) == 0.0:
            self._window.add(now)
            return False
        self._alarm_until = now + MINUTE
        self.alarm = (
            f"more than {self._most} bans a minute (bans_per_minute): more are for {CAPPED_BANTIME / MINUTE:g} minutes"
            " at most, and of single addresses only"
        )
        return True

    def is_over(self, now: float) -> bool:
        """Say whether another ban would be one too many."""
        return self._window.wait(now) > 0.0

    def calm(self, now: float) -> bool:
        """End the alarm if a minute has passed since the last ban too many; say whether that has just happened."""
        if not self.alarm or now < self._alarm_until:
            return False
        self.alarm = ""
        return True


def capped(ban: Ban) -> Ban | None:
    """Give what is left of a ban that is one too many: a short one of an address, nothing of a network."""
    if not is_host(ban.network):
        return None
    end = ban.start + CAPPED_BANTIME
    return replace(ban, end=end if ban.end is None else min(ban.end, end))
