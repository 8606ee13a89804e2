"""Reports are notes on the request: on every kind of request, of any value, and never an error of the request."""

import logging

import pytest
from flask import Flask
from flask import request as flask_request
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from appguard.app_events import Exchange
from appguard.proxies import Client
from appguard.report import VISIT, Note, Noted, report_auth_failure, report_auth_success


class DjangoRequest:
    """What a Django request has for us: the environment of WSGI as META."""

    def __init__(self, meta: dict[str, object]) -> None:
        self.META = meta


async def nothing(*_: object) -> None:
    """Stand in for receive and send."""


def test_a_note_stands_on_every_kind_of_request() -> None:
    """Starlette's requests and websockets, ASGI scopes, WSGI environs and Django's requests are understood."""
    heard = Noted()
    http = {"type": "http", VISIT: heard}
    socket = {"type": "websocket", VISIT: heard}
    environ: dict[str, object] = {"REQUEST_METHOD": "POST", VISIT: heard}
    requests = [
        Request(http),
        HTTPConnection(http),
        WebSocket(socket, nothing, nothing),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        http,
        environ,
        DjangoRequest(environ),
    ]
    for number, request in enumerate(requests):
        report_auth_failure(request, user=str(number))
    assert [*heard.notes] == [Note("authn_login_fail", str(number)) for number in range(len(requests))]


def test_a_note_stands_on_flasks_request() -> None:
    """Flask's global `request` is understood inside a request."""
    app = Flask("shop")
    heard = Noted()
    with app.test_request_context("/", environ_overrides={VISIT: heard}):
        report_auth_failure(flask_request, "alice", credential="one")
        report_auth_success(flask_request, "alice")
    assert [*heard.notes] == [Note("authn_login_fail", "alice", "one"), Note("authn_login_success", "alice")]


@pytest.mark.parametrize(
    ("user", "noted"), [(None, ""), (17, "17"), (b"caf\xe9", "caf\ufffd"), (["a"], "['a']"), ("a\nb", "a\nb")]
)
def test_any_value_is_noted_as_text(user: object, noted: str) -> None:
    """What an unchecked body held as a name or a credential raises nothing, now or later."""
    heard = Noted()
    scope = {VISIT: heard}
    report_auth_failure(scope, user, credential=user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert [*heard.notes] == [Note("authn_login_fail", noted, noted)]


@pytest.mark.parametrize("scope", [{}, {VISIT: "text"}])
def test_without_the_middleware_a_report_is_a_warning(
    scope: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """A report that nobody will read says so, and raises nothing."""
    report_auth_success(scope)
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "appguard.report")
    assert "no AppGuard middleware" in record.getMessage()


def test_where_appguard_is_switched_off_a_report_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """Who has switched it off needs no warning at every login."""
    report_auth_success({VISIT: None})
    assert not caplog.records


@pytest.mark.parametrize("what", [None, "request", 5, object()])
def test_what_is_no_request_is_a_mistake_in_the_code(what: object) -> None:
    """The error says what is accepted and what was given."""
    with pytest.raises(TypeError, match=f"expected a Starlette.*not {type(what).__name__}"):
        report_auth_failure(what)


def test_a_note_does_not_show_its_credential() -> None:
    """A note or an exchange that ends up in a traceback or a log carries no password."""
    assert "s3cr3t" not in repr(Note("authn_login_fail", "alice", "s3cr3t"))
    exchange = Exchange(Client(None), "GET", "/", 401, authorization="Basic s3cr3t")
    assert "s3cr3t" not in repr(exchange)
