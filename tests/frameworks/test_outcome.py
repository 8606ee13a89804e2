"""What an answer means: which requests become events, how often, with which count, and what is never written."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from wsgiref.util import setup_testing_defaults

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.security import HTTPBasic, HTTPBasicCredentials, HTTPBearer
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from starlette.responses import StreamingResponse

from appguard import AppGuard, Limit, report_auth_failure, report_auth_success
from appguard.asgi import Message
from appguard.event import LINE_MOST
from appguard.filters.event_log import EventLogFilter
from appguard.flask import AppGuard as FlaskAppGuard
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import ALICE, MALLORY, Caller, EventFile, Headers
from tests.frameworks.sites import of_wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PASSWORD = "s3cr3t-Pa55"
FAIL = ["authn_login_fail"]


def basic(user: str, password: str = PASSWORD) -> dict[str, str]:
    """Give the header of HTTP Basic."""
    return {"authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


async def before(request: Request, response: Response) -> None:
    """Report, then answer."""
    report_auth_failure(request, user="alice")
    response.status_code = 401


def in_a_thread(request: Request) -> None:
    """Report from the thread in which FastAPI runs a plain function."""
    report_auth_failure(request, user="alice")


async def by_scope(request: Request) -> None:
    """Report on the ASGI scope."""
    report_auth_failure(request.scope, user="alice")


async def during(request: Request) -> StreamingResponse:
    """Report while the body is being sent."""

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        report_auth_failure(request, user="alice")
        yield b"two"

    return StreamingResponse(body())


async def after(request: Request, tasks: BackgroundTasks) -> None:
    """Report when the answer is out."""
    tasks.add_task(report_auth_failure, request, user="alice")


async def then_refuses(request: Request) -> None:
    """Report, then raise what FastAPI answers."""
    report_auth_failure(request, user="alice")
    raise HTTPException(401)


async def then_fails(request: Request) -> None:
    """Report, then fail."""
    report_auth_failure(request, user="alice")
    raise LookupError("the app's own")


async def twice(request: Request) -> None:
    """Report two failures and raise a 401 besides."""
    report_auth_failure(request, user="alice")
    report_auth_failure(request, user="bob")
    raise HTTPException(401)


async def succeeds(request: Request) -> None:
    """Report a success."""
    report_auth_success(request, user="alice")


async def fails_at_last(request: Request) -> None:
    """Report a success and a failure: the second factor was wrong."""
    report_auth_success(request, user="alice")
    report_auth_failure(request, user="alice")


async def refused() -> None:
    """Answer 401, whoever asks."""
    raise HTTPException(401)


async def forbidden() -> None:
    """Answer 403."""
    raise HTTPException(403)


async def with_basic(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """Know one user."""
    if (credentials.username, credentials.password) != ("alice", "right"):
        raise HTTPException(401)
    return "in"


async def repeated(request: Request) -> None:
    """Report with the credential that was tried."""
    report_auth_failure(request, user="alice", credential=request.headers["x-password"])


async def named(request: Request) -> None:
    """Report the user name of a header."""
    report_auth_failure(request, user=request.headers["x-user"])


async def live(socket: WebSocket) -> None:
    """Accept, report, and stay open until the client leaves."""
    await socket.accept()
    report_auth_failure(socket, user="alice")
    await socket.send_text("wrong")
    await socket.receive()


async def denied(socket: WebSocket) -> None:
    """Deny a handshake."""
    await socket.send_denial_response(Response(status_code=403))


ENDPOINTS = (before, in_a_thread, by_scope, during, after, then_refuses, then_fails, twice, succeeds, fails_at_last)
MORE_ENDPOINTS = (forbidden, with_basic, repeated, named)


@pytest.fixture
def events(tmp_path: Path) -> EventFile:
    """Give the event log."""
    return EventFile(tmp_path / "events.jsonl")


@pytest.fixture
def app(events: EventFile) -> FastAPI:
    """Give an app with one path for each way to fail."""
    made = FastAPI()
    for endpoint in (*ENDPOINTS, *MORE_ENDPOINTS):
        made.add_api_route(f"/{endpoint.__name__}", endpoint)
    made.add_api_route("/bearer", refused, dependencies=[Depends(HTTPBearer())])
    for path in ("/login", "/api/v1/token", "/signin", "/sessions", "/oauth/login/start"):
        made.add_api_route(path, refused, methods=["GET", "POST"])
    made.add_api_route("/files/{path:path}", refused)
    made.add_api_websocket_route("/live", live)
    made.add_api_websocket_route("/denied", denied)
    made.add_middleware(AppGuard, name="shop", event_log=str(events))
    return made


def test_an_event_says_who_did_what(app: FastAPI, events: EventFile) -> None:
    """A reported failure is one line with the keys of the design, the first three in their fixed order."""
    Caller(app).get("/before", {"user-agent": "curl/8", "x-request-id": "r-17"})
    (event,) = events.read()
    assert list(event)[:3] == ["time", "event", "source_ip"]
    assert {key: value for key, value in event.items() if key != "time"} == {
        "event": "authn_login_fail",
        "source_ip": ALICE,
        "count": 1,
        "app": "shop",
        "user": "alice",
        "method": "GET",
        "path": "/before",
        "status": 401,
        "request_id": "r-17",
        "user_agent": "curl/8",
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/before", 401),
        ("/in_a_thread", 200),
        ("/by_scope", 200),
        ("/during", 200),
        ("/after", 200),
        ("/then_refuses", 401),
        ("/twice", 401),
        ("/fails_at_last", 200),
    ],
)
def test_a_report_is_one_event_whenever_it_is_made(app: FastAPI, events: EventFile, path: str, status: int) -> None:
    """Before, during or after the answer, on the request or its scope, once or twice: one failure with its status."""
    Caller(app).get(path)
    assert [(event["event"], event["user"], event["status"]) for event in events.read()] == [
        ("authn_login_fail", "alice", status)
    ]


def test_a_report_survives_the_endpoint(app: FastAPI, events: EventFile) -> None:
    """When the endpoint fails after its report, the event is written and the exception comes out."""
    with pytest.raises(LookupError):
        Caller(app).get("/then_fails")
    assert events.kinds() == FAIL


def test_a_success_is_an_event(app: FastAPI, events: EventFile) -> None:
    """A reported success is written, so that a person can see who came in after the failures."""
    Caller(app).get("/succeeds")
    assert [(event["event"], event["user"]) for event in events.read()] == [("authn_login_success", "alice")]


def test_a_report_and_a_wrong_password_are_one_failure(app: FastAPI, events: EventFile) -> None:
    """A 401 to Basic that was reported too is one event, the reported one."""
    Caller(app).get("/then_refuses", basic("bob"))
    assert [event["user"] for event in events.read()] == ["alice"]


def test_a_wrong_basic_password_is_a_failure(app: FastAPI, events: EventFile) -> None:
    """Without a line of code a 401 to Basic names the user who was tried."""
    assert Caller(app).get("/with_basic", basic("bob")).status == 401
    assert [(event["event"], event["user"]) for event in events.read()] == [("authn_login_fail", "bob")]


@pytest.mark.parametrize("scheme", ["basic ", "BASIC ", "Basic  ", "Basic\t"])
def test_a_strange_spelling_of_basic_hides_nothing(app: FastAPI, events: EventFile, scheme: str) -> None:
    """Case, doubled spaces and tabs in the header are understood as the most lenient app understands them."""
    credential = basic("bob")["authorization"].removeprefix("Basic ")
    Caller(app).get("/files/x", {"authorization": scheme + credential})
    assert [(event["event"], event["user"]) for event in events.read()] == [("authn_login_fail", "bob")]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/with_basic", {}),  # the challenge a browser gets before it asks for a password
        ("/with_basic", basic("alice", "right")),
        ("/login", {}),  # a GET
        ("/files/login", {"authorization": "Digest username=alice"}),
        ("/no/such/page", basic("alice")),
    ],
)
def test_what_is_no_failure(app: FastAPI, events: EventFile, path: str, headers: Headers) -> None:
    """A first challenge, a right password, a 401 to a GET without credentials and a 404 are no events."""
    Caller(app).get(path, headers)
    assert events.read() == []


@pytest.mark.parametrize("path", ["/login", "/api/v1/token", "/signin", "//login", "/login/"])
def test_a_401_to_a_login_form_is_a_failure(app: FastAPI, events: EventFile, path: str) -> None:
    """A POST on a path that ends in login, signin or token needs no report; slashes do not hide it."""
    Caller(AppGuard(refuse_all(), event_log=str(events))).post(path)
    Caller(app).post("/sessions")
    Caller(app).post("/oauth/login/start")
    assert events.kinds() == FAIL


def refuse_all() -> FastAPI:
    """Give an app that answers 401 to every POST."""
    made = FastAPI()
    made.add_api_route("/{path:path}", refused, methods=["POST"])
    return made


def test_login_paths_are_the_users_own(events: EventFile) -> None:
    """`login_paths` replaces the default: a word is a last segment, a path is a whole path."""
    caller = Caller(AppGuard(refuse_all(), event_log=str(events), login_paths=["sessions", "/enter/here"]))
    for path in ("/api/sessions", "/enter/here", "/login", "/x/enter/here"):
        caller.post(path)
    assert [event["path"] for event in events.read()] == ["/api/sessions", "/enter/here"]


def test_a_refused_token_and_a_403_have_their_own_names(app: FastAPI, events: EventFile) -> None:
    """A bearer 401 and a 403 are written as what they are, and are no login failures."""
    Caller(app).get("/bearer", {"authorization": "Bearer stolen"})
    Caller(app).get("/forbidden")
    Caller(app).handshake("/denied", can_deny=True)
    assert events.kinds() == ["authn_token_fail", "authz_fail", "authz_fail"]


def test_the_same_wrong_credential_counts_once(app: FastAPI, events: EventFile) -> None:
    """A mail client that repeats an old password is one failure; another password, user or client is another one."""
    for peer, header in [
        (ALICE, basic("bob")),
        (ALICE, basic("bob")),
        (ALICE, basic("bob", "other")),
        (ALICE, basic("carol")),
        (MALLORY, basic("bob")),
        (MALLORY, basic("bob")),
    ]:
        Caller(app, (peer, 1)).get("/with_basic", header)
    assert [event["count"] for event in events.read()] == [1, 0, 1, 1, 1, 0]


def test_a_reported_credential_counts_once(app: FastAPI, events: EventFile) -> None:
    """`credential=` gives a form the same: a repetition is written with count 0."""
    for password in ("one", "one", "two", "one"):
        Caller(app).get("/repeated", {"x-password": password})
    assert [event["count"] for event in events.read()] == [1, 0, 1, 0]


@pytest.mark.parametrize("header", [basic("x"), {"authorization": "Bearer x"}, {}])
def test_a_header_that_stays_the_same_hides_no_guess_in_a_form(
    app: FastAPI, events: EventFile, header: dict[str, str]
) -> None:
    """Passwords guessed in the body of a login form count each, whatever Authorization is sent along."""
    caller = Caller(app)
    for _ in range(3):
        caller.post("/login", header)
    assert [(event["event"], event["count"]) for event in events.read()] == [("authn_login_fail", 1)] * 3


def test_a_password_is_never_written(
    app: FastAPI, events: EventFile, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """No byte of a password or credential is in an event, a log record, or on the terminal."""
    caplog.set_level(logging.DEBUG)
    header = basic("bob")
    Caller(app).get("/with_basic", header)
    Caller(app).get("/forbidden", header)
    Caller(app).post("/login", header)
    Caller(app).get("/bearer", {"authorization": f"Bearer {PASSWORD}"})
    Caller(app).get("/repeated", {"x-password": PASSWORD})
    Caller(app).get("/with_basic", {"authorization": f"Basic {PASSWORD}"})
    assert len(events.read()) == 6
    captured = capfd.readouterr()
    everything = events.path.read_text() + caplog.text + captured.out + captured.err
    assert PASSWORD not in everything
    assert header["authorization"].removeprefix("Basic ") not in everything


FORGED = 'x"}\n{"time":"2026-01-01T00:00:00Z","event":"authn_login_fail","source_ip":"192.0.2.1","count":1}\n'


@pytest.mark.parametrize(
    "user", [FORGED, "a\rb\0c\x1b[31m", "'\"\\", "élise", "\u2028\u2029", "\U0001d552" * 300, "\ud800"]
)
def test_a_user_name_cannot_leave_its_string(app: FastAPI, events: EventFile, user: str) -> None:
    """Whatever the name, it is one line, of the real client, which the daemon reads as one event."""

    @app.get("/any")
    async def any_name(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
        report_auth_failure(request, user=user)

    Caller(app).get("/any")
    (line,) = events.path.read_bytes().splitlines()
    found = EventLogFilter().match(line, 0.0)
    assert found is not None
    assert (found.address.text, found.user) == (ALICE, user[:256].encode(errors="replace").decode())


@pytest.mark.parametrize(
    ("raw", "user"),
    [
        (b"caf\xe9:x", "caf\ufffd"),
        (b"\xff\xfe:", "\ufffd\ufffd"),
        (b"a token without a colon", None),
        (b":x", None),
        (b'"}\n{"event":"x"\n:x', '"}\n{"event"'),
    ],
)
def test_basic_credentials_of_any_bytes(app: FastAPI, events: EventFile, raw: bytes, user: str | None) -> None:
    """Undecodable bytes are replaced, and what is no user name at all is still a failure."""
    Caller(app).get("/files/x", {"authorization": b"Basic " + b64encode(raw)})
    (event,) = events.read()
    assert (event["event"], event.get("user")) == ("authn_login_fail", user)


@pytest.mark.parametrize("credential", ["%%%", "YQ", "é", "=", ""])
def test_credentials_that_are_no_base64(app: FastAPI, events: EventFile, credential: str) -> None:
    """A header that cannot be read is a failure without a user."""
    Caller(app).get("/files/x", {"authorization": f"Basic {credential}".encode()})
    (event,) = events.read()
    assert (event["event"], event.get("user")) == ("authn_login_fail", None)


def test_a_megabyte_is_cut(app: FastAPI, events: EventFile) -> None:
    """User names, paths and headers of a megabyte are cut to what a reader accepts."""
    big = "a" * 1_000_000
    caller = Caller(app)
    caller.get("/named", {"x-user": big, "user-agent": big, "x-request-id": big})
    caller.get(f"/files/{big}", basic(big))
    for event in events.read():
        assert event["user"] == "a" * 256
    assert all(len(line) < LINE_MOST for line in events.path.read_bytes().splitlines())


def test_escapes_do_not_make_a_line_too_long_to_be_read(app: FastAPI, events: EventFile) -> None:
    """Characters of twelve bytes each, in every field a stranger fills, hide no failure from the daemon."""
    wide = "\U0001f600" * 2000
    headers = {"user-agent": b"\xff" * 2000, "x-request-id": b"\xff" * 2000} | basic(wide)
    Caller(app).get(f"/files/{wide}", headers)
    (line,) = events.path.read_bytes().splitlines()
    assert len(line) <= LINE_MOST
    found = EventLogFilter().match(line, 0.0)
    assert found is not None
    assert (found.address.text, found.count) == (ALICE, 1)


@pytest.mark.parametrize(("user", "written"), [(None, None), (17, "17"), (b"caf\xe9", "caf\ufffd"), (["a"], "['a']")])
def test_a_name_that_is_no_text_fails_no_request(
    app: FastAPI, events: EventFile, user: object, written: str | None
) -> None:
    """What an unchecked JSON body held is written as text."""

    @app.get("/any")
    async def any_name(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
        report_auth_failure(request, user=user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert Caller(app).get("/any").status == 200
    assert [event.get("user") for event in events.read()] == [written]


def test_a_report_in_a_websocket_does_not_wait_for_its_end(app: FastAPI, events: EventFile) -> None:
    """The failure is written with the next message, while the connection is still open."""
    written: list[object] = []

    async def connection() -> None:
        received: asyncio.Queue[Message] = asyncio.Queue()
        received.put_nowait({"type": "websocket.connect"})

        async def send(message: Message) -> None:
            written.append((message["type"], events.kinds()))
            if message["type"] == "websocket.send":
                received.put_nowait({"type": "websocket.disconnect", "code": 1000})

        await app({**Caller(app).http(path="/live"), "type": "websocket"}, received.get, send)

    asyncio.run(connection())
    assert written == [("websocket.accept", []), ("websocket.send", FAIL)]


def test_a_report_without_appguard_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An app whose middleware was taken out goes on, and says that its reports are lost."""
    app = FastAPI()
    app.add_api_route("/before", before)
    assert Caller(app).get("/before").status == 401
    assert [record.getMessage() for record in caplog.records] == [
        "authn_login_fail reported, but no AppGuard middleware is in front of this request"
    ]


