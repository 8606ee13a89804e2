"""A copy of a ban set whose truth is elsewhere: what is told of it, in any order and any number of times, is merged.

Of two facts about a network the one with the higher version wins. Of two with the same version (two hosts decided in
the same microsecond) the one that comes from the truth does, so that all copies agree.
"""

from dataclasses import replace

from appguard.ban import Ban, Fact
from appguard.stores.memory import MemoryBanSet

END_TOLERANCE = 0.5  # seconds by which clocks are not exactly known


class Replica(MemoryBanSet):
    """The bans in force, and what was lifted, as far as this process knows."""

    def known(self, told: Fact) -> Fact | None:
        """Give what is known of exactly the network and ports of a fact."""
        ban = self._table.exact(told.network, told.ports)
        fact = Fact.of(ban) if ban else None
        lifted = self._lifted.get(told.key)
        return fact if lifted is None or (fact is not None and fact.version >= lifted.version) else lifted

    def facts(self) -> list[Fact]:
        """Give all that is known: bans in force, and lifts."""
        now = self._clock()
        with self._bans_lock:
            bans = [Fact.of(ban) for ban in self._table if ban.in_force(now)]
        return bans + self.lifted()

    def merge(self, fact: Fact) -> bool:
        """Take a fact from the truth if it is not older than what is known; say whether anything changed."""
        with self._bans_lock:
            known = self.known(fact)
            if known is not None and (fact.version < known.version or _is_same(fact, known)):
                return False
            self._apply(fact)
            return True

    def correct(self, told: Fact, kept: Fact) -> bool:
        """Take what the truth keeps instead of what it was told, whichever is newer, unless more has happened since."""
        with self._bans_lock:
            known = self.known(told)
            if known is None or known.version != told.version or _is_same(kept, known):
                return False
            self._apply(kept)
            return True

    def forget(self, ban: Ban) -> None:
        """Drop a ban as if it had never been."""
        with self._bans_lock:
            self._table.drop(ban.network, ban.ports)
            self._tell(Fact.lifting(ban, ban.version))

    def _right(self, ban: Ban) -> None:
        """Leave a ban as it is: its end is moved when the clock is compared with that of the truth."""

    def shift(self, seconds: float) -> None:
        """Move the ends of all bans, because the clock was set; whoever follows needs a new snapshot."""
        with self._bans_lock:
            self._sure.shift(seconds)
            for ban in [ban for ban in self._table if ban.end is not None]:
                assert ban.end is not None
                self._table.put(replace(ban, end=ban.end + seconds))
            self._ends.renew(self._table)
            self._break_history()


def _is_same(one: Fact, other: Fact) -> bool:
    if one.version != other.version or one.ban is None or other.ban is None:
        return one.version == other.version and one.ban is other.ban
    ends = one.ban.end, other.ban.end
    if None in ends or abs((ends[0] or 0) - (ends[1] or 0)) > END_TOLERANCE:
        return ends == (None, None) and one.ban == other.ban
    return replace(one.ban, end=other.ban.end) == other.ban
