"""Refusals answered from memory: no counter is asked; they end with a reset, a lifted ban, or what is given back."""

from collections.abc import Iterator, Sequence
from math import inf

import pytest

from appguard.address import parse_address, parse_network
from appguard.around import Around
from appguard.ban import Ban
from appguard.config import app_config
from appguard.guard import UNCOUNTED, Guard, Refusal
from appguard.limit import CLOSED_WAIT, Hit, Limit, Verdict
from appguard.middleware import Middleware
from appguard.outcome import Outcome
from appguard.proxies import Client
from appguard.request import Request
from appguard.stores.memory import MemoryStore
from appguard.visit import Visit

ALICE = Client(parse_address("203.0.113.5"), "203.0.113.5")
BOB = Client(parse_address("203.0.113.6"), "203.0.113.6")


class Watched(MemoryStore):
    """A store that notes how often its counters are asked."""

    asked = 0

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Note it, and count."""
        self.asked += 1
        return super().check(hits)


class Slow(MemoryStore):
    """A store whose counters take 20 milliseconds of a clock of its own."""

    seconds_passed = 1_000_000.0

    def check(self, hits: Sequence[Hit], seconds: float = inf) -> Verdict:
        """Take them, and count."""
        self.seconds_passed += 0.02
        return super().check(hits)


@pytest.fixture
def middleware() -> Iterator[Middleware]:
    """Give the middleware of an app whose clients have one request and one wrong password an hour."""
    limits = [Limit("2/hour", path="/"), Limit("1/hour", path="/login", count="auth_failure")]
    made = Middleware(app_config({"limits": limits, "event_log": "logger"}, {}))
    made.begin(Around(open_store=Watched))
    yield made
    made.close()


def ask(middleware: Middleware, path: str = "/", client: Client = ALICE) -> Refusal | Visit:
    """Let a request come."""
    return middleware.decide(client, "POST", path, is_preflight=False)


def test_refusal_that_another_request_brings_about_meanwhile_is_no_longer_for_it() -> None:
    """A request that began while nobody was refused is refused by the counters, for as long as they say."""
    others = 2

    def lets_others_go_first(_request: Request) -> bool:
        nonlocal others
        while others:
            others -= 1
            ask(made)
        return False

    limits = [Limit("1/hour"), Limit("100/hour", exempt=lets_others_go_first)]
    made = Middleware(app_config({"limits": limits, "store": "memory://", "event_log": "logger"}, {}))
    made.begin(Around(monotonic=lambda: 1_000_000.0, open_store=lambda: MemoryStore(monotonic=lambda: 1_000_000.0)))
    refused = ask(made)
    assert isinstance(refused, Refusal)
    assert refused.wait == 3600


def asked(middleware: Middleware) -> int:
    """Say how often counters were asked."""
    store = middleware.store
    assert isinstance(store, Watched)
    return store.asked


def only_hit(guard: Guard, method: str, path: str) -> Hit:
    """Give the one hit of a request."""
    found = guard.judge(ALICE, method, path, lambda _address: None, lambda: 0.0, 0.0)
    assert not isinstance(found, Refusal)
    return found[0]


def test_refused_client_costs_no_counter_call(middleware: Middleware) -> None:
    """The first refusal is the counters', the next hundred are remembered."""
    assert not any(isinstance(ask(middleware), Refusal) for _ in range(2))
    assert all(isinstance(ask(middleware), Refusal) for _ in range(101))
    assert asked(middleware) == 3


def test_refused_client_of_a_limit_everywhere_costs_no_counter_call_either() -> None:
    """Whose hits are known without looking at the path is answered from memory, and its neighbour from the counters.

    When the refusal is over nothing is remembered of it.
    """
    now = 1_000_000.0
    made = Middleware(app_config({"limits": ["2/hour"], "event_log": "logger"}, {}))
    made.begin(Around(monotonic=lambda: now, open_store=lambda: Watched(monotonic=lambda: now)))
    assert not any(isinstance(ask(made), Refusal) for _ in range(2))
    assert all(isinstance(ask(made), Refusal) for _ in range(101))
    assert asked(made) == 3
    for number in (4, 5):
        assert isinstance(ask(made, client=BOB), Visit)
        assert asked(made) == number
    assert made.guard.denied
    now += 3600
    assert isinstance(ask(made), Visit)
    assert not made.guard.denied


