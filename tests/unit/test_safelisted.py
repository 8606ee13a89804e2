"""What is put on the safelist while daemons run, and how hosts agree on it; and what a host tells that it protects."""

import json
from dataclasses import replace

import pytest

from appguard.address import parse_network
from appguard.errors import ConfigError
from appguard.protection import NETWORKS_MOST, parse_protection, write_protection
from appguard.safelisted import ENDED_MOST, ENTRIES_MOST, REMEMBERED, Safelisted, SharedSafelist, parse_safelisted

NETWORK = parse_network("192.0.2.0/24")
NOW = 1_800_000_000.0


def keys(entries: SharedSafelist, now: float = NOW) -> list[str]:
    """Give what is on the safelist."""
    return [entry.key for entry in entries.in_force(now)]


def test_an_entry_ends_by_itself() -> None:
    """What was added for a day is there for a day; that it ended is remembered for a month."""
    entries = SharedSafelist()
    entries.add(NETWORK, 86_400, "ours", "web-1", NOW)
    assert keys(entries) == ["192.0.2.0/24"]
    assert keys(entries, NOW + 86_401) == []
    assert not entries.purge(NOW + 86_399 + REMEMBERED)
    assert entries.purge(NOW + 86_401 + REMEMBERED)
    assert list(entries) == []


def test_what_has_ended_does_not_come_back() -> None:
    """An entry for ever that was given an end is over then, also for who was away and knows it for ever."""
    here, away = SharedSafelist(), SharedSafelist()
    forever = here.add(NETWORK, None, "ours", "web-1", NOW)
    assert away.merge(forever)
    ending = here.add(NETWORK, 60, "ours", "web-1", NOW + 1)
    later = NOW + 3600
    here.purge(later)
    assert not here.merge(forever)
    assert keys(here, later) == []
    assert away.merge(ending)
    assert keys(away, later) == []


def test_a_renewal_is_newer_than_what_has_ended() -> None:
    """A host whose clock is late renews what has ended: that is later, for it knows what ended, or the fleet's time."""
    early, late = SharedSafelist(), SharedSafelist()
    ended = early.add(NETWORK, 10, "ours", "web-1", NOW + 300)  # its clock is five minutes ahead
    assert late.merge(replace(ended, until=NOW + 10))
    late.purge(NOW + 20)
    assert early.merge(late.add(NETWORK, 3600, "again", "web-2", NOW + 20))
    unknowing = SharedSafelist()
    renewed = unknowing.add(NETWORK, 3600, "again", "web-3", NOW - 280, offset=600 + 1)  # the fleet's clock says later
    assert early.merge(renewed)
    assert [entry.host for entry in early.in_force(NOW + 20)] == ["web-3"]


def test_only_the_newest_ends_are_remembered() -> None:
    """Entries that come and go all day do not fill the safelist, and those in force stay."""
    entries = SharedSafelist()
    entries.add(NETWORK, None, "ours", "web-1", NOW)
    for number in range(ENDED_MOST + 5):
        network = parse_network(f"198.51.{number // 250}.{number % 250}")
        entries.add(network, 1, "a job", "web-1", NOW + number)
    assert entries.purge(NOW + ENDED_MOST + 10)
    kept = {entry.key for entry in entries}
    assert len(kept) == ENDED_MOST + 1
    assert "192.0.2.0/24" in kept
    assert "198.51.0.4" not in kept
    assert "198.51.0.5" in kept


def test_what_was_removed_does_not_come_back() -> None:
    """A removal wins over the entry that another host tells again, and over its own older self."""
    here, there = SharedSafelist(), SharedSafelist()
    entry = here.add(NETWORK, None, "ours", "web-1", NOW)
    assert there.merge(entry)
    removal = there.remove(NETWORK, "web-2", NOW - 300)  # its clock is late
    assert removal is not None
    assert here.merge(removal)
    assert not here.merge(entry)
    assert keys(here) == keys(there) == []
    assert there.remove(NETWORK, "web-2", NOW) is None
    assert not here.purge(NOW + REMEMBERED - 301)
    assert here.purge(NOW + REMEMBERED - 300)