def test_a_report_when_an_answer_is_closed_tells_the_whole_request(events: EventFile) -> None:
    """Flask's `call_on_close` runs when the body was read: the event has the method and the user agent all the same."""
    site = Flask("shop")

    def sign_in() -> FlaskResponse:
        environ, response = flask_request.environ, FlaskResponse("no")
        response.call_on_close(lambda: report_auth_failure(environ, user="alice"))
        return response

    site.add_url_rule("/sign-in", view_func=sign_in, methods=["POST"])
    FlaskAppGuard(site, event_log=str(events.path))
    ask = of_wsgi(site)
    assert ask("POST", "/sign-in", {"user-agent": "curl/8"}).status == 200
    (event,) = events.read()
    assert (event["method"], event["user_agent"], event["status"]) == ("POST", "curl/8", 200)


def begin(_status: str, _headers: object, _error: object = None) -> Callable[[bytes], object]:
    """Begin an answer of which nobody asks."""
    return lambda _data: None


def asked_of(app: "WSGIApplication", events: EventFile) -> Iterable[bytes]:
    """Ask a guarded WSGI app; give the body."""
    environ: WSGIEnvironment = {"REMOTE_ADDR": MALLORY, "REQUEST_METHOD": "POST", "HTTP_USER_AGENT": "curl/8"}
    setup_testing_defaults(environ)
    return WsgiAppGuard(app, event_log=str(events.path), name="shop")(environ, begin)


