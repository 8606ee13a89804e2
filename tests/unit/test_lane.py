"""A filter's lines: those of addresses that are banned are passed over, where nobody would miss them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, NetworkSet, parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.event import LOGIN_FAIL, PROBE, REQUEST
from appguard.filters.nginx import NginxFilter
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.lane import HOSTS_MOST, MANY, PASS_OVER_MOST, RARE, REST, WRITTEN_MOST, Keys, Lane
from appguard.pipeline import Outcome, Pipeline, Route
from appguard.sources.base import LINE_MOST, Block, Chunk

NOW = 1_795_000_000.0  # 18 Nov 2026 11:06:40
ATTACKER, OTHER = "203.0.113.5", "198.51.100.7"
SHORT = Jail("short", maxretry=2, bantime="10m", events=[PROBE])
LONG = Jail("long", maxretry=3, bantime="1d", events=[PROBE])


def probe(address: str = ATTACKER, seconds: int = 40, status: int = 404) -> bytes:
    """Give a line of an access log."""
    return b'%s - - [18/Nov/2026:11:06:%02d +0000] "GET /x HTTP/1.1" %d 153 "-" "-"' % (
        address.encode(), seconds, status
    )  # fmt: skip


def pipeline_of(*jails: Jail, grouping: Grouping | None = None) -> Pipeline:
    """Make a pipeline of jails that read one access log."""
    made, grouping = NginxFilter([kind for jail in jails for kind in jail.events]), grouping or Grouping()
    return Pipeline({"log": [Route(made, JailWindow(jail, grouping)) for jail in jails]}, NetworkSet())


def feed(pipeline: Pipeline, lines: Sequence[bytes], now: float = NOW) -> Outcome:
    """Feed lines as a file's source does, and tell the pipeline of the bans they lead to, as the daemon does."""
    outcome = pipeline.feed("log", Chunk("origin", Block.of(lines)), now)
    pipeline.learn(Fact(ban.network, 1, ban) for ban in outcome.bans)
    return outcome


def test_lines_of_a_banned_address_are_passed_over() -> None:
    """Behind a ban its address's lines lead to nothing more, and are counted; another's are read."""
    pipeline = pipeline_of(SHORT)
    assert len(feed(pipeline, [probe()] * 2).bans) == 1
    outcome = feed(pipeline, [probe(), probe(OTHER), probe()])
    assert outcome.touched == {"short": {OTHER}}
    assert (pipeline.matched, pipeline.passed_over) == (3, 2)


@pytest.mark.parametrize(
    ("written", "others"),
    [
        (
            ("2001:db8::1", "2001:DB8:0:0::0002", "2001:db8::ffff"),
            ("2001:db8:0:1::1", "2001:db8::1%eth0", "2001:db8:::1"),
        ),
        ((ATTACKER, f"::ffff:{ATTACKER}"), (f"::{ATTACKER}", "::ffff:203.0.113.6", "64:ff9b::203.0.113.5")),
        (("64:ff9b::203.0.113.5", "64:ff9b::cb00:7105"), ("64:ff9b::203.0.113.6", ATTACKER)),
    ],
)
def test_an_address_is_passed_over_in_any_form(written: Sequence[str], others: Sequence[str]) -> None:
    """A ban hides the lines of who is counted as the one that is banned, however it is written, and of nobody else."""
    pipeline = pipeline_of(SHORT)
    assert len(feed(pipeline, [probe(written[0])] * 2).bans) == 1
    assert feed(pipeline, list(map(probe, written))) == Outcome()
    assert pipeline.passed_over == len(written)
    feed(pipeline, list(map(probe, others)))
    assert pipeline.passed_over == len(written)


def test_who_is_counted_alone_is_passed_over_alone() -> None:
    """A ban hides nobody else of a /64 that many hosts share, also where that is learnt later."""
    grouping = Grouping()
    pipeline = pipeline_of(SHORT, grouping=grouping)
    feed(pipeline, [probe("2001:db8::1")] * 2)
    assert feed(pipeline, [probe("2001:db8::1"), probe("2001:db8::2")]) == Outcome()
    grouping.learn([parse_network("2001:db8::/64")])
    assert len(feed(pipeline, [probe("2001:db8::1")] * 2).bans) == 1
    assert len(feed(pipeline, [probe("2001:db8::2")] * 2).bans) == 1
    assert feed(pipeline, [probe("2001:db8::1"), probe("2001:db8::2")]) == Outcome()


