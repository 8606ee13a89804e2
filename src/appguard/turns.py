"""How long work on the event loop lets others go first, between two of its slices."""

import asyncio
from collections.abc import AsyncIterator

TURNS = 4  # of the loop: what a log's change, its reading, a ban and the bouncer's waking take, each of the others one


async def give_way() -> None:
    """Let what others have begun come to its end, such as the way of a line from its log to the kernel."""
    async for _ in turns():
        pass


async def turns() -> AsyncIterator[None]:
    """Do so, for who looks after each turn whether something has come that goes first."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
        yield
