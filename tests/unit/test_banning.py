"""From decisions to bans in force: escalation, caps, recidive, dry run, growth; with the real ban set and judge."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, network_text, parse_address, parse_network
from appguard.ban import Ban, Fact
from appguard.ban_rate import CAPPED_BANTIME, BanRate, capped
from appguard.banning import Banning
from appguard.escalation import Escalation
from appguard.event import BAN, LOGIN_FAIL, Event
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.pipeline import Outcome, count
from appguard.stores.memory import MemoryBanSet

NOW = 1_800_000_000.0
Clock = Callable[[], float]


class Court:
    """All that decides in a daemon, with a clock that stands still until it is moved."""

    def __init__(self, *jails: Jail, safelist: Iterable[str] = ()) -> None:
        self.now = NOW
        self.bans = MemoryBanSet(lambda: self.now)
        self.windows = {jail.name: JailWindow(jail, Grouping()) for jail in jails}
        judge = Judge(safelist=map(parse_network, safelist))
        self.banning = Banning(self.windows, self.bans, judge, lambda: self.now, lambda _: None)

    def fail(self, address: str, jail: str = "login") -> Outcome:
        """Count one failure now and decide."""
        outcome = Outcome()
        event = Event(LOGIN_FAIL, self.now, parse_address(address))
        outcome.bans += count(self.windows[jail], event, "line", outcome)
        self.banning.take(outcome)
        return outcome

    def in_force(self) -> dict[str, float | None]:
        """Give the seconds each ban has left, by network."""
        self.bans.expire()
        return {ban.key: ban.end and ban.end - self.now for ban in self.bans.snapshot().bans}


def login(**settings: Any) -> Jail:
    """Make a jail that bans at the first failure, for ten minutes if nothing else is said."""
    defaults: dict[str, Any] = {"maxretry": 1}
    return Jail("login", **(defaults | settings))


def ban_of(address: str, start: float = NOW, bantime: float = 600, jail: str = "login") -> Ban:
    """Make a ban."""
    return Ban(parse_network(address), jail, start, start + bantime, automatic=True)


def test_each_ban_lasts_longer_and_lines_told_late_do_not_make_it_two() -> None:
    """Bans double once the one before has ended; a failure of somebody banned prolongs, and is no further ban."""
    court = Court(login(bantime=60, bantime_increment=True))
    for expected in (60, 120, 240):
        court.fail("203.0.113.5")
        assert court.in_force() == {"203.0.113.5": expected}
        court.now += 10
        court.fail("203.0.113.5")
        assert court.in_force() == {"203.0.113.5": expected}
        court.now += expected
    assert court.banning.totals["login"] == 3
    assert court.banning.history.changed == {"203.0.113.5"}


def test_ban_that_would_be_over_already_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """A line told so late that its ban has ended bans nobody, and the log says that and not that somebody is banned."""
    caplog.set_level("INFO")
    court = Court(login(bantime=60))
    outcome = Outcome()
    outcome.bans.append(ban_of("203.0.113.5", NOW - 60, 60))
    court.banning.take(outcome)
    assert court.in_force() == {} and court.banning.totals["login"] == 0
    assert caplog.messages == ["[login] 203.0.113.5 is not banned: that would be over already"]
    court.fail("203.0.113.5")
    assert court.in_force() == {"203.0.113.5": 60}
    outcome = Outcome()
    outcome.bans.append(ban_of("203.0.113.5", NOW - 60, 60))
    court.banning.take(outcome)
    assert caplog.messages[-1] == "[login] 203.0.113.5 already banned"


def test_a_lifted_ban_was_wrong_and_is_forgotten_but_stays_in_the_total() -> None:
    """After an unban the next ban is as short as the first, and fail2ban's `Total banned` has counted both."""
    court = Court(login(bantime=60, bantime_increment=True, escalate=2), Jail("slow", maxretry=5))
    court.fail("203.0.113.5")
    court.fail("203.0.113.5", "slow")
    lifted = court.bans.unban(parse_network("203.0.113.5"))
    assert lifted is not None
    assert court.banning.lift(lifted) == {"login": {"203.0.113.5"}, "slow": {"203.0.113.5"}}
    assert court.windows["slow"].currently_failed == 0
    court.fail("203.0.113.5")
    assert court.in_force() == {"203.0.113.5": 60}
    assert court.banning.totals["login"] == 2
    court.fail("203.0.113.6")
    assert "203.0.113.0/24" in court.in_force()


