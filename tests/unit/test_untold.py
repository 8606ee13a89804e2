"""What waits to be told to Redis: how it is told, when it is told again, and when it is done."""

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.stores.untold import Told, Untold


def fact(version: int, address: str = "203.0.113.5") -> Fact:
    """Make a fact."""
    network = parse_network(address)
    return Fact(network, version, Ban(network, "login", 1.0, None, version=version))


def taken(queue: Untold) -> list[tuple[int, str]]:
    """Give versions and manners of what is to be told now."""
    return [(each.version, how) for each, how in queue.take(10, 0.0)]


def taken_one(queue: Untold) -> Told:
    """Give the oldest."""
    (told,) = queue.take(1, 0.0)
    return told


def test_decision_is_new_once() -> None:
    """An attempt whose answer is lost may have been carried out: the next one only tells again."""
    queue = Untold()
    queue.put(fact(1), "new")
    assert taken(queue) == [(1, "new")]
    assert taken(queue) == [(1, "again")]


def test_newest_of_a_network_is_told() -> None:
    """A later decision replaces an earlier one, and no earlier one replaces it; others keep their order."""
    queue = Untold()
    queue.put(fact(1), "new")
    queue.put(fact(2, "198.51.100.7"), "new")
    queue.put(fact(3), "new")
    queue.put(fact(1), "history")
    assert taken(queue) == [(2, "new"), (3, "new")]


def test_answer_to_an_earlier_decision_is_not_the_answer() -> None:
    """What was decided while Redis answered is still to be told."""
    queue = Untold()
    queue.put(fact(1), "new")
    told, _ = taken_one(queue)
    queue.put(fact(2), "new")
    queue.told(told, told)
    assert taken(queue) == [(2, "new")]


def test_told_and_not_heard_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stream does not bring back in time is told again; what it brings back is done, and so is a refusal."""
    monkeypatch.setattr("appguard.stores.untold.HEARD_WITHIN", 0.0)
    queue = Untold()
    for version, address in ((1, "192.0.2.1"), (2, "192.0.2.2"), (3, "192.0.2.3")):
        queue.put(fact(version, address), "new")
    lost, heard, refused = (told for told, _ in queue.take(10, 0.0))
    queue.told(lost, lost)
    queue.told(heard, heard)
    queue.told(refused, None)
    queue.heard([heard])
    assert taken(queue) == [(1, "again")]
    queue.heard([fact(1, "192.0.2.1")])
    assert taken(queue) == []


def test_history_heard_from_another_need_not_be_told() -> None:
    """When Redis has lost all, one host's telling spares the others'; an older one does not."""
    queue = Untold()
    queue.put(fact(2), "history")
    queue.heard([fact(1)])
    assert len(queue) == 1
    queue.heard([fact(2)])
    assert len(queue) == 0
