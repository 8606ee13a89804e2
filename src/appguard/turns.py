"""How long work on the event loop lets others go first, between two of its slices."""

import asyncio

TURNS = 4  # of the loop: what a log's change, its reading, a ban and the bouncer's waking take, each of the others one


async def give_way() -> None:
    """Let what others have begun come to its end, such as the way of a line from its log to the kernel."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
