"""Refused requests: by a limit or a ban, what they are answered, what is written of them, and who is never refused."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request

from appguard import AppGuard, Ban, Jail, report_auth_failure
from appguard.address import parse_address, parse_network
from appguard.app_events import SUPPRESSED_SECONDS, Exchange
from appguard.around import Around
from appguard.ban import Fact
from appguard.config import app_config
from appguard.guard import Refusal
from appguard.middleware import Middleware
from appguard.proxies import Client
from appguard.report import Note
from appguard.stores.local import Publisher
from appguard.stores.memory import MemoryStore
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller, EventFile
from tests.lab import wait_until

REFUSALS = "excess_rate_limit_exceeded"


async def page() -> str:
    """Answer a page."""
    return "page"


async def login(request: Request) -> None:
    """Report a failed login, with the credential if there is one."""
    report_auth_failure(request, user="alice", credential=request.headers.get("x-password", ""))


@pytest.fixture
def app() -> FastAPI:
    """Give an app with a page and a login that always fails."""
    made = FastAPI()
    made.add_api_route("/", page, methods=["GET", "HEAD"])
    made.add_api_route("/login", login)
    return made


@pytest.fixture
def events(tmp_path: Path) -> EventFile:
    """Give the event log."""
    return EventFile(tmp_path / "events.jsonl")


class Published:
    """The bans of a daemon, as it publishes them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.store = f"local://{directory}"
        self._publisher = Publisher(directory)
        self._publisher.publish_all([])

    def ban(self, address: str) -> Ban:
        """Publish a ban."""
        now = time.time()
        made = Ban(parse_network(address), "login", now, now + 600, version=int(now * 1_000_000))
        self._publisher.publish([Fact(made.network, made.version, made)], list)
        return made

    def lift(self, ban: Ban) -> None:
        """Publish that a ban is lifted."""
        self._publisher.publish([Fact(ban.network, ban.version + 1, None)], list)

    def close(self) -> None:
        """Close what the publisher has open."""
        self._publisher.close()


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    """Give a daemon's directory."""
    made = Published(tmp_path / "run")
    yield made
    made.close()


