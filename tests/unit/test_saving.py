"""What is saved together."""

import asyncio

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.saving import Saving
from appguard.state import Batch
from tests.bouncing import until


def test_a_position_is_saved_with_the_bans_it_led_to() -> None:
    """However a save comes about, it gathers first: a daemon killed after it has lost no ban of a line it has read."""
    fact = Fact.of(Ban(parse_network("203.0.113.5"), "login", 0.0, None))
    written: list[Batch] = []

    def write(batch: Batch) -> bool:
        written.append(batch)
        return True

    saving = Saving({}, {}, lambda: saving.batch.facts.append(fact), write)

    async def scene() -> None:
        for number, save in enumerate((saving.now, saving.soon), 1):
            saving.batch.positions["log", "/log"] = "1"
            save()
            await until(lambda: len(written) == number, "it is not saved")  # noqa: B023 - it is over before the next

    asyncio.run(scene())
    assert [(list(batch.positions), batch.facts) for batch in written] == 2 * [([("log", "/log")], [fact])]
