"""Limits stand before routing: what is counted, what is not, and under whose key."""

from collections.abc import Callable
from typing import Unpack

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.middleware.cors import CORSMiddleware

from appguard import AppGuard, Limit
from appguard.config import AppOptions
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller, Reply
from tests.frameworks.sites import WRONG, Site, django_rest_site, django_site, flask_site, starlette_site

TWO_OF_FOUR = [200, 200, 429, 429]
PREFLIGHT = {"origin": "https://shop.example", "access-control-request-method": "POST"}

books = APIRouter(prefix="/books")


@books.get("/{number}")
async def book(number: int) -> int:
    """Answer a path with a parameter, from an included router."""
    return number


async def page() -> str:
    """Answer a page."""
    return "page"


async def live(socket: WebSocket) -> None:
    """Accept a websocket and close it."""
    await socket.accept()
    await socket.close()


def shop(**options: Unpack[AppOptions]) -> FastAPI:
    """Give an app with pages, an included router, a mounted app and a websocket, all behind AppGuard."""
    app = FastAPI()
    for path in ("/", "/login", "/healthz"):
        app.add_api_route(path, page, methods=["GET", "POST"])
    app.add_api_websocket_route("/live", live)
    app.include_router(books)
    mounted = FastAPI()
    mounted.add_api_route("/page", page)
    app.mount("/sub", mounted)
    app.add_middleware(AppGuard, **options)
    return app


@pytest.mark.parametrize(
    ("method", "path", "usual"),
    [
        ("GET", "/", 200),
        ("GET", "/books/1", 200),
        ("GET", "/sub/page", 200),
        ("GET", "/no/such/page", 404),
        ("GET", "/sub/nothing", 404),
        ("DELETE", "/login", 405),
        ("OPTIONS", "/login", 405),
    ],
)
def test_everything_is_counted(method: str, path: str, usual: int) -> None:
    """Pages, included routers, mounted apps, 404s, 405s and plain OPTIONS are all limited."""
    caller = Caller(shop(limits=["2/hour"]))
    assert caller.statuses(4, method, path) == [usual, usual, 429, 429]


@pytest.mark.parametrize("site", [flask_site, django_site])
def test_spellings_of_a_method_are_one(site: Callable[..., Site]) -> None:
    """Frameworks take `post` for POST, so it does not walk around a limit of POST."""
    ask = site(limits=[Limit("2/hour", path="/login", methods=["POST"])], store="memory://")
    assert [ask(method, "/login").status for method in ("post", "Post", "POST", "pOST")] == [401, 401, 429, 429]


def test_a_rotated_path_parameter_is_one_bucket() -> None:
    """Asking for another book each time does not walk around the limit."""
    caller = Caller(shop(limits=["2/hour"]))
    assert [caller.get(f"/books/{number}").status for number in range(4)] == TWO_OF_FOUR


@pytest.mark.parametrize("path", ["/login", "//login", "/login/", "///login//", "/login\n"])
def test_spellings_of_a_path_are_one(path: str) -> None:
    """Doubled and trailing slashes do not walk around a limit by path, nor a newline (`%0A`) that routers pass over."""
    caller = Caller(shop(limits=[Limit("2/hour", path="/login")]))
    caller.statuses(2, path=path)
    assert caller.get("/login").status == 429
    assert caller.get(path).status == 429


def test_a_limit_by_path_and_method_leaves_the_rest_alone() -> None:
    """Only POSTs to the path are counted and refused, whatever the case the method is written in."""
    caller = Caller(shop(limits=[Limit("2/hour", path="/login", methods=["post"])]))
    assert caller.statuses(4, "POST", "/login") == TWO_OF_FOUR
    assert caller.statuses(4, "GET", "/login") == [200] * 4
    assert caller.statuses(4, "POST", "/") == [200] * 4


def test_a_path_pattern_counts_all_it_matches_together() -> None:
    """`{number}` is one segment and one bucket; a longer path is another one."""
    caller = Caller(shop(limits=[Limit("2/hour", path="/books/{number}")]))
    assert [caller.get(f"/books/{number}").status for number in range(4)] == TWO_OF_FOUR
    assert caller.get("/books/1/pages").status == 404


@pytest.mark.parametrize("path", ["/api/login", "/login"])
def test_the_root_path_is_no_part_of_the_path(path: str) -> None:
    """Behind a proxy that keeps or strips the prefix, a limit names the path as the app does."""
    caller = Caller(shop(limits=[Limit("2/hour", path="/login")]), scope={"root_path": "/api"})
    assert caller.statuses(4, path=path) == TWO_OF_FOUR


def test_a_longer_word_is_not_the_root_path() -> None:
    """`/apilogin` stays what it is below `/api`, for the app and for a limit."""
    caller = Caller(shop(limits=[Limit("2/hour", path="/apilogin")]), scope={"root_path": "/api"})
    assert caller.statuses(4, path="/apilogin") == [404, 404, 429, 429]


def test_exempt_paths_are_not_counted() -> None:
    """A health check is answered at any rate and uses up nothing."""
    caller = Caller(shop(limits=["2/hour"], exempt_paths=["/healthz"]))
    assert caller.statuses(5, path="/healthz") == [200] * 5
    assert caller.statuses(4) == TWO_OF_FOUR
    assert caller.get("/healthz").status == 200


def test_a_preflight_is_not_counted() -> None:
    """CORS preflights are answered by the app's own CORSMiddleware however many there are, and use up nothing."""
    app = FastAPI()
    app.add_api_route("/", page, methods=["POST"])
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["POST"])
    caller = Caller(AppGuard(app, limits=["2/hour"]))
    assert caller.statuses(5, "OPTIONS", headers=PREFLIGHT) == [200] * 5
    assert caller.statuses(1, "POST") == [200]
    assert caller.statuses(5, "OPTIONS", headers=PREFLIGHT) == [200] * 5  # also of a client that is known by now
    assert caller.statuses(3, "POST") == [200, 429, 429]


