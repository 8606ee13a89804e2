"""Bans that need force are on trial: they end within a minute unless somebody who is still here confirms them.

The end of the trial is the end of the ban, so the kernel keeps it, also with the daemon dead: who has cut himself off
need not do anything.
"""

from dataclasses import replace

from appguard.ban import Ban
from appguard.errors import RefusedForSafety
from appguard.judge import Judge

CONFIRM_WITHIN = 60.0  # seconds


class Trials:
    """The bans that wait to be confirmed, with the length that was asked for."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._asked: dict[str, Ban] = {}

    def on_trial(self, ban: Ban, now: float) -> Ban:
        """Give a ban by force as it is to be made: short, if it is possible by force only."""
        try:
            self._judge.check(ban)
        except RefusedForSafety:
            asked = self._asked[ban.key] = ban.starting(now)
            until = now + CONFIRM_WITHIN
            return replace(asked, end=until if asked.end is None else min(asked.end, until))
        return ban

    def take(self, key: str) -> Ban | None:
        """Give the ban of a network as it was asked for, if it waits, and let it wait no more."""
        return self._asked.pop(key, None)

    def __contains__(self, key: str) -> bool:
        return key in self._asked