def test_ban_lifted_elsewhere_is_over() -> None:
    """Where the fleet lifted a ban, or the clock ended it before a line told late, the next one is another one."""
    court = Court(login(bantime=60, bantime_increment=True))
    court.fail("203.0.113.5")
    court.now += 10
    court.bans.unban(parse_network("203.0.113.5"))
    court.fail("203.0.113.5")
    assert (court.in_force(), court.banning.totals["login"]) == ({"203.0.113.5": 120}, 2)
    court.now += 121
    assert court.in_force() == {}
    late = Event(LOGIN_FAIL, court.now - 5, parse_address("203.0.113.5"))
    outcome = Outcome()
    outcome.bans += count(court.windows["login"], late, "", outcome)
    court.banning.take(outcome)
    assert (court.in_force(), court.banning.totals["login"]) == ({"203.0.113.5": 235}, 3)


def test_network_is_banned_with_enough_of_its_addresses() -> None:
    """The third different address of a /24, or /64 of a /48, takes the network with it; the same one again does not."""
    court = Court(login(escalate=3))
    for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.112.9", "2001:db8::1", "2001:db8::2"):
        court.fail(address)
        court.now += 1
    assert not any(key.endswith(("/24", "/48")) for key in court.in_force())
    court.fail("203.0.113.77")
    court.fail("2001:db8:0:7::1")
    court.fail("2001:db8:0:8::1")
    wide = [ban for ban in court.bans.snapshot().bans if ban.key.endswith(("/24", "/48"))]
    assert [(ban.key, ban.reason) for ban in wide] == [
        ("203.0.113.0/24", "3 addresses of 203.0.113.0/24 are banned"),
        ("2001:db8::/48", "3 addresses of 2001:db8::/48 are banned"),
    ]


def test_judge_is_asked_about_the_network_too(caplog: pytest.LogCaptureFixture) -> None:
    """A network that holds a safelisted address is not banned, its single addresses are."""
    court = Court(login(escalate=2), safelist=["203.0.113.200"])
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.200"):
        court.fail(address)
    assert set(court.in_force()) == {"203.0.113.1", "203.0.113.2"}
    assert "[login] 203.0.113.0/24 is not banned: 203.0.113.0/24 holds 203.0.113.200" in caplog.text


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 30), st.integers(1, 60)), max_size=40
    ),
    escalate=st.integers(2, 4),
)
def test_escalation_is_a_plain_count_of_bans_in_force(steps: list[tuple[int, int, int, int]], escalate: int) -> None:
    """A network is named exactly if that many different addresses of it are banned at that moment."""
    escalation = Escalation(login(escalate=escalate))
    ends: dict[int, dict[str, float]] = {}
    now = NOW
    for network, host, later, bantime in steps:
        now += later
        ban = ban_of(f"203.0.{network}.{host}", now, bantime)
        mine = {key: end for key, end in ends.get(network, {}).items() if end > now} | {ban.key: now + bantime}
        ends[network] = mine
        wider = escalation.note(ban)
        assert (wider is not None) is (len(mine) >= escalate)
        assert wider is None or network_text(wider.network) == f"203.0.{network}.0/24"


