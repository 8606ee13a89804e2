"""What is explained agrees with what the pipeline does, in every case, and each answer is the one that helps."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appguard.address import Grouping, NetworkSet, parse_address, parse_network
from appguard.ban import Ban
from appguard.banning import Banning
from appguard.config import daemon_config
from appguard.engine import routes_of, safelist_of, windows_of
from appguard.event import KINDS, REQUEST, Event
from appguard.explain import Explainer, Parts, from_settings
from appguard.explained import Explanation
from appguard.filters.event_log import EventLogFilter
from appguard.host import HostFacts
from appguard.jail import Jail
from appguard.jail_window import JailWindow
from appguard.judge import Judge
from appguard.not_counted import why_not_counted
from appguard.pipeline import Outcome, Pipeline, Route
from appguard.sources.base import Chunk
from appguard.status import BanRecord
from appguard.stores.memory import MemoryBanSet

NOW = 1_800_000_000.0
ATTACKER = "203.0.113.5"
SAFE = NetworkSet([parse_network("198.51.100.0/24")])


@st.composite
def jails(draw: st.DrawFn) -> Jail:
    """Give a jail of any settings that decide whether an event counts."""
    return Jail(
        "any",
        maxretry=3,
        events=draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)),
        statuses=draw(st.sampled_from(((), (404,), (401, 403)))),
        paths=draw(st.sampled_from(((), ("/admin/*",), ("*.php",)))),
        exempt_paths=draw(st.sampled_from(((), ("/admin/ok",), ("*.css",)))),
        safelist=draw(st.sampled_from(((), ("203.0.113.0/24",)))),
        distinct=draw(st.sampled_from(("", "path", "user_agent"))),
        key=draw(st.sampled_from(("address", "network", "user", "user+address"))),
    )


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Give an event that some of those jails count."""
    return Event(
        draw(st.sampled_from((*KINDS, "something_else"))),
        NOW + draw(st.sampled_from((0, -59, -599, -601, -86_400, 59, 61, 1e6))),
        parse_address(draw(st.sampled_from((ATTACKER, "198.51.100.7", "192.0.2.1", "2001:db8::1")))),
        count=draw(st.sampled_from((0, 1, 1, 2))),
        user=draw(st.sampled_from(("", "alice"))),
        path=draw(st.sampled_from(("", "/admin/ok", "/admin/x", "/a.php", "/a.css"))),
        status=draw(st.sampled_from((0, 200, 401, 404))),
        user_agent=draw(st.sampled_from(("", "curl"))),
        jail=draw(st.sampled_from(("", "", "", "login"))),
    )


@given(jail=jails(), event=events())
def test_a_reason_is_given_exactly_if_the_pipeline_does_not_count(jail: Jail, event: Event) -> None:
    """For every jail and event: no reason, and the jail counts it; a reason, and it does not."""
    window = JailWindow(jail, Grouping())
    why = why_not_counted(window, event, SAFE, NOW)
    assert window.total_failed == 0
    pipeline = Pipeline({"log": [Route(EventLogFilter(), window)]}, SAFE)
    pipeline.feed("log", Chunk("origin", [event.to_line().encode()]), NOW)
    assert (why == "") is (window.total_failed > 0), why
    assert not why.startswith("it has no key")


class Court:
    """The parts of a daemon with a clock of its own, fed by lines."""

    def __init__(self, directory: Path, tables: str) -> None:
        file = directory / "appguard.toml"
        file.write_text(tables)
        config = daemon_config(file)
        self.now = NOW
        self.bans = MemoryBanSet(lambda: self.now)
        self.judge = Judge(safelist=config.safelist)
        windows = windows_of(config.jails, Grouping())
        self.banning = Banning(windows, self.bans, self.judge, lambda: self.now, lambda outcome: None)
        self.pipeline = Pipeline(routes_of(config.jails, windows), safelist_of(config))
        self.enforcing = True
        self.enforced_by: tuple[str, ...] = ("kernel", "app")
        safe, group = safelist_of(config), Grouping().key
        parts = Parts(
            config.jails, windows, self.banning, self.bans, self.judge, safe, group, self.record, lambda: self.enforcing
        )
        self.explainer = Explainer(parts)

    def record(self, ban: Ban) -> BanRecord:
        """Give a record."""
        return BanRecord.of(ban, self.enforced_by)

    def feed(self, source: str, line: str, times: int = 1) -> None:
        """Have lines counted."""
        outcome: Outcome = self.pipeline.feed(source, Chunk(source, [line.encode()] * times), self.now)
        self.banning.take(outcome)

    def explain(self, what: str, origin: str = "") -> Explanation:
        """Explain."""
        return asyncio.run(self.explainer.explain(what, origin, self.now))