def test_a_limit_is_answered_with_429_and_when_to_come_back(app: FastAPI) -> None:
    """Plain text, Retry-After in whole seconds, never to be cached."""
    caller = Caller(AppGuard(app, limits=["1/minute"]))
    caller.get()
    refused = caller.get()
    seconds = int(refused.headers.pop("retry-after"))
    assert 55 <= seconds <= 60
    assert refused.text == f"Too many requests. Try again in {seconds} s.\n"
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"
    assert refused.headers["cache-control"] == "no-store"
    assert refused.headers["content-length"] == str(len(refused.text))


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json;q=0.9, */*", "Application/JSON"])
def test_a_program_is_answered_with_problem_json(app: FastAPI, accept: str) -> None:
    """Who asks for JSON gets the same as an RFC 9457 problem."""
    caller = Caller(AppGuard(app, limits=["1/hour"]))
    caller.get()
    refused = caller.get(headers={"accept": accept})
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json["status"] == refused.status == 429
    assert refused.json["title"] == "Too Many Requests"


def test_a_refused_head_has_no_body(app: FastAPI) -> None:
    """HEAD gets the headers a GET would get, and no body."""
    caller = Caller(AppGuard(app, limits=["1/hour"]))
    assert caller.request("HEAD", "/").status == 200
    refused = caller.request("HEAD", "/")
    assert (refused.status, refused.text) == (429, "")
    assert int(refused.headers["content-length"]) > 0


def test_refusals_are_written_at_once_but_not_each(app: FastAPI, events: EventFile) -> None:
    """The first refusal of a client is an event; a flood is one line per second, not per request."""
    guarded = AppGuard(app, limits=["1/hour"], event_log=str(events))
    assert Caller(guarded).statuses(2) == [200, 429]
    (event,) = events.read()
    assert (event["event"], event["source_ip"], event["status"], event["count"]) == (REFUSALS, ALICE, 429, 1)
    begun = time.monotonic()
    Caller(guarded).statuses(500)
    assert len(events.read()) <= 2 + (time.monotonic() - begun)
    assert Caller(guarded, (MALLORY, 1)).statuses(2) == [200, 429]
    assert events.read()[-1]["source_ip"] == MALLORY


def test_the_next_line_carries_what_was_suppressed(events: EventFile) -> None:
    """One line per client and second, whose count is all refusals since the last; an old flood is not counted later."""
    middleware = Middleware(app_config({"store": "memory://", "limits": ["1/hour"], "event_log": str(events)}, {}))
    moment = [0.0]
    middleware.begin(Around(monotonic=lambda: moment[0]))
    client, other = (Client(parse_address(text), text) for text in (ALICE, MALLORY))

    def is_refused(who: Client, now: float) -> bool:
        moment[0] = now
        return isinstance(middleware.decide(who, "GET", "/", is_preflight=False), Refusal)

    def refuse(who: Client, now: float) -> None:
        assert is_refused(who, now)

    assert not is_refused(client, 9.0)
    assert not is_refused(other, 9.0)
    for now in (10.0, 10.1, 10.9):
        refuse(client, now)
    refuse(other, 10.5)
    refuse(client, 11.0)
    refuse(client, 11.5)
    refuse(client, 11.6)
    refuse(client, 12.1 + SUPPRESSED_SECONDS)
    assert [(event["source_ip"], event["count"]) for event in events.read()] == [
        (ALICE, 1),
        (MALLORY, 1),
        (ALICE, 3),
        (ALICE, 1),
    ]
    middleware.close()


def test_a_published_ban_is_in_force_at_the_next_request(app: FastAPI, published: Published, events: EventFile) -> None:
    """The daemon bans while the app runs: the next request gets 403 with the reference; unbanned, it passes."""
    caller = Caller(AppGuard(app, store=published.store, event_log=str(events)))
    assert caller.get().status == 200
    ban = published.ban(ALICE)
    refused = caller.get()
    assert refused.status == 403
    assert refused.text == f"This address is banned. To have it lifted, quote the reference {ban.ref}.\n"
    assert caller.get(headers={"accept": "application/json"}).json["reference"] == ban.ref
    assert Caller(caller.app, (MALLORY, 1)).get().status == 200
    published.lift(ban)
    assert caller.get().status == 200
    assert events.read() == []


def test_a_ban_of_one_address_leaves_its_neighbours_of_the_64(app: FastAPI, published: Published) -> None:
    """Limits count a /64 together; a ban holds what it names."""
    guarded = AppGuard(app, store=published.store, limits=["99/hour"], event_log="logger")
    one, other = Caller(guarded, ("2001:db8::5", 1)), Caller(guarded, ("2001:db8::6", 1))
    assert [one.get().status, other.get().status] == [200, 200]
    published.ban("2001:db8::5")
    assert [one.get().status, other.get().status] == [403, 200]


@pytest.mark.parametrize("banned", ["2001:db8::/64", "2001:db8::/48", "2001:db8::5", "::/0"])
def test_a_banned_network_holds_all_its_addresses(app: FastAPI, published: Published, banned: str) -> None:
    """A host, its /64 and wider networks are enforced alike."""
    caller = Caller(AppGuard(app, store=published.store), ("2001:db8::5", 1))
    published.ban(banned)
    assert caller.get().status == 403
    assert Caller(caller.app, (ALICE, 1)).get().status == 200


def test_a_ban_holds_everywhere(app: FastAPI, published: Published) -> None:
    """Exempt paths, preflights, unknown paths and websockets are closed to a banned client too."""
    caller = Caller(AppGuard(app, store=published.store, exempt_paths=["/"], limits=[]))
    published.ban(ALICE)
    assert caller.get("/").status == 403
    assert caller.get("/no/such/page").status == 403
    assert caller.request("OPTIONS", "/", {"access-control-request-method": "GET"}).status == 403
    assert caller.handshake("/live", can_deny=True).status == 403
    assert caller.handshake("/live").messages[0]["type"] == "websocket.close"


def test_the_safelist_and_the_proxies_are_never_shut_out(app: FastAPI, published: Published) -> None:
    """A ban that holds a safelisted address or a trusted proxy is not enforced on it."""
    guarded = AppGuard(app, store=published.store, safelist=[ALICE], trusted_proxies=["192.0.2.1"])
    published.ban("0.0.0.0/0")
    assert Caller(guarded).get().status == 200
    assert Caller(guarded, ("192.0.2.1", 1)).get().status == 200
    assert Caller(guarded, (MALLORY, 1)).get().status == 403


def test_a_ban_is_of_the_client_not_of_its_proxy(app: FastAPI, published: Published) -> None:
    """Behind a trusted proxy the ban of one client shuts out that client."""
    caller = Caller(AppGuard(app, store=published.store, trusted_proxies=["192.0.2.1"]), ("192.0.2.1", 1))
    published.ban(ALICE)
    assert caller.get(headers={"x-forwarded-for": ALICE}).status == 403
    assert caller.get(headers={"x-forwarded-for": MALLORY}).status == 200


def test_a_missing_daemon_shuts_nobody_out(app: FastAPI, tmp_path: Path) -> None:
    """With `local://` and no published file, requests pass and limits hold."""
    caller = Caller(AppGuard(app, store=f"local://{tmp_path}/nothing", limits=["1/hour"]))
    assert caller.statuses(2) == [200, 429]


def test_a_jail_in_the_app_bans_where_no_daemon_does(app: FastAPI, events: EventFile) -> None:
    """The third failure bans the address; the events carry the jail, so that a daemon does not count them again."""
    guarded = AppGuard(app, store="memory://", event_log=str(events), jails=[Jail("login", maxretry=3, bantime=-1)])
    assert Caller(guarded).statuses(4, path="/login") == [200, 200, 200, 403]
    assert [event["jail"] for event in events.read()] == ["login"] * 3
    assert Caller(guarded, (MALLORY, 1)).get().status == 200


def test_a_jail_in_the_app_bans_the_whole_64(app: FastAPI) -> None:
    """Failures and ban are those of the IPv6 /64."""
    guarded = AppGuard(app, store="memory://", event_log="logger", jails=[Jail("login", maxretry=3)])
    for number in range(1, 4):
        assert Caller(guarded, (f"2001:db8::{number}", 1)).get("/login").status == 200
    assert Caller(guarded, ("2001:db8::ffff", 1)).get().status == 403
    assert Caller(guarded, ("2001:db8:0:1::1", 1)).get().status == 200


def test_a_jail_in_the_app_may_be_a_dry_run(app: FastAPI, events: EventFile, caplog: pytest.LogCaptureFixture) -> None:
    """It says whom it would ban, bans nobody, and leaves the events to be counted by the daemon."""
    jail = Jail("login", maxretry=2, dry_run=True)
    guarded = AppGuard(app, store="memory://", event_log=str(events), jails=[jail])
    assert Caller(guarded).statuses(3, path="/login") == [200] * 3
    assert [event.get("jail") for event in events.read()] == [None] * 3
    assert f"[login] Ban {ALICE} (dry run)" in caplog.messages


def test_a_jail_in_the_app_caps_its_bans(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """Above its bans a minute it bans shortly, and says so once."""
    jail = Jail("login", maxretry=1, bantime=-1, bans_per_minute=1)
    guarded = AppGuard(app, store="memory://", event_log="logger", jails=[jail])
    for number in (1, 2, 3):
        assert Caller(guarded, (f"203.0.113.{number}", 1)).statuses(2, path="/login") == [200, 403]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error[:37] for error in errors] == ["[login] more than 1 bans a minute (ba"]


def test_a_jail_in_the_app_forgets_bans_that_have_ended() -> None:
    """The bans of an app without a daemon do not pile up: with each new one those that ended are dropped."""
    settings = {"store": "memory://", "event_log": "logger", "jails": [Jail("login", maxretry=1, bantime=0.2)]}
    middleware = Middleware(app_config(settings, {}))
    alice, mallory = (parse_address(text) for text in (ALICE, MALLORY))
    for address in (alice, mallory):
        middleware.events.record(
            Exchange(Client(address, address.text), "POST", "/login", 401), [Note("authn_login_fail")]
        )
        wait_until(lambda: not middleware.store.snapshot().bans, 5, "the ban does not end")
    assert isinstance(middleware.store, MemoryStore)
    assert [ban.key for ban in middleware.store.expire()] == [MALLORY]


def test_a_repeated_credential_is_not_counted_by_a_jail(app: FastAPI, events: EventFile) -> None:
    """A client that repeats one wrong password is not banned for it."""
    guarded = AppGuard(app, store="memory://", event_log=str(events), jails=[Jail("login", maxretry=2)])
    same = Caller(guarded).statuses(5, path="/login", headers={"x-password": "old"})
    assert same == [200] * 5
    assert Caller(guarded).statuses(2, path="/login", headers={"x-password": "new"}) == [200, 403]


def test_a_jail_in_the_app_never_bans_the_safelist(app: FastAPI, events: EventFile) -> None:
    """Failures of a safelisted address are written and lead to nothing."""
    guarded = AppGuard(
        app, store="memory://", event_log=str(events), jails=[Jail("login", maxretry=2)], safelist=[f"{ALICE}/24"]
    )
    assert Caller(guarded).statuses(4, path="/login") == [200] * 4
    assert [event.get("jail") for event in events.read()] == [None] * 4


def test_a_jail_in_the_app_may_count_refusals(app: FastAPI, events: EventFile) -> None:
    """A jail that names the refusals of a limit bans who goes on."""
    jail = Jail("flood", maxretry=1, events=[REFUSALS])
    guarded = AppGuard(app, store="memory://", event_log=str(events), limits=["2/hour"], jails=[jail])
    assert Caller(guarded).statuses(4) == [200, 200, 429, 403]
    assert [(event["event"], event["jail"]) for event in events.read()] == [(REFUSALS, "flood")]
