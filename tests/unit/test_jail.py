"""Jails: the sliding window against a plain list of events, settings, and bounds under attack."""

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Address, Grouping, parse_address
from appguard.ban import EVIDENCE_MOST, EVIDENCE_TEXT_MOST, Ban
from appguard.briefs import Briefs
from appguard.counted import RUNS_MOST, Failure, First
from appguard.errors import ConfigError
from appguard.event import ACCESS_FAIL, LOGIN_FAIL, PROBE, Event
from appguard.jail import Jail
from appguard.jail_paths import watching
from appguard.jail_window import JailWindow

NOW = 1_800_000_000.0
ADDRESS = "203.0.113.5"


def event_at(time: float, address: str = ADDRESS, count: int = 1, kind: str = LOGIN_FAIL) -> Event:
    """Make an event."""
    return Event(kind, time, parse_address(address), count)


def only(bans: tuple[Ban, ...]) -> Ban:
    """Give the one ban an event led to."""
    (ban,) = bans
    return ban


def window_of(jail: Jail | None = None, keys_most: int = 100_000) -> JailWindow:
    """Make the window of a jail: five in ten minutes if none is given."""
    return JailWindow(jail or Jail("login"), Grouping(), keys_most)


@pytest.mark.parametrize("maxretry", [1, 2, 5, 100])
def test_ban_comes_with_the_maxretry_th_event(maxretry: int) -> None:
    """The ban is due at exactly that event, starts at its time, and counting begins anew."""
    window = window_of(Jail("login", maxretry=maxretry, findtime="10m", bantime="1h"))
    for _ in range(2):
        bans = [window.record(event_at(NOW + number), f"line {number}") for number in range(maxretry)]
        assert bans[:-1] == [()] * (maxretry - 1)
        ban = only(bans[-1])
        assert (ban.key, ban.jail, ban.automatic, ban.failures) == (ADDRESS, "login", True, maxretry)
        assert (ban.start, ban.end) == (NOW + maxretry - 1, NOW + maxretry - 1 + 3600)
        assert ban.reason == f"{maxretry} x authn_login_fail in 600 s"
        assert ban.evidence == tuple(f"line {number}" for number in range(maxretry))[-EVIDENCE_MOST:]
        assert window.currently_failed == 0
    assert window.total_failed == 2 * maxretry


@pytest.mark.parametrize(("last", "is_banned"), [(599.999, True), (600.0, False), (600.001, False)])
def test_edge_of_findtime(last: float, is_banned: bool) -> None:
    """An event exactly findtime old has left the window."""
    window = window_of(Jail("login", maxretry=2, findtime=600))
    window.record(event_at(NOW))
    assert bool(window.record(event_at(NOW + last))) is is_banned


def test_ban_without_end() -> None:
    """A bantime of -1 is for ever."""
    ban = only(window_of(Jail("login", maxretry=1, bantime=-1)).record(event_at(NOW)))
    assert ban.end is None


def test_ban_is_of_the_key() -> None:
    """IPv6 hosts are counted together and banned by /64, mapped IPv4 as IPv4."""
    window = window_of(Jail("login", maxretry=2))
    assert window.record(event_at(NOW, "2001:db8::1")) == ()
    ban = only(window.record(event_at(NOW, "2001:db8::ffff")))
    assert ban.key == "2001:db8::/64"
    window.record(event_at(NOW, "::ffff:203.0.113.5"))
    ban = only(window.record(event_at(NOW, ADDRESS)))
    assert ban.key == ADDRESS


def test_only_its_kinds_count_and_nothing_twice() -> None:
    """Other kinds, repetitions of count 0, and what a jail of the app has counted add nothing."""
    window = window_of(Jail("login", maxretry=1, events=[LOGIN_FAIL, ACCESS_FAIL]))
    for event in (event_at(NOW, kind=PROBE), event_at(NOW, count=0), event_at(NOW)._replace(jail="login")):
        assert not window.counts(event)
        assert window.record(event) == ()
    assert (window.total_failed, window.currently_failed) == (0, 0)
    assert window.record(event_at(NOW, kind=ACCESS_FAIL))