def test_an_end_moves_with_the_clock() -> None:
    """The same entry told with another end is news: a clock was set since."""
    entries = SharedSafelist()
    entry = entries.add(NETWORK, 60, "ours", "web-1", NOW)
    assert not entries.merge(entry)
    assert entries.merge(replace(entry, until=NOW + 3660))
    assert keys(entries, NOW + 3600) == ["192.0.2.0/24"]


def test_entries_survive_a_restart() -> None:
    """What is written is read back, removals too; what somebody else wrote there is left out."""
    entries, again = SharedSafelist(), SharedSafelist()
    entries.add(NETWORK, 60, 'a "reason"\n', "web-1", NOW)
    entries.add(parse_network("198.51.100.1"), None, "", "web-1", NOW)
    entries.remove(parse_network("198.51.100.1"), "web-1", NOW)
    found = json.loads(entries.to_text()) | {"nonsense": "[]", "192.0.2.9": 7, "192.0.2.8": "[1,2"}
    again.restore(json.dumps(found))
    assert sorted(again, key=lambda each: each.key) == sorted(entries, key=lambda each: each.key)
    assert [entry.reason for entry in again.in_force(NOW)] == ['a "reason"?']
    for text in (None, "", "[]", "{", "7"):
        again.restore(text)


NO_ENTRIES: list[tuple[str, object]] = [
    ("0.0.0.0/0", [None, "", "", 1, False]),
    ("::/8", [None, "", "", 1, False]),
    ("192.0.2.1", [None, "", "", 2**60, False]),
    ("192.0.2.1", [None, "", "", "1", False]),
    ("192.0.2.1", [float("nan"), "", "", 1, False]),
    ("192.0.2.1", [-5, "", "", 1, False]),
    ("192.0.2.1", [None, [], "", 1, False]),
    ("192.0.2.1", {}),
    ("x", [None, "", "", 1, False]),
]


@pytest.mark.parametrize(("network", "record"), NO_ENTRIES)
def test_what_is_no_entry_is_none(network: str, record: object) -> None:
    """Whoever may write to Redis may write anything there."""
    assert parse_safelisted(network, json.dumps(record)) is None


def test_a_safelist_takes_neither_everybody_nor_everything() -> None:
    """Half of the internet is refused in words, and so is one entry too many."""
    entries = SharedSafelist()
    with pytest.raises(ConfigError, match="wider than a /8: nobody could be banned"):
        entries.add(parse_network("0.0.0.0/1"), None, "", "", NOW)
    for number in range(ENTRIES_MOST):
        network = parse_network(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
        assert entries.merge(Safelisted(network, None, "", "", 1))
    with pytest.raises(ConfigError, match="the safelist is full"):
        entries.add(NETWORK, None, "", "", NOW)


def test_a_protection_is_read_as_written() -> None:
    """Networks with words go there and back; what is none, too wide or too much is left out."""
    listed = [(NETWORK, "its own"), (parse_network("2001:db8::1"), "Redis")]
    found = parse_protection(write_protection("web-1", listed), NOW)
    assert found is not None
    assert (found.host, found.until, list(found.networks)) == ("web-1", NOW, listed)
    strange = {"host": "a\nb", "networks": [["0.0.0.0/0", "all"], ["x", "y"], 7, ["192.0.2.1"], ["192.0.2.1", "a\nb"]]}
    found = parse_protection(json.dumps(strange), NOW)
    assert found is not None
    assert (found.host, found.networks) == ("?", ())
    many = write_protection("web-1", [(NETWORK, "x")] * (NETWORKS_MOST + 5))
    assert len(json.loads(many)["networks"]) == NETWORKS_MOST
    for text in ("", "[]", "{}", '{"host":1,"networks":7}'):
        assert parse_protection(text, NOW) is None
