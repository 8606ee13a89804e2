"""From lines to bans: who may feed which jail, which times count, and what is told to be saved."""

import logging
from collections.abc import Sequence

import pytest

from appguard.address import Grouping, NetworkSet, parse_address, parse_network
from appguard.event import LOGIN_FAIL, PROBE, Event
from appguard.filters.data_file import data_filter
from appguard.filters.event_log import EventLogFilter
from appguard.filters.nginx import NginxFilter
from appguard.filters.open import open_filter
from appguard.filters.options import FilterOptions
from appguard.filters.regex import RegexFilter
from appguard.found import FOUND_MOST
from appguard.jail import Jail
from appguard.jail_window import AHEAD_MOST, JailWindow
from appguard.pipeline import LineCounts, Outcome, Pipeline, Route, failures_of
from appguard.sources.base import Chunk

NOW = 1_800_000_000.0
ALICE, BOB = 1000, 1001


def line_at(time: float, address: str = "203.0.113.5", kind: str = LOGIN_FAIL) -> bytes:
    """Make an event line."""
    return Event(kind, time, parse_address(address)).to_line().encode()


def window_of(jail: Jail, keys_most: int = 1000) -> JailWindow:
    """Make a jail's window."""
    return JailWindow(jail, Grouping(), keys_most)


def pipeline_of(*routes: Route, safelist: Sequence[str] = ()) -> Pipeline:
    """Make a pipeline with one source called `log`."""
    return Pipeline({"log": routes}, NetworkSet(map(parse_network, safelist)))


def feed(pipeline: Pipeline, *lines: bytes, uid: int | None = None, now: float = NOW) -> Outcome:
    """Feed lines in one chunk."""
    return pipeline.feed("log", Chunk("origin", lines, uid=uid), now)


@pytest.fixture
def window() -> JailWindow:
    """Give the window of a jail that bans at the second event in ten minutes."""
    return window_of(Jail("login", maxretry=2))


def test_lines_become_bans_and_touched_keys(window: JailWindow) -> None:
    """A chunk gives its bans, and every key whose count changed, also one that ended in a ban."""
    pipeline = pipeline_of(Route(EventLogFilter(), window))
    outcome = feed(pipeline, line_at(NOW), b"garbage \xff", b"", line_at(NOW, "203.0.113.6"), line_at(NOW))
    assert [(ban.key, ban.jail) for ban in outcome.bans] == [("203.0.113.5", "login")]
    assert outcome.touched == {"login": {"203.0.113.5", "203.0.113.6"}}
    assert outcome.bans[0].evidence == (line_at(NOW).decode(),) * 2
    assert (pipeline.lines, pipeline.matched, pipeline.refused) == (5, 3, 0)
    saved = failures_of(window, outcome.touched["login"])
    assert {key: sum(failure.count for failure in failures) for key, failures in saved.items()} == {
        ("login", "203.0.113.5"): 0,
        ("login", "203.0.113.6"): 1,
    }


def test_key_that_is_pushed_out_is_touched() -> None:
    """Under a flood the saved state shrinks with the window, else it would grow for ever."""
    window = window_of(Jail("login"), keys_most=2)
    pipeline = pipeline_of(Route(EventLogFilter(), window))
    state = dict[tuple[str, str], int]()
    for number in range(1, 10):
        outcome = feed(pipeline, line_at(NOW, f"203.0.113.{number}"))
        for key, failures in failures_of(window, outcome.touched["login"]).items():
            state[key] = len(failures)
    assert {key for (_, key), count in state.items() if count} == {key for key, _ in window}


@pytest.mark.parametrize(
    ("time", "is_counted"),
    [
        (NOW, True),
        (NOW - 599.9, True),
        (NOW - 600, False),
        (NOW - 1e9, False),
        (NOW + AHEAD_MOST, True),
        (NOW + AHEAD_MOST + 1, False),
        (NOW + 1e9, False),
    ],
)
def test_only_events_of_about_now_count(window: JailWindow, time: float, is_counted: bool) -> None:
    """What is older than findtime or more than a minute ahead counts for nothing."""
    outcome = feed(pipeline_of(Route(EventLogFilter(), window)), line_at(time))
    assert (window.total_failed == 1) is is_counted
    assert bool(outcome.touched) is is_counted