def test_a_report_while_a_body_is_read_is_told_though_nobody_closes_it(events: EventFile) -> None:
    """An app that reports after its answer has begun is heard at once: middlewares are about that forget to close."""

    def stream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
        start_response("200 OK", [])

        def parts() -> Iterator[bytes]:
            yield b"who?"
            report_auth_failure(environ, user="alice")
            report_auth_failure(environ, user="alice")  # the same request: told once
            yield b"no"

        return parts()

    body = iter(asked_of(stream, events))
    assert (next(body), events.kinds()) == (b"who?", [])
    assert (next(body), events.kinds()) == (b"no", FAIL)
    (event,) = events.read()
    assert (event["method"], event["user_agent"], event["status"]) == ("POST", "curl/8", 200)


def test_a_failure_after_a_success_is_told_whatever_has_begun(events: EventFile) -> None:
    """Of a right password and a wrong second factor it is the second that counts, also while a body is read."""

    def stream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
        start_response("200 OK", [])
        report_auth_success(environ, user="alice")
        for _ in range(2):
            report_auth_failure(environ, user="alice")
            report_auth_success(environ, user="alice")
        yield b"no"

    assert [*asked_of(stream, events)] == [b"no"]
    assert events.kinds() == ["authn_login_success", *FAIL]


def test_a_status_without_a_number_is_the_apps_own(events: EventFile) -> None:
    """What is no status, like werkzeug's line for an answer of status 0, is handed on, and fails nobody's request."""
    statuses: list[str] = []

    def unknown(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
        report_auth_failure(environ, user="alice")
        start_response("0 UNKNOWN", [])
        yield b"?"
        report_auth_failure(environ, user="bob")

    def note(status: str, _headers: object, _error: object = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _data: None

    app = WsgiAppGuard(unknown, event_log=str(events.path), limits=[Limit("1/hour", count="auth_failure", path="/")])
    for _ in range(2):
        environ: WSGIEnvironment = {"REMOTE_ADDR": MALLORY, "REQUEST_METHOD": "POST"}
        setup_testing_defaults(environ)
        list(app(environ, note))
    assert [status[:4] for status in statuses] == ["0 UN", "429 "]
    assert events.kinds()[:1] == FAIL and "status" not in events.read()[0]


@pytest.mark.parametrize("ending", ["raises", "raises while read", "ends", "is left"])
def test_a_report_without_an_answer_is_told(events: EventFile, ending: str) -> None:
    """An app that reports and then fails, answers nothing, or whose client leaves before it answers, was heard."""

    def report(environ: "WSGIEnvironment", _start_response: "StartResponse") -> Iterator[bytes]:
        report_auth_failure(environ, user="alice")
        yield b""
        if ending == "raises while read":
            raise RuntimeError("the app's own")

    def fail(environ: "WSGIEnvironment", _start_response: "StartResponse") -> Iterator[bytes]:
        report_auth_failure(environ, user="alice")
        raise RuntimeError("the app's own")

    if ending == "raises":
        with pytest.raises(RuntimeError):
            asked_of(fail, events)
    else:
        body: Any = asked_of(report, events)
        if ending == "is left":
            assert next(iter(body)) == b""
            body.close()
        elif ending == "ends":
            assert [*body] == [b""]
        else:
            with pytest.raises(RuntimeError), closing(body):
                list(body)
    assert events.kinds() == FAIL