def nginx(address: str = ATTACKER, status: int = 404, user: str = "-") -> str:
    """Write a line of now."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(NOW))
    return f'{address} - {user} [{stamp}] "GET /x HTTP/1.1" {status} 1 "-" "-"'


TWO = """
[jails.login]
source = "/log/access.log"
filter = "nginx"
maxretry = 2
key = "user+address"
[jails.probes]
source = "/log/access.log"
filter = "nginx"
events = ["guard_probe"]
maxretry = 2
bantime_increment = true
[jails.recidive]
use = "recidive"
maxretry = 3
"""


def test_everything_known_of_an_address_is_told(tmp_path: Path) -> None:
    """Counters of each of its keys, bans that recidive heard of, earlier bans, and how long the next would last."""
    court = Court(tmp_path, TWO)
    court.feed("/log/access.log", nginx(), 2)
    court.feed("/log/access.log", nginx(status=401, user="ann"))
    court.feed("/log/access.log", nginx(status=401, user="bob"))
    court.feed("/log/access.log", nginx("203.0.113.6", status=401, user="ann"))
    told = court.explain(ATTACKER)
    by_key = {(step.name, step.key): step.counted for step in told.jails}
    assert by_key == {
        ("login", f"{ATTACKER} ann"): 1,
        ("login", f"{ATTACKER} bob"): 1,
        ("probes", ""): 0,
        ("recidive", ATTACKER): 1,
    }
    (facts,) = told.addresses
    assert [ban.jail for ban in facts.bans] == ["probes"]
    court.now += 601
    probes = next(step for step in court.explain(ATTACKER).jails if step.name == "probes")
    assert (probes.earlier, probes.bantime) == (1, 1200)
    assert court.explain(f" {ATTACKER}\n").addresses[0].bans == ()


def test_the_best_jail_gives_the_answer(tmp_path: Path) -> None:
    """Of jails that do not count a line the answer names the one it is for; of others the nearest to a ban."""
    court = Court(tmp_path, TWO)
    old = court.explain(nginx().replace(time.strftime("%Y", time.gmtime(NOW)), "2001"))
    assert old.conclusion.startswith("Not banned: jail probes does not count it: it is ")
    assert "days old" in old.conclusion
    assert "jail probes has counted 0" in court.explain(nginx()).conclusion
    court.feed("/log/access.log", nginx())
    assert court.explain(nginx()).conclusion.endswith("under 203.0.113.5 and bans at 2; 1 more would do.")


def test_a_ban_that_blocks_nobody_is_told(tmp_path: Path) -> None:
    """Banned but unenforced, unreached, or refused by the judge since: each is the answer, not just `banned`."""
    court = Court(tmp_path, TWO)
    court.feed("/log/access.log", nginx(), 2)
    assert court.explain(nginx()).conclusion.endswith(", and shut out by kernel and app.")
    court.enforced_by = ("app",)
    assert court.explain(nginx()).conclusion.endswith("no firewall shuts it out, only the app does.")
    court.enforcing = False
    assert court.explain(nginx()).conclusion.endswith("but enforcement is off: appguard enforce on.")
    court.judge.update(replace(HostFacts(), own=(parse_network(ATTACKER),)))
    assert "not in the firewall: 203.0.113.5 is an address of this host" in court.explain(nginx()).conclusion


def test_a_dry_run_is_told(tmp_path: Path) -> None:
    """Who would be banned by a jail in dry run is not banned, and that is why."""
    court = Court(tmp_path, TWO.replace("maxretry = 2\nbantime", "dry_run = true\nmaxretry = 2\nbantime"))
    court.feed("/log/access.log", nginx(), 2)
    told = "Not banned: jail probes would shut it out, but is a dry run, which enforces nothing."
    assert court.explain(nginx()).conclusion == court.explain(ATTACKER).conclusion == told


def test_explaining_leaves_no_trace_in_filters(tmp_path: Path) -> None:
    """A filter that joins the lines of a connection makes the same of a line each time it is explained."""
    regex = "failregex = '^<F-MLFID>\\[\\d+\\]</F-MLFID>: <F-NOFAIL>from</F-NOFAIL> <HOST>$\n"
    regex += "  ^<F-MLFID>\\[\\d+\\]</F-MLFID>: <F-MLFFORGET>failed</F-MLFFORGET>$'"
    regex = regex.replace("'", "'''")
    court = Court(tmp_path, f'[jails.ssh]\nsource = "/log/auth.log"\nfilter = "regex"\n{regex}\n')
    for _ in range(3):
        assert court.explain("[7]: from 203.0.113.5").jails[0].event is None
        assert court.explain("[7]: failed").jails[0].event is None
    court.feed("/log/auth.log", "[7]: from 203.0.113.5")
    court.feed("/log/auth.log", "[7]: failed")
    assert court.explain(ATTACKER).jails[0].counted == 1


def test_a_client_known_by_name_is_told(tmp_path: Path) -> None:
    """A line that names a host is explained without looking the name up."""
    court = Court(tmp_path, '[jails.ssh]\nsource = "/log/a"\nfilter = "regex"\nfailregex = "^failed from <HOST>$"\n')
    told = court.explain("failed from a.invalid")
    assert "known by the name a.invalid only" in told.conclusion
    assert (told.addresses, told.jails[0].event and told.jails[0].event.host) == ((), "a.invalid")


def test_without_a_daemon_nobody_outside_is_asked(tmp_path: Path) -> None:
    """The settings alone explain; a function for `ignorecommand` is not imported."""
    file = tmp_path / "appguard.toml"
    file.write_text(TWO.replace("maxretry = 3", 'ignorecommand = "no.such.module:function"'))
    told = asyncio.run(from_settings(daemon_config(file), lambda: NOW).explain(nginx(), "", NOW))
    assert (told.live, told.conclusion) == (False, "Not banned: it counts in jail probes, which bans at 2 in 600 s.")


def test_settings_without_a_jail_are_told(tmp_path: Path) -> None:
    """Where no jail is set up, that is the answer."""
    told = Court(tmp_path, "").explain(nginx())
    assert told.conclusion == "Not banned: the settings have no jail that could ban it."


def test_a_request_that_is_no_failure_is_told_as_one(tmp_path: Path) -> None:
    """A good request is explained as a request, although the daemon's own filter would not even yield it."""
    told = Court(tmp_path, TWO).explain(nginx(status=200))
    assert told.jails[1].why_not == f"it is {REQUEST} (answered 200), and the jail counts guard_probe"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("failed from 203.0.113.5 for x.png", "an ignoreregex of the filter"),
        ("all is well", "no failregex of the filter"),
        ("failed from ---", "finds a client in it that is neither an address nor a name"),
        ("x" * 100 + "!y", "too long"),
    ],
)
def test_why_a_regex_finds_nothing_is_told(tmp_path: Path, line: str, why: str) -> None:
    """An ignoreregex, no match, a client that is none, a line over its budget: each is told apart."""
    table = '[jails.own]\nsource = "/log/a"\nfilter = "regex"\nusedns = "no"\nignoreregex = "png$"\n'
    table += 'failregex = ["^failed from <F-ID>\\\\S+</F-ID>", "(x+x+)+y<HOST>"]\n'
    assert why in Court(tmp_path, table).explain(line).conclusion
