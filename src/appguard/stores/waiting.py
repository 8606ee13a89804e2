"""Waits a bounded time for an answer on an event loop, which may be late itself.

A loop that is busy finds its timer and the answer at the same time, and an answer may need some turns of it until it is
read. So when the time is over the loop has these turns: none of them takes time where it has nothing else to do.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

TURNS = 8  # through the streams of asyncio, redis-py and tasks


async def answer_of(asked: Awaitable[T], seconds: float) -> T:
    """Give an answer; raise what it is, or `TimeoutError` if it does not come in so many seconds."""
    answer = asyncio.ensure_future(asked)
    try:
        await asyncio.wait([answer], timeout=seconds)
        for _ in range(TURNS):
            if answer.done():
                return answer.result()
            await asyncio.sleep(0)
        raise TimeoutError("no answer in time")
    finally:
        answer.cancel()