def test_a_ban_of_one_address_hides_no_other_of_its_slash64() -> None:
    """Where a person has banned less than is counted together, every line is read."""
    pipeline = pipeline_of(SHORT)
    ban = Ban(parse_network("2001:db8::1"), "manual", NOW, NOW + 3600)
    pipeline.learn([Fact(ban.network, 1, ban)])
    assert len(feed(pipeline, [probe("2001:db8::1")] * 2).bans) == 1


Probes = list[list[tuple[int, int, int]]]  # of each chunk: client, second, how its address is written


def made_of(chunks: Probes, forms: Sequence[Sequence[str]]) -> list[object]:
    """Give all that can be seen of what comes of probes by clients whose addresses have these forms."""
    keys = [Grouping().key(parse_address(form[0])) for form in forms]
    jails = replace(SHORT, bantime="10s"), replace(LONG, bantime="20s", safelist=[keys[3]])
    pipeline, seen, now = pipeline_of(*jails), list[object](), NOW
    names = {key: number for number, key in enumerate(keys)}
    for chunk in chunks:
        lines = [probe(forms[who][how % len(forms[who])], second) for who, second, how in chunk]
        outcome = feed(pipeline, lines, now)
        bans = [
            (names[ban.where], ban.jail, ban.start, ban.end, ban.failures, len(ban.evidence)) for ban in outcome.bans
        ]
        touched = {jail: {names[key] for key in keys} for jail, keys in outcome.touched.items()}
        seen.append((bans, touched, pipeline.matched, pipeline.passed_over, pipeline.counts("log").untimely))
        now += 3
    return seen


@given(
    chunks=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 59), st.integers(0, 2)), max_size=20), max_size=6
    )
)
def test_clients_are_alike_in_all_forms(chunks: Probes) -> None:
    """Of IPv6 clients, and of IPv4 clients written in IPv6, comes what comes of IPv4 clients: bans, counts, times."""
    ipv4 = [[f"203.0.113.{number}"] for number in range(4)]
    mapped = [[f"::ffff:203.0.113.{number}"] for number in range(4)]
    ipv6 = [[f"2001:db8:0:{number}::{end}" for end in ("1", "2", "0001")] for number in range(4)]
    mixed = [mapped[0] + ipv4[0], ipv6[1], ipv4[2], ipv6[3][::2]]
    expected = made_of(chunks, ipv4)
    assert [made_of(chunks, forms) for forms in (mapped, ipv6, mixed)] == [expected] * 3


def test_a_ban_that_goes_on_being_earned_is_prolonged() -> None:
    """A little later the lines are read again, and lead to a ban that ends later."""
    pipeline = pipeline_of(replace(SHORT, bantime="2h"))
    first = feed(pipeline, [probe(seconds=0)] * 2).bans[0]
    assert feed(pipeline, [probe(seconds=59)] * 9, NOW + 19).bans == []
    later = feed(pipeline, [probe(seconds=59)] * 2, first.start + PASS_OVER_MOST).bans[0]
    assert first.end is not None
    assert later.end == first.end + 59


def test_a_jail_that_bans_for_longer_still_counts() -> None:
    """The ban of a jail with a shorter bantime hides no line from another; the longest ban hides them from both."""
    pipeline = pipeline_of(SHORT, LONG)
    assert [ban.jail for ban in feed(pipeline, [probe()] * 2).bans] == ["short"]
    assert [ban.jail for ban in feed(pipeline, [probe()]).bans] == ["long"]
    assert feed(pipeline, [probe()] * 9) == Outcome()
    assert pipeline.passed_over == 9


def test_a_ban_cut_short_by_a_cap_counts_as_what_it_was() -> None:
    """Where too many bans a minute make them short, lines are passed over all the same, to the end of the ban."""
    pipeline = pipeline_of(LONG)
    ban = Ban(parse_network(ATTACKER), "long", NOW, NOW + 30, automatic=True)
    pipeline.learn([Fact(ban.network, 1, ban)])
    assert feed(pipeline, [probe()] * 9, NOW + 29).touched == {}
    assert len(feed(pipeline, [probe()] * 3, NOW + 30).bans) == 1


