"""Between the jails of this host and the Redis that counts for all hosts (`scope = "fleet"`).

A failure is told, and Redis decides. What this host has counted enough by itself is decided here after `PATIENCE`
without an answer, and at once while Redis is known not to answer: an outage makes a fleet of hosts that count alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set

from appguard.ban import Ban
from appguard.pipeline import Outcome, Shared
from appguard.stores.fleet_counted import Asked, FleetCounted
from appguard.stores.fleet_failures import TOTAL, Decided, Failed, FleetFailures
from appguard.stores.redis_bans import RedisBanSet

PATIENCE = 0.25  # seconds

Enacted = Callable[[Ban, bool], Outcome]


class SharedCounting:
    """All is called on the daemon's event loop, from `start` on; `enacted` and `take` are `Banning`'s.

    `on_outcome` is given what bans led to that came later than what was counted.
    """

    def __init__(self, store: str, bans: RedisBanSet, clock: Callable[[], float]) -> None:
        self._failures = FleetFailures(store, bans, self._on_decided, clock=clock)
        self._counted = FleetCounted(store, lambda: bans.offset, clock=clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: dict[int, list[Ban]] = {}  # by the id of a failure that waits for its answer: our own bans
        self._enacted: Enacted = lambda ban, is_new: Outcome()
        self._take: Callable[[Outcome], None] = lambda outcome: None

    @property
    def complaint(self) -> str:
        """Say why this host counts alone; nothing if it does not."""
        return self._failures.complaint

    def start(self, enacted: Enacted, take: Callable[[Outcome], None]) -> None:
        """Begin: `enacted` takes a ban that Redis has put in force, `take` an outcome to decide and follow."""
        self._loop = asyncio.get_running_loop()
        self._enacted, self._take = enacted, take
        self._failures.start()

    def tick(self) -> None:
        """Begin to tell, if there was no thread to spare for that."""
        self._failures.start()

    def close(self) -> None:
        """Tell what waits, and stop; what was not answered is decided here."""
        self._loop = None
        self._failures.close()
        while self._pending:
            self._take(Outcome(bans=self._pending.popitem()[1]))

    def share(self, shared: Shared, offer: Ban | None) -> bool:
        """Have a failure counted; say whether that will be answered."""
        failed = Failed(
            shared.window.jail,
            shared.key,
            shared.event,
            offer,
            shared.window.value(shared.event) if offer else "",
            shared.window.why(shared.event.kind, TOTAL) if offer else "",
            bool(shared.bans),
        )
        self._failures.put(failed)
        if self.complaint or self._loop is None:
            return False
        if shared.bans:
            self._pending[id(failed)] = list(shared.bans)
            self._loop.call_later(PATIENCE, self._overdue, failed)
        return True

    async def counted(self, asked: Sequence[Asked]) -> Mapping[tuple[str, str], int]:
        """Give what all hosts have counted, by jail and key; nothing while Redis does not say so at once."""
        return {} if self.complaint else await self._counted.ask(asked)

    def forget(self, keys: Set[str]) -> None:
        """Tell nothing more of what led to bans with these keys, which a person lifted, nor ban for what waits."""
        self._failures.forget(keys)
        for number, bans in self._pending.items():
            self._pending[number] = [ban for ban in bans if ban.key not in keys]

    def _overdue(self, failed: Failed) -> None:
        bans = self._pending.pop(id(failed), None)
        if bans is not None:
            self._take(Outcome(bans=bans))

    def _on_decided(self, sent: Sequence[Failed], decided: Sequence[Decided]) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._answered, sent, decided)

    def _answered(self, sent: Sequence[Failed], decided: Sequence[Decided]) -> None:
        for failed in sent:
            self._pending.pop(id(failed), None)
        for each in decided:
            self._take(self._enacted(each.ban, each.is_new))