@pytest.mark.parametrize("limits", [["2/hour"], ["2/hour", Limit("9/hour", count="4xx")]])
@pytest.mark.parametrize(("is_immediate", "waited"), [(False, 0.02), (True, 0.0)])
def test_what_counters_outside_took_is_what_a_request_has_waited(
    limits: list[str | Limit], is_immediate: bool, waited: float
) -> None:
    """Seconds count where counters ask another host; the app's own take none, whoever is refused meanwhile."""
    made = Middleware(app_config({"limits": limits, "event_log": "logger"}, {}))
    store = Slow()
    store.is_immediate = is_immediate
    made.begin(Around(monotonic=lambda: store.seconds_passed, open_store=lambda: store))
    assert [isinstance(ask(made), Refusal) for _ in range(3)] == [False, False, True]
    visit = ask(made, client=BOB)
    assert isinstance(visit, Visit)
    assert visit.waited == pytest.approx(waited)


def test_reset_ends_it(middleware: Middleware) -> None:
    """A client whose counters were reset is let in at its next request."""
    for _ in range(4):
        ask(middleware)
    middleware.store.reset(ALICE.key)
    assert isinstance(ask(middleware), Visit)


def test_lifted_ban_lets_the_counters_be_asked_again(middleware: Middleware) -> None:
    """Whom an administrator lets in is not refused from memory alone."""
    for _ in range(4):
        ask(middleware)
    middleware.store.ban(Ban.of("192.0.2.1", bantime=60))
    ask(middleware)
    assert asked(middleware) == 3
    middleware.store.unban(parse_network("192.0.2.1"))
    ask(middleware)
    assert asked(middleware) == 4


def test_place_that_is_given_back_may_be_taken_at_once(middleware: Middleware) -> None:
    """A refusal because another request is under way is forgotten when that one turns out well."""
    visit = ask(middleware, "/login")
    assert isinstance(visit, Visit)
    assert isinstance(ask(middleware, "/login"), Refusal)
    visit.settle(visit.due(200))
    visit = ask(middleware, "/login")
    assert isinstance(visit, Visit)
    visit.outcome = Outcome(401, "authn_login_fail")
    visit.settle(visit.due(401))
    assert isinstance(ask(middleware, "/login"), Refusal)


def test_refusal_of_an_outcome_is_remembered_for_a_second() -> None:
    """Other workers may give a place back, so the counters are soon asked again."""
    limit = Limit("1/hour", path="/login", count="auth_failure")
    guard = Guard([limit])
    hit = only_hit(guard, "POST", "/login")
    assert guard.settle(Verdict(hit, 3600.0), 0.0) is not None
    for now, is_refused in ((0.9, True), (1.0, False)):
        found = guard.judge(ALICE, "POST", "/login", lambda _address: None, lambda: 0.0, now)
        assert isinstance(found, Refusal) is is_refused


def test_refusal_for_want_of_counters_is_not_remembered() -> None:
    """That nobody could be asked says nothing of the client: the next request asks again."""
    guard = Guard([Limit("5/minute")])
    hit = only_hit(guard, "GET", "/")
    assert guard.settle(Verdict(hit, CLOSED_WAIT, is_known=False), 0.0) == UNCOUNTED
    assert only_hit(guard, "GET", "/") == hit


def test_costly_request_is_no_reason_to_refuse_a_cheap_one() -> None:
    """What was refused at a cost of five is remembered for five and more, not for one."""
    limit = Limit("10/hour", cost=lambda request: 5 if request.path == "/search" else 1)
    guard = Guard([limit])
    hit = only_hit(guard, "GET", "/search")
    guard.settle(Verdict(hit, 60.0), 0.0)
    for path, is_refused in (("/search", True), ("/", False)):
        found = guard.judge(ALICE, "GET", path, lambda _address: None, lambda: 0.0, 1.0)
        assert isinstance(found, Refusal) is is_refused