def test_escalation_is_bounded() -> None:
    """It looks at so many networks only, the quietest goes, and it bans so many only, until they end."""
    escalation = Escalation(login(escalate=2), networks_most=2, bans_most=1)
    for network in (1, 2, 3):
        assert escalation.note(ban_of(f"203.0.{network}.1")) is None
    assert escalation.note(ban_of("203.0.1.2")) is None  # 203.0.1.1 is forgotten
    assert escalation.note(ban_of("203.0.3.2")) is not None
    assert escalation.note(ban_of("203.0.1.3", NOW + 1)) is None  # one is in force
    assert escalation.note(ban_of("203.0.1.4", NOW + 600)) is not None


def test_escalation_goes_on_after_a_restart() -> None:
    """Bans in force before count afterwards, those of other jails and of persons do not."""
    court = Court(login(escalate=3), Jail("other"))
    manual = Ban.of("203.0.113.3", jail="login", start=NOW)
    court.banning.restore([ban_of("203.0.113.1"), ban_of("203.0.113.2", jail="other"), manual])
    court.fail("203.0.113.4")
    assert set(court.in_force()) == {"203.0.113.4"}
    court.fail("203.0.113.5")
    assert "203.0.113.0/24" in court.in_force()


def test_too_many_bans_are_short_ones_of_addresses_only(caplog: pytest.LogCaptureFixture) -> None:
    """Above the cap addresses are banned for ten minutes, networks not at all, and people are told once."""
    court = Court(login(bantime=-1, bans_per_minute=2), Jail("net", maxretry=1, key="network", bans_per_minute=1))
    for number in range(4):
        court.fail(f"203.0.113.{number}")
        court.fail("203.0.113.0")  # a ban prolonged is not another one
    assert court.in_force() == {
        "203.0.113.0": None, "203.0.113.1": None, "203.0.113.2": CAPPED_BANTIME, "203.0.113.3": CAPPED_BANTIME
    }  # fmt: skip
    assert "more than 2 bans a minute (bans_per_minute)" in court.banning.alarm("login")
    court.fail("198.51.100.1", "net")
    court.fail("192.0.2.1", "net")
    assert "198.51.100.0/24" in court.in_force()
    assert "192.0.2.0/24" not in court.in_force()
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 2
    court.now += 61
    court.banning.tick()
    assert (court.banning.alarm("login"), court.banning.alarm("net")) == ("", "")
    assert "[login] no more than 2 bans a minute again" in caplog.text
    court.fail("203.0.113.9")
    assert court.in_force()["203.0.113.9"] is None


def test_rate_counts_what_it_says() -> None:
    """In no minute are more bans believed than the cap says, and a ban already short stays as short."""
    rate = BanRate(login(bans_per_minute=3))
    believed = [second for second in range(300) if not rate.count(NOW + second)]
    assert all(sum(begin <= second < begin + 60 for second in believed) <= 3 for begin in range(240))
    assert len(believed) >= 13
    short = ban_of("203.0.113.1", bantime=5)
    assert capped(short) == short
    assert capped(ban_of("203.0.113.0/24")) is None


def test_recidive_counts_bans_of_all_jails_but_its_own() -> None:
    """The third ban, whoever made it, is one by the jail that counts bans; its own and prolonged ones do not count."""
    recidive = Jail("recidive", events=BAN, maxretry=3, findtime="1d", bantime="1w")
    court = Court(login(bantime=10), Jail("slow", maxretry=1, bantime=20), recidive)
    for jail in ("login", "login", "slow"):
        court.fail("203.0.113.5", jail)  # the second only prolongs
    assert court.banning.totals["recidive"] == 0
    court.now += 20
    outcome = court.fail("203.0.113.5")
    assert court.in_force() == {"203.0.113.5": 604_800}
    assert outcome.touched == {"login": {"203.0.113.5"}, "recidive": {"203.0.113.5"}}
    (ban,) = court.bans.snapshot().bans
    assert ban.evidence == ("[login] Ban 203.0.113.5", "[slow] Ban 203.0.113.5", "[login] Ban 203.0.113.5")
    assert court.windows["recidive"].currently_failed == 0