def test_count_is_what_is_added() -> None:
    """One line may tell of several events."""
    window = window_of(Jail("login", maxretry=5))
    assert window.record(event_at(NOW, count=4)) == ()
    assert only(window.record(event_at(NOW, count=3))).failures == 7


steps = st.lists(
    st.tuples(
        st.sampled_from([ADDRESS, "203.0.113.6", "2001:db8::1", "2001:db8::2", "2001:db8:1::1"]),
        st.one_of(st.integers(-3, 12), st.integers(-60, 60)),  # how much later than the event before
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(steps=steps, maxretry=st.integers(1, 6), findtime=st.integers(1, 30))
def test_window_is_a_plain_list_of_events(steps: list[tuple[str, int, int]], maxretry: int, findtime: int) -> None:
    """In whatever order times come, a key is banned exactly if enough events lie in the findtime before its newest."""
    window = window_of(Jail("login", maxretry=maxretry, findtime=findtime))
    seen: dict[str, list[tuple[float, int]]] = {}
    now = NOW
    for address, later, count in steps:
        now += later
        bans = window.record(event_at(now, address, count))
        if count == 0:
            assert bans == ()
            continue
        key = Grouping().key(parse_address(address))
        mine = seen.setdefault(key, [])
        mine.append((now, count))
        newest = max(time for time, _ in mine)
        mine[:] = [(time, count) for time, count in mine if time > newest - findtime]
        total = sum(count for _, count in mine)
        if total >= maxretry:
            ban = only(bans)
            assert (ban.key, ban.failures, ban.start) == (key, total, now)
            del seen[key]
        else:
            assert bans == ()
    for key, mine in seen.items():
        by_time = Counter[float]()
        for time, count in mine:
            by_time[time] += count
        assert {failure.time: failure.count for failure in window.failures(key)} == by_time
    assert window.currently_failed == len(seen)


@given(steps=steps, cut=st.integers(0, 60))
def test_restart_changes_no_ban(steps: list[tuple[str, int, int]], cut: int) -> None:
    """A window that is saved and restored in the middle gives the bans that one without a restart gives."""
    jail = Jail("login", maxretry=3, findtime=20)
    straight, restarted = window_of(jail), window_of(jail)
    now = NOW
    for number, (address, later, count) in enumerate(steps):
        if number == cut:
            saved = list(restarted)
            restarted = window_of(jail)
            restarted.restore(saved)
        now += later
        assert straight.record(event_at(now, address, count)) == restarted.record(event_at(now, address, count))
    assert dict.fromkeys(straight) == dict.fromkeys(restarted)


def test_restored_events_may_come_in_any_order() -> None:
    """What a database gives back unsorted counts as it did."""
    window = window_of(Jail("login", maxretry=3, findtime=10))
    window.restore([(ADDRESS, Failure(NOW + 5, 1)), (ADDRESS, Failure(NOW - 100, 1)), (ADDRESS, Failure(NOW, 1))])
    assert window.sweep(NOW + 10.5) == []
    assert window.record(event_at(NOW + 8))


@pytest.mark.parametrize("before", [1, 2])
def test_what_was_counted_by_a_clock_set_back_keeps_nobody_from_a_ban(before: int) -> None:
    """Failures of an hour from now are forgotten: those of now, which are not within findtime of them, count."""
    window = window_of(Jail("login", maxretry=3))
    for _ in range(before):
        window.record(event_at(NOW + 3600))
    assert window.sweep(NOW + 3540) == []
    assert window.sweep(NOW) == [ADDRESS]
    assert [bool(window.record(event_at(NOW + number))) for number in range(3)] == [False, False, True]


def test_sweep_drops_only_keys_that_are_out_of_the_window() -> None:
    """A late event does not make a key look older than its newest event."""
    window = window_of(Jail("login", findtime=100))
    window.record(event_at(NOW + 50, "203.0.113.1"))
    window.record(event_at(NOW, "203.0.113.1"))
    window.record(event_at(NOW, "203.0.113.2"))
    assert window.sweep(NOW + 99.9) == []
    assert window.sweep(NOW + 100) == ["203.0.113.2"]
    assert window.sweep(NOW + 149.9) == []
    assert window.sweep(NOW + 150) == ["203.0.113.1"]
    assert list(window) == []


def test_forgotten_key_begins_anew() -> None:
    """After a person lifted a ban, what was counted is gone; a key that is not counted is no error."""
    window = window_of(Jail("login", maxretry=2))
    window.record(event_at(NOW))
    window.forget(ADDRESS)
    window.forget("203.0.113.99")
    assert window.record(event_at(NOW)) == ()


def test_flood_of_addresses_is_bounded_and_what_it_pushes_out_is_told() -> None:
    """Beyond the cap the key that was quiet longest goes, and `dropped` names it."""
    window = window_of(keys_most=3)
    for number in range(1, 4):
        window.record(event_at(NOW, f"203.0.113.{number}"))
        assert window.dropped == ()
    window.record(event_at(NOW, "203.0.113.1"))  # no longer the quietest
    for number in (2, 3, 1):
        window.record(event_at(NOW, f"203.0.113.{100 + number}"))
        assert window.dropped == (f"203.0.113.{number}",)
        assert window.failures(f"203.0.113.{number}") == ()
        assert window.currently_failed == 3
    window.record(event_at(NOW, "203.0.113.101", kind=PROBE))
    assert window.dropped == ()


HOSTILE_JAILS = {
    "long lines": Jail("x", maxretry=20),
    "many times": Jail("x", maxretry=10_000, findtime="1d"),
    "many paths": Jail("x", maxretry=256, distinct="path"),
    "many users": Jail("x", maxretry=10_000, key="user", findtime="1d"),
    "many pairs": Jail("x", maxretry=256, key="user+address", distinct="user_agent"),
}


@pytest.mark.parametrize("jail", HOSTILE_JAILS.values(), ids=HOSTILE_JAILS)
@pytest.mark.parametrize("per_key", [1, 9, 600])
def test_memory_stays_below_its_ceiling(jail: Jail, per_key: int) -> None:
    """Whatever strangers write, a jail keeps what its ceiling allows, and the estimate is near what Python takes."""
    most = 700_000
    window = JailWindow(jail, Grouping(), bytes_most=most)
    made = dict[str, int]()
    tracemalloc.start()
    try:
        for number in range(6_000):
            who, now = number // per_key, NOW + number * 0.7
            text = f"{who} {chr(0x1F600)} {'x' * 200}"
            event = Event(LOGIN_FAIL, now, address_of(who), user=text, path=f"/{number}", user_agent=f"{number}")
            window.record(event, f"{number} {chr(0x1F600)}{'y' * 8_000}")
        gc.collect()
        made["kept"] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert window.cost <= most
    assert made["kept"] < 1.3 * most
    assert made["kept"] > 0.5 * window.cost or window.cost < 100_000


@pytest.mark.parametrize("length", [0, 200, 8_000])
def test_memory_of_addresses_heard_of_once_stays_below_its_ceiling(length: int) -> None:
    """Of a flood of fresh addresses a jail keeps what its ceiling allows, and the estimate is near the truth."""
    most = 700_000
    window = JailWindow(Jail("x"), Grouping(), bytes_most=most)
    tracemalloc.start()
    try:
        for number in range(6_000):
            window.add_briefs(failure_of(number, b"%d " % number + b"x" * length), [0])
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert window.currently_failed < 6_000
    assert window.cost <= most
    assert 0.5 * window.cost < kept < 1.3 * most


@pytest.mark.parametrize("maxretry", [5, 1000])
def test_a_restart_forgets_no_address_heard_of_once(maxretry: int) -> None:
    """What is restored takes no more room than it took before, and counts on as it did."""
    jail = Jail("x", maxretry=maxretry, findtime="1d")
    before, after = (JailWindow(jail, Grouping(), bytes_most=700_000) for _ in range(2))
    lines = [f"{number} caf\u00e9 {'x' * 100}".encode() + b"\xff" for number in range(1_500)]
    for number, line in enumerate(lines):
        before.add_briefs(failure_of(number, line), [0])
    saved = list(before)
    assert after.restore(saved) == set()
    assert (list(after), after.currently_failed) == (saved, 1_500)
    assert before.cost <= after.cost <= 1.02 * before.cost  # a byte that is no text has become a character
    again, places = failure_of(3, b"again"), [0] * (maxretry - 1)
    (_, bans), (_, expected) = after.add_briefs(again, places), before.add_briefs(again, places)
    assert bans == expected


@given(
    blocks=st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1_500)), unique_by=lambda each: each[0], max_size=20),
        max_size=4,
    ),
    keys_most=st.sampled_from([1, 3, 1_000]),
    bytes_most=st.sampled_from([300, 3_000, 1_000_000]),
)
def test_many_events_at_once_are_what_they_are_one_by_one(
    blocks: list[list[tuple[int, int]]], keys_most: int, bytes_most: int
) -> None:
    """Of blocks in which each address is once, fresh or known, the same is kept, in the same order, and goes."""
    jail = Jail("x", maxretry=5, findtime=40)
    at_once, alone = (JailWindow(jail, Grouping(), keys_most, bytes_most) for _ in range(2))
    for at, block in enumerate(blocks):
        rows = [failure_of(number, b"x" * length, NOW + at * 20 + number) for number, length in block]
        gone = list[str]()
        for row in rows:
            alone.add_briefs(row, [0])
            gone += alone.dropped
        if rows:
            at_once.add_briefs(together(rows), range(len(rows)))
            assert list(at_once.dropped) == gone
        assert (list(at_once), at_once.cost) == (list(alone), alone.cost)


