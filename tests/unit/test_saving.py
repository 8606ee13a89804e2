"""What is saved together."""

import asyncio

import pytest

from appguard.address import Grouping, parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.event import LOGIN_FAIL, Event
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.saving import FACTS_MOST, Saving
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


def test_what_cannot_be_saved_for_days_does_not_grow_for_days() -> None:
    """Of the bans and lifts that wait only those stay that are still true; they are all saved when that works again."""
    written: list[Batch] = []
    is_full, now = True, 1_000.0

    def write(batch: Batch) -> bool:
        written.append(batch)
        return not is_full

    saving = Saving({}, {}, lambda: None, write, lambda: now)
    kept = [
        Fact.of(Ban(parse_network("203.0.113.5"), "login", 0.0, None, version=7)),
        Fact(parse_network("203.0.113.6"), 8, None),
    ]

    async def scene() -> None:
        nonlocal is_full, now
        saving.batch.facts += [
            Fact.of(Ban(parse_network("203.0.113.5"), "login", 0.0, 5_000.0, version=6)),
            kept[0],
            Fact.of(Ban(parse_network("203.0.113.6"), "login", 0.0, 5_000.0, version=7)),
            kept[1],
            Fact(parse_network("203.0.113.6"), 7, None),
        ]
        for number in range(FACTS_MOST):
            network = parse_network(f"10.0.{number // 256}.{number % 256}")
            saving.batch.facts.append(Fact.of(Ban(network, "login", now, now + 600, version=number + 1)))
        saving.now()
        assert len(saving.batch.facts) == FACTS_MOST + 2
        now += 700
        saving.batch.facts *= 3
        saving.now()
        assert saving.batch.facts == kept
        is_full = False
        saving.now()
        assert saving.batch.facts == []

    asyncio.run(scene())
    assert written[-1].facts == kept


def test_a_flood_while_nothing_can_be_saved_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the keys whose counts wait, only those stay that are still counted, however many come and go."""
    monkeypatch.setattr("appguard.saving.KEYS_MOST", 100)
    jail = Jail(name="login", events=(LOGIN_FAIL,), maxretry=5, findtime=600, bantime=600)
    window = JailWindow(jail, Grouping(), keys_most=50)
    saving = Saving({"login": window}, {"login": 0}, lambda: None, lambda batch: False)

    async def scene() -> None:
        for number in range(1_000):
            event = Event(LOGIN_FAIL, 1_000.0 + number, parse_address(f"10.0.{number // 256}.{number % 256}"))
            window.record(event)
            saving.touch("login", [event.address.text, *window.dropped])
            saving.now()

    asyncio.run(scene())
    assert {key for _, key in saving.batch.failures} >= {key for key, _ in window}
    assert len(saving.batch.failures) <= 101
