"""What is special to the store of one process: bounds that hold under attack, and forks."""

import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from appguard.address import parse_network
from appguard.ban import Ban, Fact
from appguard.limit import Hit, Limit
from appguard.stores.memory import FACTS_KEPT, MemoryBanSet, MemoryStore
from appguard.stores.memory_counters import MemoryCounters
from appguard.stores.replica import Replica
from tests.forked import forked

NOW = 1_800_000_000.0
LIMIT = Limit("2/minute")
OFFENDER = Hit("203.0.113.5 2/minute", LIMIT)


def stranger(number: int) -> Hit:
    """Make a hit of one of many."""
    return Hit(f"2001:db8:{number:x}::/64 2/minute", LIMIT)


def test_flood_makes_no_counter_forget_an_offender() -> None:
    """However many other keys come, one that is over its limit stays refused until its window has passed."""
    now = [0.0]
    counters = MemoryCounters(lambda: now[0], keys_most=50)
    for _ in range(2):
        counters.check([OFFENDER])
    for number in range(5_000):
        now[0] += 0.01
        assert counters.check([stranger(number)]).refused is None
        assert counters.check([OFFENDER]).refused == OFFENDER
    now[0] = 60.0
    assert counters.check([OFFENDER]).refused is None


def test_million_keys_push_out_no_offender() -> None:
    """A flood of many times the cap stays within it, and makes it forget nobody who is over a limit of any kind."""
    now = [0.0]
    store = MemoryStore(monotonic=lambda: now[0], keys_most=2_000)
    limits = [Limit("3/hour"), Limit("3/hour", burst=3), Limit("3/hour", count="auth_failure", path="/login")]
    offenders = [Hit(f"203.0.113.5 {limit}", limit, 1, None, not limit.counts_requests) for limit in limits]
    for _ in range(3):
        assert all(store.check([offender]).refused is None for offender in offenders)
    tracemalloc.start()
    try:
        for number in range(30_000):
            now[0] += 0.001
            store.check([stranger(number)])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000 * 1_000
    assert all(store.check([offender]).refused == offender for offender in offenders)


def test_counters_full_of_offenders_admit_newcomers_uncounted() -> None:
    """Where every key is over its limit, a stranger is let in rather than an offender forgotten."""
    counters = MemoryCounters(lambda: 0.0, keys_most=50)
    for number in range(50):
        for _ in range(2):
            counters.check([stranger(number)])
    assert all(counters.check([OFFENDER]).refused is None for _ in range(5))
    assert all(counters.check([stranger(number)]).refused for number in range(50))


def test_quietest_key_makes_room() -> None:
    """Of the keys within their limits the one that was quiet longest is forgotten first."""
    counters = MemoryCounters(lambda: 0.0, keys_most=2)
    for number in (1, 2, 1, 3):  # 3 pushes 2 out
        counters.check([stranger(number)])
    assert counters.check([stranger(1)]).refused is not None
    assert [counters.check([stranger(2)]).refused is None for _ in range(3)] == [True, True, False]


def test_counters_are_bounded_in_memory() -> None:
    """A flood of keys, each with as many runs as there may be, leaves no more than the cap allows."""
    now = [0.0]
    counters = MemoryCounters(lambda: now[0], keys_most=200)
    limit = Limit("1000/minute")
    tracemalloc.start()
    try:
        for number in range(2_000):
            for _ in range(12):
                now[0] += 6.5
                counters.check([Hit(f"2001:db8:{number:x}::/64 1000/minute", limit)])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200 * 3_000