def test_look_ups_among_many_keys_read_no_other_key() -> None:
    """A jail has the hash of each key beside it, also after many came at once or alone, and some went."""
    window, plain = JailWindow(Jail("x", findtime=10), Grouping()), dict[str, First]()
    for begin in (0, 1_000, 0, 4_000):
        rows = [failure_of(number, b"", NOW + begin) for number in range(begin, begin + 2_000)]
        window.add_briefs(together(rows), range(len(rows)))
        for text in (address_of(number).text for number in range(begin, begin + 2_000)):
            plain.pop(text, None)
            plain[text] = (NOW, b"")
    kept = window._counted  # pyright: ignore[reportPrivateUsage]
    assert list(kept) == list(plain)
    assert sys.getsizeof(kept) > 1.2 * sys.getsizeof(plain)


def failure_of(number: int, line: bytes, time: float | None = None) -> Briefs:
    """Give one event in brief."""
    when = NOW + number if time is None else time
    return Briefs([(LOGIN_FAIL, 0)], [address_of(number).text], [when], [""], [()], [line])


def together(rows: Sequence[Briefs]) -> Briefs:
    """Give several such events as one."""
    return Briefs(
        [row.whats[0] for row in rows],
        [row.hosts[0] for row in rows],
        [row.times[0] for row in rows],
        [row.paths[0] for row in rows],
        [row.vias[0] for row in rows],
        [row.lines[0] for row in rows],
    )