@pytest.mark.parametrize("site", [starlette_site, django_rest_site])
@pytest.mark.parametrize("credentials", [{"Authorization": WRONG}, {"Cookie": "session=guessed"}])
def test_what_carries_credentials_is_no_preflight(site: Callable[..., Site], credentials: dict[str, str]) -> None:
    """No browser sends them in a preflight, and REST framework checks them: a guess is not let past the limits so."""
    ask = site(limits=[Limit("2/hour", path="/basic")], store="memory://")
    answers = [ask("OPTIONS", "/basic", {**PREFLIGHT, **credentials}).status for _ in range(4)]
    assert 429 not in answers[:2]
    assert answers[2:] == [429, 429]


@pytest.mark.parametrize("site", [starlette_site, django_site, django_rest_site])
@pytest.mark.parametrize("is_dry", [False, True])
def test_what_becomes_of_a_preflight_counts(
    site: Callable[..., Site], is_dry: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A guess in a header that nobody can tell for a credential fills the limit of refused ones; a page needs none."""
    ask = site(limits=["1/hour", Limit("2/hour", count=[401, 405], dry_run=is_dry)], store="memory://")
    guess = {**PREFLIGHT, "X-Auth-Token": "guessed"}
    answers = [ask("OPTIONS", "/basic", guess).status for _ in range(4)]
    assert 429 not in answers[:2]
    assert answers[2:] == ([answers[0]] * 2 if is_dry else [429, 429])
    assert ("in dry run, would refuse" in caplog.text) is is_dry


def test_a_refused_answer_inside_cors_can_be_read_by_the_page() -> None:
    """With AppGuard inside CORSMiddleware, as the documentation says, a 429 carries the CORS headers."""
    app = shop(limits=["1/hour"])
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    caller = Caller(app)
    caller.get("/", {"origin": "https://shop.example"})
    refused = caller.get("/", {"origin": "https://shop.example"})
    assert refused.status == 429
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


def accepted(reply: Reply) -> bool:
    """Say whether a websocket was accepted."""
    return bool(reply.messages[0]["type"] == "websocket.accept")


def test_a_websocket_handshake_is_counted_and_refused_before_it_is_accepted() -> None:
    """The third handshake gets one close and nothing else."""
    caller = Caller(shop(limits=["2/hour"]))
    assert [accepted(caller.handshake("/live")) for _ in range(3)] == [True, True, False]
    assert caller.handshake("/live").messages == ({"type": "websocket.close", "code": 1008},)


def test_a_refused_handshake_is_answered_with_429_where_the_server_can() -> None:
    """With the denial-response extension the refusal is a whole HTTP answer."""
    caller = Caller(shop(limits=["1/hour"]))
    assert accepted(caller.handshake("/live", can_deny=True))
    refused = caller.handshake("/live", can_deny=True)
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) > 3000
    assert [message["type"] for message in refused.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]


def test_requests_and_handshakes_share_a_limit() -> None:
    """A websocket is a request like any other."""
    caller = Caller(shop(limits=["2/hour"]))
    assert accepted(caller.handshake("/live"))
    assert caller.statuses(2) == [200, 429]


def test_two_clients_never_share_a_bucket() -> None:
    """One client's refusal is no other's: IPv4 neighbours and other IPv6 /64s are served."""
    app = shop(limits=["1/hour"])
    assert Caller(app, (MALLORY, 1)).statuses(2) == [200, 429]
    for other in (ALICE, "198.51.100.8", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        assert Caller(app, (other, 1)).statuses(2) == [200, 429]


def test_rotating_inside_a_64_walks_through_no_limit() -> None:
    """All addresses of an IPv6 /64 are one client."""
    app = shop(limits=["2/hour"])
    assert [Caller(app, (f"2001:db8::{number:x}", 1)).get().status for number in range(1, 5)] == TWO_OF_FOUR


def test_an_ipv4_client_is_the_same_over_either_socket() -> None:
    """The IPv4-mapped spelling that a dual-stack socket gives is the IPv4 client."""
    app = shop(limits=["1/hour"])
    assert Caller(app, (ALICE, 1)).get().status == 200
    assert Caller(app, (f"::ffff:{ALICE}", 1)).get().status == 429


def test_the_safelist_is_never_limited() -> None:
    """A safelisted network passes where another client is refused."""
    app = shop(limits=["1/hour"], safelist=["192.0.2.0/24"])
    assert Caller(app, ("192.0.2.9", 1)).statuses(4) == [200] * 4
    assert Caller(app).statuses(2) == [200, 429]


def test_the_safelist_holds_beside_a_neighbour_of_one_bucket() -> None:
    """Of one /64 the safelisted address passes, while its neighbours, which were met first, share a limit."""
    app = shop(limits=["3/hour"], safelist=["2001:db8::1"])
    safe, other = Caller(app, ("2001:db8::1", 1)), Caller(app, ("2001:db8::2", 1))
    assert other.statuses(1) == [200]
    assert safe.statuses(4) == [200] * 4
    assert other.statuses(3) == [200, 200, 429]
    assert safe.get().status == 200


def test_all_limits_count_or_none() -> None:
    """A request refused by one limit is not counted by another."""
    app = shop(limits=["3/hour", Limit("1/hour", path="/login")])
    assert Caller(app).statuses(5, path="/login") == [200, 429, 429, 429, 429]
    assert Caller(app).statuses(3) == [200, 200, 429]
