"""A whole ban set as facts, some at a time: what the state has and is gone, what was lifted, and every ban in force."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from appguard.ban import Fact
from appguard.state import State
from appguard.stores.memory import MemoryBanSet
from appguard.turns import give_way

AT_ONCE, UNSAVED_MOST = 100, 300  # facts
SAVED_WITHIN = 0.01  # seconds, more or less


async def whole(bans: MemoryBanSet, state: State, unsaved: Callable[[], int]) -> AsyncIterator[Sequence[Fact]]:
    """Give the facts that are still known, letting others go first between two slices; wait while many are `unsaved`.

    Raise `StateError`.
    """
    for facts in slices(bans, state):
        yield facts
        await give_way()
        while unsaved() > UNSAVED_MOST:  # noqa: ASYNC110 - who saves tells nobody
            await asyncio.sleep(SAVED_WITHIN)


def slices(bans: MemoryBanSet, state: State) -> Iterator[Sequence[Fact]]:
    """Give them, some at a time, at once; raise `StateError`."""
    for part in state.ban_parts():
        yield [Fact.lifting(ban, ban.version) for ban in part if not bans.holds(ban)]
    yield [fact for fact in bans.lifted() if bans.is_current(fact)]
    there = bans.snapshot().bans
    for first in range(0, len(there), AT_ONCE):
        yield [fact for fact in map(Fact.of, there[first : first + AT_ONCE]) if bans.is_current(fact)]