def address_of(number: int) -> Address:
    """Give one of many addresses, made anew: none that something else remembers."""
    text = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Address(text, 4, int(IPv4Address(text)), text)


def test_evidence_is_bounded() -> None:
    """Of a line only its beginning is kept, of many lines only the last."""
    window = window_of(Jail("login", maxretry=1000))
    for number in range(999):
        window.record(event_at(NOW + number / 10), f"{number}{'x' * 8_000}")
    lines = [failure.evidence for failure in window.failures(ADDRESS) if failure.evidence]
    assert len(lines) == EVIDENCE_MOST
    assert lines[-1].startswith("998x")
    assert max(map(len, lines)) == EVIDENCE_TEXT_MOST


@given(
    later=st.lists(st.floats(0, 30), min_size=1, max_size=80),
    counts=st.lists(st.integers(1, 60), min_size=80, max_size=80),
    maxretry=st.integers(257, 600),
)
def test_a_large_maxretry_is_never_too_early_and_at_most_a_slot_late(
    later: list[float], counts: list[int], maxretry: int
) -> None:
    """Above 256 nobody is banned for fewer than maxretry in findtime, and everybody for as many in 255/256 of it."""
    findtime = 600
    slot = findtime / RUNS_MOST
    window = window_of(Jail("login", maxretry=maxretry, findtime=findtime))
    seen: list[tuple[float, int]] = []
    now = NOW
    for step, count in zip(later, counts, strict=False):
        now += step
        seen.append((now, count))
        bans = window.record(event_at(now, count=count))
        surely = sum(count for time, count in seen if time > now - findtime + slot)
        perhaps = sum(count for time, count in seen if time > now - findtime)
        assert surely < maxretry or bans
        assert perhaps >= maxretry or not bans
        if bans:
            seen.clear()
    assert len(list(window)) <= RUNS_MOST + 2


