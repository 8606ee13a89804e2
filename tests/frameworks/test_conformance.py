"""AppGuard keeps to PEP 3333 and to ASGI on both sides, whatever it does with a request."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from appguard import AppGuard, Limit, report_auth_failure, report_auth_success
from appguard.asgi import ASGIApp, Message, Receive, Scope, Send
from appguard.config import AppOptions
from appguard.starlette import RouteLimit
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import Caller

ALICE_LOCKED = Limit("1/hour", key="user", count="auth_failure")
OPTIONS: AppOptions = {
    "store": "memory://",
    "event_log": "logger",
    "limits": [Limit("2/minute", path="/few"), ALICE_LOCKED],
    "traps": ["/.env"],
    "headers": "both",
}

# What an app may send, by the type of its scope: from each state, the messages that may come and the state after them.
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "http.response.start": {"status": int, "headers": (list, tuple)},
    "http.response.body": {"body": bytes},
    "websocket.accept": {},
    "websocket.send": {},
    "websocket.close": {},
    "websocket.http.response.start": {"status": int, "headers": (list, tuple)},
    "websocket.http.response.body": {"body": bytes},
}
NEXT = {
    "http": {"http.response.start": "begun"},
    "begun": {"http.response.body": "begun"},
    "websocket": {
        "websocket.accept": "open",
        "websocket.close": "ended",
        "websocket.http.response.start": "denied",
    },
    "open": {"websocket.send": "open", "websocket.close": "ended"},
    "denied": {"websocket.http.response.body": "denied"},
}


def check_headers(headers: Iterable[tuple[object, object]]) -> None:
    """Check that names are lower case and all are bytes without line ends."""
    for name, value in headers:
        assert isinstance(name, bytes) and isinstance(value, bytes)
        assert name == name.lower() and not set(b"\r\n\0") & set(name + value)


def conforming(app: ASGIApp, ended: list[str]) -> ASGIApp:
    """Put a checker around an app, which fails at what the specification forbids; note how each request ends."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        state: str = scope["type"]
        check_headers(scope["headers"])

        async def checked_receive() -> Message:
            message = await receive()
            assert message["type"].startswith(scope["type"])
            return message

        async def checked_send(message: Message) -> None:
            nonlocal state
            kind = message["type"]
            assert kind in NEXT.get(state, {}), f"{kind} after {state}"
            for field, wanted in FIELDS[kind].items():
                if field in message or field != "body":
                    assert isinstance(message[field], wanted)
            check_headers(message.get("headers", ()))
            state = NEXT[state][kind]
            if kind.endswith("response.body") and not message.get("more_body"):
                state = "ended"
            await send(message)

        await app(scope, checked_receive, checked_send)
        ended.append(state)

    return checked


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the path: a page, a stream, a login, a websocket."""
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["path"] == "/login":
        known = dict(scope["headers"]).get(b"x-password") == b"wonderland"
        (report_auth_success if known else report_auth_failure)(scope, "alice")
    status = 401 if scope["path"] == "/login" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    for part in (b"one", b"two"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def routed(scope: Scope, receive: Receive, send: Send) -> None:
    """Put a limit before the shop where the path says so."""
    await (LIMITED if scope["path"] == "/routed" else shop)(scope, receive, send)


WHERE = {"SCRIPT_NAME": "", "QUERY_STRING": "", "REMOTE_ADDR": "203.0.113.5"}
LIMITED = RouteLimit(shop, "1/minute")
ASKED = [("GET", "/"), ("HEAD", "/"), ("GET", "/few"), ("POST", "/login"), ("GET", "/.env"), ("GET", "/routed")]


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_asgi(method: str, path: str) -> None:
    """Passed, streamed, refused in front, at a route or after the outcome, trapped: each is one whole answer."""
    ended: list[str] = []
    caller = Caller(conforming(AppGuard(conforming(routed, []), **OPTIONS), ended))
    replies = [caller.request(method, path) for _ in range(4)]
    assert ended == ["ended"] * 4
    assert {reply.status for reply in replies} <= {200, 401, 403, 404, 429}
    if path in ("/few", "/login", "/routed"):
        assert replies[3].status == 429


@pytest.mark.parametrize("can_deny", [False, True])
@pytest.mark.parametrize("path", ["/", "/few", "/.env", "/routed"])
def test_asgi_websocket(path: str, can_deny: bool) -> None:
    """Handshakes that pass and that are refused end as the specification says, with the denial extension or without."""
    ended: list[str] = []
    caller = Caller(conforming(AppGuard(conforming(routed, []), **OPTIONS), ended))
    for _ in range(4):
        caller.handshake(path, can_deny=can_deny)
    assert ended == ["ended"] * 4


def test_the_checker_checks() -> None:
    """An app that answers twice, or with a header that is no header, does not get through it."""

    async def twice(_: Scope, __: Receive, send: Send) -> None:
        for _number in range(2):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def odd(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Name", b"x")]})

    for app in (twice, odd):
        with pytest.raises(AssertionError):
            asyncio.run(Caller(conforming(app, [])).ask(Caller(app).http()))


def wsgi_shop(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer by the path, as a generator that begins when it is read."""
    if environ["PATH_INFO"] == "/login":
        report_auth_failure(environ, "alice")
        start_response("401 Unauthorized", [("Content-Type", "text/plain")])
    else:
        start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one"
    yield b"two"