def test_ban_extended_for_ever_is_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker whom nothing shuts out, and whose ban is extended or lifted again and again, fills no memory."""
    monkeypatch.setattr("appguard.stores.memory.FACTS_KEPT", 100)
    now = [NOW]
    bans = MemoryBanSet(lambda: now[0])
    tracemalloc.start()
    try:
        for number in range(6_000):
            now[0] += 1.0
            bans.ban(Ban(parse_network("203.0.113.5"), "login", now[0], now[0] + 1e7, automatic=True))
            if number % 10 == 0:
                bans.unban(parse_network("203.0.113.5"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000
    assert len(bans.snapshot().bans) == 1
    now[0] += 1e7
    assert [ban.key for ban in bans.expire()] == ["203.0.113.5"]


def test_kinds_are_those_of_the_bans_in_force() -> None:
    """What is counted of each kind is what a look at all bans finds, also of bans that ended and are not dropped."""
    now = [NOW]
    bans = MemoryBanSet(lambda: now[0])
    for number in range(300):
        jail, via = ("login", "shop")[number % 2], ("192.0.2.1",) if number % 3 else ()
        network = parse_network(f"10.0.{number % 50}.{number % 7}")
        bans.ban(Ban(network, jail, now[0], now[0] + number % 13 + 1, via=via, ports="" if number % 5 else "tcp/22"))
        if number % 11 == 0:
            bans.unban(network)
        if number % 40 == 0:
            bans.expire()
        now[0] += 0.25
        assert bans.kinds() == Counter(ban.kind for ban in bans.snapshot().bans)
        assert set(bans.of_network(network)) == {ban for ban in bans.snapshot().bans if ban.network == network}
    now[0] += 60
    assert bans.kinds().total() == 0


def test_history_that_is_gone_is_told() -> None:
    """Who follows from too long ago is told to take a snapshot; who is just in time gets every fact."""
    bans = MemoryBanSet(lambda: NOW)
    for number in range(FACTS_KEPT + 10):
        bans.ban(Ban.of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert bans.follow(9) is None
    changes = bans.follow(10)
    assert changes is not None
    assert len(changes.facts) == FACTS_KEPT
    assert changes.facts[0].key == "10.0.0.10"
    assert [fact.key for fact in changes.facts[-2:]] == ["10.0.78.40", "10.0.78.41"]
    assert bans.follow(-1) is None


def test_restored_bans_keep_their_versions() -> None:
    """After a restart a ban has the reference it had, ends when it would have, and new facts have higher versions."""
    first = MemoryBanSet(lambda: NOW)
    kept = first.ban(Ban.of("203.0.113.5", bantime=60))
    assert kept is not None
    now = [NOW - 3600]
    second = MemoryBanSet(lambda: now[0])
    second.restore([kept])
    assert second.snapshot().bans == (kept,)
    later = second.ban(Ban.of("203.0.113.6"))
    assert later is not None
    assert later.version > kept.version
    now[0] = NOW + 60
    assert kept in second.expire()


def restoring(*decisions: Callable[[Replica], object]) -> tuple[Replica, Ban]:
    """Give a ban set that has decided things before a permanent ban of 203.0.113.5 was restored, and that ban."""
    first = MemoryBanSet(lambda: NOW)
    permanent = first.ban(Ban.of("203.0.113.5", bantime=-1))
    assert permanent is not None
    bans = Replica(lambda: NOW + 10)
    bans.begin_restore()
    for decide in decisions:
        decide(bans)
    bans.restore([permanent])
    bans.end_restore()
    return bans, permanent


def test_a_short_ban_during_a_restore_does_not_shorten_a_long_one() -> None:
    """An attacker who comes back while bans are restored stays banned as long as before, by a newer fact."""
    bans, permanent = restoring(lambda bans: bans.ban(replace(Ban.of("203.0.113.5", bantime=60), automatic=True)))
    (kept,) = bans.snapshot().bans
    assert kept.end is None
    assert kept.version > permanent.version


def test_what_a_person_decides_during_a_restore_holds() -> None:
    """A person's shorter ban, and a lift, are not undone by a ban restored later."""
    bans, _ = restoring(lambda bans: bans.ban(Ban.of("203.0.113.5", bantime=60)))
    assert [ban.end for ban in bans.snapshot().bans] == [NOW + 70]
    bans, _ = restoring(
        lambda bans: bans.ban(Ban.of("203.0.113.5", bantime=60)), lambda bans: bans.unban(parse_network("203.0.113.5"))
    )
    assert bans.snapshot().bans == ()


def test_what_others_told_during_a_restore_holds_by_its_version() -> None:
    """A fact of the fleet with a higher version, a lift too, is not undone by an older ban restored later."""
    network = parse_network("203.0.113.5")
    newer, older = int(NOW * 1e6) + 5, 1
    short = replace(Ban.of("203.0.113.5", bantime=60, start=NOW), automatic=True)
    bans, _ = restoring(lambda bans: bans.merge(Fact(network, newer, replace(short, version=newer))))
    assert [ban.end for ban in bans.snapshot().bans] == [NOW + 60]
    bans, _ = restoring(lambda bans: bans.merge(Fact(network, newer, None)))
    assert bans.snapshot().bans == ()
    bans, permanent = restoring(lambda bans: bans.merge(Fact(network, older, replace(short, version=older))))
    assert bans.snapshot().bans == (permanent,)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_others_count() -> None:
    """A child forked while other threads count and ban waits for no lock; it has the bans, and counts anew."""
    store = MemoryStore()
    store.ban(Ban.of("203.0.113.5"))
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            store.check([OFFENDER, *map(stranger, range(50))])
            store.ban(Ban.of("203.0.113.6", bantime=600))

    def ask() -> object:
        return [
            store.check([OFFENDER]).refused is None,
            len(store.snapshot().bans),
            store.ban(Ban.of("203.0.113.7")) is None,
        ]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with forked(ask) as child:
                assert child.answer() in ([True, 1, False], [True, 2, False])
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