def test_jail_turns_durations_into_seconds() -> None:
    """Durations may be texts and are numbers afterwards; one kind of event may stand alone."""
    jail = Jail("login", findtime="10m", bantime="1d12h", events=PROBE)
    assert (jail.findtime, jail.bantime, tuple(jail.events)) == (600, 129_600, (PROBE,))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "a b"}, "jail name 'a b': expected 1 to 64 letters"),
        ({"name": ""}, "jail name ''"),
        ({"maxretry": 0}, "jail login: maxretry = 0: expected a whole number from 1 to 10000"),
        ({"maxretry": 10_001}, "jail login: maxretry = 10001"),
        ({"maxretry": True}, "jail login: maxretry = True"),
        ({"maxretry": "5"}, "jail login: maxretry = '5'"),
        ({"maxretry": 2.5}, "jail login: maxretry = 2.5"),
        ({"findtime": "soon"}, "jail login: findtime = 'soon': expected a duration"),
        ({"findtime": -1}, "jail login: findtime cannot be for ever"),
        ({"bantime": 0}, "jail login: bantime = 0: expected a duration"),
        ({"events": []}, "jail login: events = []: expected some of authn_login_fail"),
        ({"events": ["login"]}, "jail login: events = ['login']: expected some of"),
        ({"events": "login"}, "jail login: events = ['login']: expected some of"),
    ],
)
def test_wrong_setting_is_named(options: dict[str, object], complaint: str) -> None:
    """Every wrong value is refused with the jail, the key, the value and what is accepted."""
    with pytest.raises(ConfigError) as caught:
        Jail(**({"name": "login"} | options))  # type: ignore[arg-type]  # wrong on purpose
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scope": "everywhere"}, "expected 'host' .* or 'fleet'"),
        ({"scope": "fleet", "ignorecommand": "shop.bans:is_customer"}, "nobody can be asked before a ban"),
        ({"scope": "fleet", "maxretry": RUNS_MOST + 1}, f"at most {RUNS_MOST}"),
    ],
)
def test_what_a_fleet_cannot_count_is_refused(options: dict[str, object], word: str) -> None:
    """A jail of a fleet says in words what it cannot have; each host counts alone unless it says otherwise."""
    with pytest.raises(ConfigError, match=word):
        Jail("login", **options)  # type: ignore[arg-type]  # what is wrong is the point
    assert not Jail("login").is_shared


@pytest.mark.parametrize("paths", [["*.php"], ["/a.php", "*.exe"], ["/a.*"]])
def test_what_ends_a_path_hides_it_from_no_jail(paths: list[str]) -> None:
    """Slashes and newlines after it are no part of a path; what is in it is."""
    is_watched = watching(paths, ())
    assert is_watched is not None
    assert [path for path in ("/a.php", "//a.php/", "/a.php\n", "/a.php/\n") if not is_watched(path)] == []
    assert not is_watched("/b.htm\n")