def wsgi_list(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer the same as a list."""
    return list(wsgi_shop(environ, start_response))


@pytest.mark.parametrize("inner", [wsgi_shop, wsgi_list, validator(wsgi_list)])
@pytest.mark.parametrize(("method", "path"), [each for each in ASKED if each[0] != "HEAD"])
def test_wsgi(inner: Any, method: str, path: str) -> None:
    """`wsgiref.validate` finds nothing on either side, for lists and generators, passed, refused or replaced."""
    app = validator(WsgiAppGuard(inner, **OPTIONS))
    statuses: list[str] = []
    for _ in range(4):
        environ: dict[str, Any] = WHERE | {"REQUEST_METHOD": method, "PATH_INFO": path}
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO()

        def start_response(status: str, _headers: object, _exc_info: object = None) -> Callable[[bytes], object]:
            statuses.append(status)
            return lambda _data: None

        body = app(environ, start_response)
        whole = b"".join(body)
        body.close()  # type: ignore[attr-defined]
        is_the_apps = statuses[-1].startswith(("200", "401"))
        assert whole == b"onetwo" if is_the_apps else whole and b"one" not in whole
    assert len(statuses) == 4
    expected = {"/few": "429", "/login": "429", "/.env": "403"}.get(path, "200")
    assert statuses[3].startswith(expected)


def test_wsgi_refusal_replaces_no_answer_that_has_begun() -> None:
    """An app that has begun, and fails when a limit at a route refuses it, begins anew by `exc_info`, as its own."""
    begun: list[tuple[str, bool]] = []

    def failing(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        start_response("200 OK", [])
        visit = environ["appguard.visit"]
        if visit.middleware.ask(visit, Limit("1/hour"), "failing", environ):
            try:
                raise RuntimeError("refused")
            except RuntimeError:
                start_response("500 Failed", [], sys.exc_info())
                yield b"failed"
                return
        yield b"done"

    def at_once(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        return list(failing(environ, start_response))

    for inner in (failing, at_once):
        app = WsgiAppGuard(inner, **OPTIONS)
        for whole in (b"done", b"failed"):
            environ: dict[str, Any] = WHERE | {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
            setup_testing_defaults(environ)

            def start_response(status: str, _headers: object, exc_info: object = None) -> Callable[[bytes], object]:
                begun.append((status, exc_info is not None))
                return lambda _data: None

            assert b"".join(app(environ, start_response)) == whole
    assert begun == [("200 OK", False), ("200 OK", False), ("500 Failed", True)] * 2