def test_bans_of_before_a_dry_run_are_void() -> None:
    """What a jail in dry run had banned here is to be lifted; not what people, programs or other jails banned."""
    court = Court(login(dry_run=True), Jail("other", maxretry=1))
    made = Ban(parse_network("203.0.113.5"), "login", court.now, None, failures=5, automatic=True)
    assert court.banning.objection(made) == "its jail is in dry run now"
    for other in (replace(made, jail="other"), replace(made, failures=0), replace(made, automatic=False)):
        assert court.banning.objection(other) == ""


def test_a_dry_run_voids_no_bans_of_others_in_a_fleet() -> None:
    """What other hosts and apps banned by a jail of that name stays, and what a host of the same name bans later."""
    court = Court(login(dry_run=True))
    court.bans.name, court.bans.host = "redis://127.0.0.1:6379/0", "web1"
    made = replace(ban_of("203.0.113.5"), failures=5, host="web1")
    assert court.banning.objection(made) == "its jail is in dry run now"
    for other in (replace(made, host="web2"), replace(made, host=""), replace(made, start=NOW + 1)):
        assert court.banning.objection(other) == ""


def test_dry_run_shows_and_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A jail in dry run says whom it would ban and counts it, and neither ban set nor other jails hear of it."""
    recidive = Jail("recidive", events=BAN, maxretry=1)
    court = Court(login(dry_run=True, escalate=2), recidive)
    court.fail("203.0.113.5")
    court.fail("203.0.113.6")
    assert court.in_force() == {}
    assert {ban.key for ban in court.banning.dry_bans("login")} == {"203.0.113.5", "203.0.113.6", "203.0.113.0/24"}
    assert (court.banning.totals["login"], court.banning.totals["recidive"]) == (3, 0)
    assert "[login] Ban 203.0.113.5 (dry run)" in caplog.messages
    assert court.banning.history.changed == set()
    caplog.set_level(logging.INFO)
    court.now += 601
    court.banning.tick()
    assert court.banning.dry_bans("login") == ()
    assert "[login] Unban 203.0.113.5 (dry run)" in caplog.messages


def test_what_another_host_of_the_same_name_decided_is_learnt_and_what_this_one_did_is_not() -> None:
    """A ban by any other host makes the next one longer, whatever its name; one's own is no news when it is heard."""
    court = Court(login(scope="fleet", maxretry=2, bantime=60, bantime_increment=True))
    court.bans.host = "clone"
    others = replace(ban_of("203.0.113.5", bantime=60), host="clone")
    assert court.banning.learn([Fact.of(others)]).touched == {"login": {"203.0.113.5"}}
    court.now += 61
    for address in ("203.0.113.5", "203.0.113.5", "203.0.113.6", "203.0.113.6"):
        court.fail(address)
    assert court.in_force() == {"203.0.113.5": 120, "203.0.113.6": 60}
    for address in ("203.0.113.5", "203.0.113.6"):
        court.fail(address)
    facts = [Fact.of(ban) for ban in court.bans.snapshot().bans]
    assert court.banning.learn(facts).touched == {}
    assert court.windows["login"].currently_failed == 2
    longer = [replace(fact.ban, end=NOW + 1000) for fact in facts if fact.ban]
    assert court.banning.learn(map(Fact.of, longer)).touched == {"login": {"203.0.113.5", "203.0.113.6"}}
    assert court.windows["login"].currently_failed == 0


def test_a_ban_that_was_heard_before_its_answer_came_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What the fleet put in force for this host's failure is this host's ban, though all were told first."""
    court = Court(login(scope="fleet", maxretry=2, bantime=60))
    made = replace(ban_of("203.0.113.5", bantime=60), version=7)
    court.banning.learn([Fact.of(made)])
    court.banning.enacted(made, is_new=True)
    court.banning.enacted(made, is_new=True)  # as where this host had banned by itself
    assert caplog.messages.count("[login] Ban 203.0.113.5") == court.banning.totals["login"] == 1