def test_where_hardly_any_line_is_passed_over_nobody_asks_for_a_while() -> None:
    """Of many lines one was passed over: in the next blocks all are read, then it is asked again, and more are."""
    pipeline = pipeline_of(SHORT)
    others = [probe(f"10.0.{number >> 8}.{number & 255}") for number in range(max(MANY, RARE + 1))]
    feed(pipeline, [probe()] * 2)
    feed(pipeline, [probe(), *others])
    assert pipeline.passed_over == 1
    read = [feed(pipeline, [probe()]).touched for _ in range(REST)]
    assert (pipeline.passed_over, read[0]) == (1, {"short": {ATTACKER}})
    feed(pipeline, [probe()] * 2)
    assert pipeline.passed_over == 3


def test_a_log_of_others_does_not_hide_who_floods_another() -> None:
    """Of two logs read in turns, in one hardly any line is passed over; in the other all are, in each of its blocks."""
    pipeline = pipeline_of(SHORT)
    feed(pipeline, [probe()] * 2)
    others = [probe(f"10.0.{number >> 8}.{number & 255}") for number in range(MANY)]
    for _ in range(REST):
        pipeline.feed("log", Chunk("others", Block.of(others)), NOW)
        pipeline.feed("log", Chunk("flooded", Block.of([probe()] * MANY)), NOW)
    assert pipeline.passed_over == REST * MANY


def test_a_lifted_ban_hides_nothing() -> None:
    """Behind an unban each line counts at once."""
    pipeline = pipeline_of(SHORT)
    (ban,) = feed(pipeline, [probe()] * 2).bans
    pipeline.learn([Fact(ban.network, 2, None)])
    assert len(feed(pipeline, [probe()] * 2).bans) == 1


@pytest.mark.parametrize(
    "jail",
    [
        replace(SHORT, key="user"),
        replace(SHORT, key="/24"),
        replace(SHORT, key="user", distinct="address"),
        replace(SHORT, dry_run=True),
        replace(SHORT, bantime_increment=True),
    ],
)
def test_where_lines_matter_to_others_all_are_read(jail: Jail) -> None:
    """Jails that count by something else, in dry run, or with growing bans miss no line of a banned address."""
    pipeline = pipeline_of(SHORT, replace(jail, name="other"))
    feed(pipeline, [probe()] * 2)
    feed(pipeline, [probe()] * 9)
    assert (pipeline.matched, pipeline.passed_over) == (11, 0)


def test_a_ban_for_ever() -> None:
    """Beside a jail that bans for ever only such a ban hides lines, and it always does."""
    pipeline = pipeline_of(SHORT, replace(LONG, bantime=-1))
    assert len(feed(pipeline, [probe()] * 2).bans) == 1
    (ban,) = feed(pipeline, [probe()]).bans
    assert ban.end is None
    assert feed(pipeline, [probe()] * 9, NOW + 1e6) == Outcome()


def test_what_is_remembered_is_bounded() -> None:
    """Of many banned addresses those banned last are remembered."""
    lane = Lane([Route(NginxFilter(), JailWindow(SHORT, Grouping()))])
    for number in range(HOSTS_MOST + 1):
        key = f"20.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        lane.learn(key, Ban(parse_network(key), "short", NOW, NOW + 600, automatic=True))
    lines = Block.of([probe("20.0.0.0"), probe("20.0.0.1"), probe("20.1.0.0")])
    assert lane.lines(Chunk("origin", lines), NOW) == [probe("20.0.0.0")]


def test_keys_remembered_are_few_and_short() -> None:
    """Neither who walks through a /64 nor who is no address at all takes memory, and all get their keys."""
    keys = Keys(Grouping())
    for number in range(WRITTEN_MOST + 9):
        assert keys[f"2001:db8::{number:x}".encode()] == b"2001:db8::/64"
    assert len(keys) == 9
    assert keys[b":" * LINE_MOST] == b""
    assert keys["é:".encode()] == b""
    assert len(keys) == 10


def test_jails_hear_of_what_they_count_only() -> None:
    """A jail of any request hears of a probe too, one of logins does not; the answer is remembered."""
    jails = [replace(SHORT, name="login", events=[LOGIN_FAIL]), replace(SHORT, name="any", events=[REQUEST])]
    pipeline = pipeline_of(*jails)
    for _ in range(2):
        assert {ban.jail for ban in feed(pipeline, [probe(), probe(status=200)]).bans} == {"any"}
        pipeline = pipeline_of(*jails)
