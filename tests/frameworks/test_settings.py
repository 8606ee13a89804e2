"""Wrong settings: no constructor raises, the start-up fails with one clear message, or else the first request does."""

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette

from appguard import AppGuard, ConfigError, Jail
from appguard.asgi import ASGIApp, Message
from appguard.config import AppOptions
from tests.frameworks.asgi_client import Caller


def guarded(**options: object) -> ASGIApp:
    """Put AppGuard into an app, with options no type checker has seen."""
    app = Starlette()
    app.add_middleware(AppGuard, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return app


def startup(app: ASGIApp) -> list[Message]:
    """Ask an app to start; give what it answered."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def start() -> None:
        queue: asyncio.Queue[Message] = asyncio.Queue()
        queue.put_nowait({"type": "lifespan.startup"})
        queue.put_nowait({"type": "lifespan.shutdown"})
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, queue.get, send)

    asyncio.run(start())
    return sent


WRONG: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({"limts": []}, ("limts", "did you mean 'limits'")),
    ({"limits": ["5 per fortnight"]}, ("limits", "5 per fortnight", "'5/minute'")),
    ({"limits": "5/minute"}, ("limits", "5/minute", "list")),
    ({"limits": [5]}, ("limits", "5")),
    ({"store": "mysql://localhost"}, ("store", "mysql://localhost", "memory://")),
    ({"store": 5}, ("store", "5")),
    ({"trusted_proxies": ["nginx"]}, ("trusted_proxies", "nginx")),
    ({"trusted_proxies": "127.0.0.1"}, ("trusted_proxies", "127.0.0.1", "list")),
    ({"safelist": ["192.0.2.0/33"]}, ("safelist", "192.0.2.0/33")),
    ({"exempt_paths": ["healthz"]}, ("exempt_paths", "healthz", "'/...'")),
    ({"forwarding_header": "x-real-ip"}, ("forwarding_header", "x-real-ip", "x-forwarded-for")),
    ({"on_store_error": "panic"}, ("on_store_error", "panic", "'local'")),
    ({"enabled": "perhaps"}, ("enabled", "perhaps", "true or false")),
    ({"event_log": ""}, ("event_log", "text")),
    ({"name": None}, ("name",)),
    ({"jails": [Jail("login")], "store": "local:///run/appguard"}, ("jails", "local://", "[jails.NAME]")),
    ({"jails": ["login"]}, ("jails", "login", "Jail(...)")),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_a_wrong_setting_fails_the_start_up(options: dict[str, object], said: tuple[str, ...]) -> None:
    """The server is told that the start-up failed, with a message that names key, value and what is accepted."""
    (message,) = startup(guarded(**options))
    assert message["type"] == "lifespan.startup.failed"
    text = str(message["message"])
    assert text.startswith("AppGuard: ")
    assert "\n" not in text
    for word in said:
        assert word in text


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_without_a_start_up_every_request_raises_it(options: dict[str, object], said: tuple[str, ...]) -> None:
    """Where the server sends no lifespan events, the error comes at the first request, and at the next."""
    caller = Caller(guarded(**options))
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            caller.get()
        for word in said:
            assert word in str(caught.value)


def test_a_wrong_file_or_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where the wrong value stands: in the file, or in the environment."""
    file = tmp_path / "appguard.toml"
    file.write_text("[app]\nlimts = []\n")
    monkeypatch.setenv("APPGUARD_CONFIG", str(file))
    with pytest.raises(ConfigError, match=f"{file}.*limts"):
        Caller(guarded()).get()
    monkeypatch.delenv("APPGUARD_CONFIG")
    monkeypatch.setenv("APPGUARD_STORE", "mysql://")
    with pytest.raises(ConfigError, match="mysql://"):
        Caller(guarded()).get()


def test_right_settings_start() -> None:
    """Every option of the documentation at once is accepted."""
    options: AppOptions = {
        "name": "shop",
        "limits": ["600/minute", "5/second"],
        "jails": [Jail("login", maxretry=5, findtime="10m", bantime="1h")],
        "store": "memory://",
        "counters": "memory://?strategy=moving-window",
        "secret": "only for tests",
        "trusted_proxies": ["127.0.0.1", "10.0.0.0/8", "unix:"],
        "forwarding_header": "x-forwarded-for",
        "safelist": ["192.0.2.0/24"],
        "exempt_paths": ["/healthz"],
        "login_paths": ["login"],
        "event_log": "logger",
        "on_store_error": "local",
        "enabled": True,
        "traps": ["/.env", "/wp-*"],
        "hash_users": True,
        "headers": "both",
        "ban_status": 404,
        "ban_text": "Quote {reference}.",
        "response": lambda _refusal, _request: None,
        "on_limit": print,
        "on_auth_failure": print,
        "on_ban": print,
    }
    assert set(options) == set(AppOptions.__annotations__)
    app = FastAPI()
    app.add_middleware(AppGuard, **options)
    assert [message["type"] for message in startup(app)] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert Caller(app).get().status == 404


class Shop(Flask):
    """A user's own kind of Flask app."""


@pytest.mark.parametrize("app", [Flask("shop"), Shop("shop")])
def test_a_flask_app_is_named_and_the_right_import_given(app: Flask) -> None:
    """AppGuard for ASGI refuses a Flask app at once, also one of the user's own class."""
    with pytest.raises(TypeError, match=r"use `from appguard\.flask import AppGuard`"):
        AppGuard(app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_django_wsgi_app_is_named() -> None:
    """A class of Django's WSGI module is refused with the import for WSGI; Django itself is not needed to see it."""
    handler = type("WSGIHandler", (), {"__module__": "django.core.handlers.wsgi"})
    with pytest.raises(TypeError, match=r"WSGIHandler is a WSGI app.*use `from appguard\.wsgi import AppGuard`"):
        AppGuard(handler())  # pyright: ignore[reportArgumentType]