def test_what_became_of_the_lines_is_counted_by_source() -> None:
    """Each source tells its lines, events, those that are untimely for some jail, and what nobody may report."""
    hour, day = window_of(Jail("hour", findtime="1h")), window_of(Jail("day", findtime="1d"))
    routes = [Route(EventLogFilter(), hour), Route(EventLogFilter(), day)]
    pipeline = Pipeline({"one": routes, "two": [Route(EventLogFilter(), hour, frozenset([ALICE]))]}, NetworkSet())
    old, future = line_at(NOW - 7200), line_at(NOW + 3600)
    pipeline.feed("one", Chunk("origin", [line_at(NOW), old, old, future, b"garbage"]), NOW)
    pipeline.feed("one", Chunk("origin", [line_at(NOW)]), NOW)
    pipeline.feed("two", Chunk("origin", [line_at(NOW)] * 2, uid=BOB), NOW)
    assert pipeline.counts("one") == LineCounts(lines=6, matched=5, untimely=3)
    assert pipeline.counts("two") == LineCounts(lines=2, refused=2)
    assert (pipeline.lines, pipeline.matched, pipeline.refused) == (8, 5, 2)
    assert (hour.total_failed, day.total_failed) == (2, 4)


def test_a_filter_in_trouble_is_said_by_source(window: JailWindow) -> None:
    """A complaint names its filter; a source whose filters have none says nothing, and no line of it may be slow."""
    chosen = RegexFilter("logins", FilterOptions(failregex=("failed from <HOST>$",)))
    pipeline = Pipeline({"log": [Route(chosen, window)], "other": [Route(EventLogFilter(), window)]}, NetworkSet())
    assert pipeline.complaints("log") == []
    feed(pipeline, b"2027-01-15 08:00:00 failed from 203.0.113.5", b"15 janvier: failed from 203.0.113.5")
    assert pipeline.complaints("log") == ["filter logins: 1 lines tell no time that it can read: they count as of now"]
    assert pipeline.complaints("other") == []
    assert pipeline.may_be_slow("log")
    assert not pipeline.may_be_slow("other")


def test_our_own_regexes_are_not_slow(window: JailWindow) -> None:
    """A source that our own regexes alone read is read in large pieces, one with a user's in small ones."""
    line = {"kind": "authn_login_fail", "regex": "failed from (?P<address>[^ ]+)"}
    ours, theirs = open_filter("sshd"), data_filter("theirs", {"line": [line]})
    routes = {"ours": [Route(ours, window)], "both": [Route(ours, window), Route(theirs, window)]}
    pipeline = Pipeline(routes, NetworkSet())
    assert (pipeline.may_be_slow("ours"), pipeline.may_be_slow("both")) == (False, True)


def test_safelisted_addresses_do_not_count(window: JailWindow) -> None:
    """Who is on the safelist is never found, whatever spelling the line has."""
    pipeline = pipeline_of(Route(EventLogFilter(), window), safelist=["203.0.113.0/24", "2001:db8::/32"])
    line = line_at(NOW).replace(b"203.0.113.5", b"::ffff:203.0.113.5")
    assert feed(pipeline, line_at(NOW), line, line_at(NOW, "2001:db8::1")) == Outcome()
    assert pipeline.matched == 3


def test_users_feed_only_their_jails(caplog: pytest.LogCaptureFixture) -> None:
    """An app's user counts in the jails that name it; a stranger counts nowhere, and is named once."""
    alices, bobs, both = (window_of(Jail(name)) for name in ("alices", "bobs", "both"))
    pipeline = pipeline_of(
        Route(EventLogFilter(), alices, frozenset([ALICE])),
        Route(EventLogFilter(), bobs, frozenset([BOB])),
        Route(EventLogFilter(), both, frozenset([ALICE, BOB])),
    )
    assert set(feed(pipeline, line_at(NOW), uid=ALICE).touched) == {"alices", "both"}
    assert set(feed(pipeline, line_at(NOW), uid=BOB).touched) == {"bobs", "both"}
    assert (alices.total_failed, bobs.total_failed, both.total_failed) == (1, 1, 2)
    with caplog.at_level(logging.WARNING, "appguard"):
        for _ in range(3):
            assert feed(pipeline, line_at(NOW), line_at(NOW), uid=4711) == Outcome()
    assert caplog.messages == ["user 4711 reports events, but is in the users of no jail: its events do not count"]
    assert pipeline.refused == 6


