"""The bans that a firewall is to hold if the judge lets it, which of them have ended, and which it must be told of."""

from collections.abc import Iterable, Iterator

from appguard.ban import Ban
from appguard.stores.ends import Ends


class Wanted(dict[str, Ban]):
    """By its key each ban."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = Ends()

    def put(self, ban: Ban) -> None:
        """Want a ban."""
        self[ban.key] = ban
        self._ends.put(ban)
        if self._ends.is_stale(len(self)):
            self._ends.renew(self.values())

    def take_ended(self, now: float) -> Iterator[str]:
        """Give the keys of the bans that have ended, and want them no more."""
        while (end := self._ends.take(now)) is not None:
            key = end[2]
            ban = self.get(key)
            if ban is not None and not ban.in_force(now):
                del self[key]
                yield key


class Changed(dict[str, None]):
    """The keys of bans that changed, the newest last; `to_judge` are those that may be judged otherwise than before."""

    def __init__(self) -> None:
        super().__init__()
        self.to_judge: list[str] = []  # the newest last: of very many, to make a list takes a fifth of the time

    @property
    def has_more(self) -> bool:
        """Say whether there is anything to take."""
        return bool(self or self.to_judge)

    def note(self, key: str) -> None:
        """Note that a ban changed, as the newest that did."""
        self.pop(key, None)
        self[key] = None

    def note_older(self, keys: Iterable[str]) -> None:
        """Note bans that changed before all that is noted, the newest last."""
        older = dict.fromkeys(keys)
        if older:
            newer = tuple(self)
            self.clear()
            self.update(older)
            self.update(dict.fromkeys(newer))

    def take(self, most: int) -> list[str]:
        """Take out the newest that changed; when there are none, the newest of those to judge."""
        if self:
            return [self.popitem()[0] for _ in range(min(most, len(self)))]
        keys = self.to_judge[-most:]
        del self.to_judge[-most:]
        return keys[::-1]
