"""A whole ban set as facts, some at a time: every ban in force, what was lifted, and what the state has and is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import chain

from appguard.ban import Fact
from appguard.errors import StateError
from appguard.state import State
from appguard.stores.memory import MemoryBanSet
from appguard.turns import give_way

AT_ONCE, UNSAVED_MOST = 100, 300  # facts
SAVED_WITHIN = 0.01  # seconds, more or less
AGAIN = 1.0  # seconds until a state that cannot be read is read again


async def whole(bans: MemoryBanSet, state: State, unsaved: Callable[[], int]) -> AsyncIterator[Sequence[Fact]]:
    """Give the facts that are still known, letting others go first between two slices; wait while many are `unsaved`.

    What needs no state comes first, and once; a state that cannot be read is waited for.
    """
    for facts in _known(bans):
        yield facts
        await _pause(unsaved)
    is_read = False
    while not is_read:
        try:
            for facts in _gone(bans, state):
                yield facts
                await _pause(unsaved)
            is_read = True
        except StateError:  # which whoever saves says as well
            await asyncio.sleep(AGAIN)


async def _pause(unsaved: Callable[[], int]) -> None:
    await give_way()
    while unsaved() > UNSAVED_MOST:  # noqa: ASYNC110 - who saves tells nobody
        await asyncio.sleep(SAVED_WITHIN)


def slices(bans: MemoryBanSet, state: State) -> Iterator[Sequence[Fact]]:
    """Give them, some at a time, at once; raise `StateError`."""
    return chain(_known(bans), _gone(bans, state))


def _known(bans: MemoryBanSet) -> Iterator[Sequence[Fact]]:
    yield [fact for fact in bans.lifted() if bans.is_current(fact)]
    there = bans.snapshot().bans
    for first in range(0, len(there), AT_ONCE):
        yield [fact for fact in map(Fact.of, there[first : first + AT_ONCE]) if bans.is_current(fact)]


def _gone(bans: MemoryBanSet, state: State) -> Iterator[Sequence[Fact]]:
    for part in state.ban_parts():
        yield [Fact.lifting(ban, ban.version) for ban in part if not bans.keeps(ban)]