def test_each_filter_reads_a_line_once_for_all_its_jails() -> None:
    """Jails with one filter see the same event, jails with another filter their own."""
    logins, probes, events = window_of(Jail("login")), window_of(Jail("probe", events=[PROBE])), window_of(Jail("app"))
    nginx = NginxFilter()
    pipeline = pipeline_of(Route(nginx, logins), Route(nginx, probes), Route(EventLogFilter(), events))
    access = b'203.0.113.5 - alice [15/Jan/2027:08:00:00 +0000] "GET / HTTP/1.1" %d 0 "-" "-"'
    outcome = feed(pipeline, access % 401, access % 404, access % 200, line_at(NOW))
    assert set(outcome.touched) == {"login", "probe", "app"}
    assert (logins.total_failed, probes.total_failed, events.total_failed) == (1, 1, 1)
    assert (pipeline.lines, pipeline.matched) == (4, 3)


def test_found_is_logged_as_fail2ban_users_expect(window: JailWindow, caplog: pytest.LogCaptureFixture) -> None:
    """Each counted event is a `[jail] Found IP` in the log, with nothing a stranger wrote."""
    with caplog.at_level(logging.INFO, "appguard"):
        feed(pipeline_of(Route(EventLogFilter(), window)), line_at(NOW), line_at(NOW - 9999))
    assert caplog.messages == ["[login] Found 203.0.113.5"]


def test_a_flood_is_not_logged_line_by_line(window: JailWindow, caplog: pytest.LogCaptureFixture) -> None:
    """Of many events of one chunk the first are named, the others counted; the next chunk begins anew."""
    pipeline = pipeline_of(Route(EventLogFilter(), window))
    with caplog.at_level(logging.INFO, "appguard"):
        feed(pipeline, *[line_at(NOW, f"203.0.{number >> 8}.{number & 255}") for number in range(FOUND_MOST + 7)])
        feed(pipeline, line_at(NOW, "198.51.100.1"))
    assert caplog.messages[:2] == ["[login] Found 203.0.0.0", "[login] Found 203.0.0.1"]
    assert caplog.messages[FOUND_MOST:] == ["[login] Found 7 more", "[login] Found 198.51.100.1"]


def test_a_client_known_by_name_counts_when_its_addresses_are_known(window: JailWindow) -> None:
    """Until then nothing is counted; then each of its addresses is, but none on the safelist and none too late."""
    chosen = RegexFilter("names", FilterOptions(failregex=("^failed from <HOST>$",)))
    pipeline = pipeline_of(Route(chosen, window), safelist=["198.51.100.0/24"])
    outcome = feed(pipeline, *[b"failed from a.example.com"] * 2)
    assert (outcome.touched, outcome.bans, window.total_failed) == ({}, [], 0)
    assert [unresolved.named.host for unresolved in outcome.unresolved] == ["a.example.com"] * 2
    first, second = outcome.unresolved
    found = tuple(map(parse_address, ("203.0.113.5", "198.51.100.7", "2001:db8::5")))
    assert pipeline.resolve(first, found, NOW + 5).touched == {window.jail.name: {"203.0.113.5", "2001:db8::/64"}}
    assert pipeline.resolve(second, (), NOW + 5) == Outcome()
    assert pipeline.resolve(second, found, NOW + 601) == Outcome()
    (ban,) = pipeline.resolve(second, found[:1], NOW + 5).bans
    assert (ban.key, ban.evidence) == ("203.0.113.5", ("failed from a.example.com",) * 2)


def test_unknown_source_counts_nowhere(window: JailWindow) -> None:
    """Lines of a source no jail listens to are refused."""
    pipeline = pipeline_of(Route(EventLogFilter(), window))
    assert pipeline.feed("other", Chunk("origin", [line_at(NOW)]), NOW) == Outcome()
    assert (pipeline.refused, window.total_failed) == (1, 0)


def test_root_is_a_user_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """Root, which may be a container's, feeds a socket jail only if the jail names it."""
    pipeline = pipeline_of(Route(EventLogFilter(), window_of(Jail("alices")), frozenset([ALICE])))
    assert feed(pipeline, line_at(NOW), uid=0) == Outcome()
    assert pipeline.refused == 1
    assert "user 0 reports events" in caplog.text
