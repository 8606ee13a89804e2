"""What AppGuard says at the first requests of settings that do not fit the place: once, with the line to change."""

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from flask import Flask

from appguard import AppGuard
from appguard.flask import AppGuard as FlaskAppGuard
from tests.frameworks.asgi_client import Caller
from tests.frameworks.sites import of_wsgi


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Give the warnings so far."""

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "appguard" and record.levelno == logging.WARNING
        ]

    return messages


def app(**options: object) -> Caller:
    """Give an app behind AppGuard."""
    made = FastAPI()
    made.add_middleware(AppGuard, store="memory://", event_log="logger", **options)  # type: ignore[arg-type]
    return Caller(made)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "10.0.0.0/7", "2000::/3"])
def test_proxies_that_are_everybody(warned: Callable[[], list[str]], network: str) -> None:
    """A network no list of proxies would be is named once, with what it permits."""
    caller = app(trusted_proxies=["127.0.0.1", network])
    caller.statuses(3)
    (message,) = warned()
    assert f"trusted_proxies holds {network}: whoever connects from there may write any address" in message


def test_proxies_of_a_private_network_are_no_reason_to_complain(warned: Callable[[], list[str]]) -> None:
    """10.0.0.0/8 and fc00::/7's usual /48 are lists people write."""
    app(trusted_proxies=["10.0.0.0/8", "fd00:1:2::/48", "unix:"]).statuses(2)
    assert warned() == []


def test_every_client_one_private_address(warned: Callable[[], list[str]]) -> None:
    """When the only client so far is a private address and over its limit, it is probably a silent proxy."""
    caller = app(limits=["2/minute"])
    caller.peer = ("172.17.0.1", 4711)
    assert caller.statuses(5) == [404, 404, 429, 429, 429]
    (message,) = warned()
    assert message.startswith("all requests so far came from 172.17.0.1, and it is over its limit")
    assert 'add trusted_proxies=["172.17.0.1"]' in message


@pytest.mark.parametrize(("first", "second"), [("172.17.0.1", "172.17.0.2"), ("203.0.113.5", "203.0.113.5")])
def test_a_client_among_others_is_over_its_limit(warned: Callable[[], list[str]], first: str, second: str) -> None:
    """Several clients, or a public one, are what a limit is for."""
    caller = app(limits=["2/minute"])
    seen: list[int] = []
    for peer in (second, first, first, first):
        caller.peer = (peer, 4711)
        seen += caller.statuses(1)
    assert seen[-1] == 429
    assert warned() == []


def test_appguard_twice(warned: Callable[[], list[str]]) -> None:
    """One app with two AppGuards says so once; two apps, one mounted in the other, do not."""
    made = FastAPI()
    made.add_middleware(AppGuard, name="shop", store="memory://", event_log="logger")
    made.add_middleware(AppGuard, name="shop", store="memory://", event_log="logger")
    Caller(made).statuses(3)
    assert warned() == [
        "AppGuard protects shop twice, so that every request counts twice: remove one of the two from the app"
    ]


def test_appguard_twice_in_flask(warned: Callable[[], list[str]]) -> None:
    """The same where an extension is given the app and `init_app` is called too."""
    made = Flask("shop")
    FlaskAppGuard(made, store="memory://", event_log="logger").init_app(made)
    of_wsgi(made)()
    assert len(warned()) == 1
    assert warned()[0].startswith("AppGuard protects shop twice")


def test_a_mounted_app_with_a_guard_of_its_own(warned: Callable[[], list[str]]) -> None:
    """Two names are two apps."""
    outer, inner = FastAPI(), FastAPI()
    for made, name in ((outer, "outer"), (inner, "inner")):
        made.add_middleware(AppGuard, name=name, store="memory://", event_log="logger")
    outer.mount("/inner", inner)
    assert Caller(outer).get("/inner/page").status == 404
    assert warned() == []


WORKER = "from appguard.advice import workers_here; import sys; print(workers_here(), flush=True); sys.stdin.read()"
MASTER = """
import subprocess, sys
command = [sys.executable, "-c", sys.argv[2]]
workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(int(sys.argv[1]))]
seen = [worker.stdout.readline().strip() for worker in workers]
for worker in workers:
    worker.communicate()
print(seen[-1].decode())
"""


@pytest.mark.parametrize("number", [1, 3])
def test_workers_are_seen(number: int) -> None:
    """A process that its parent has started several times over knows it; the last one sees all of them."""
    command = [sys.executable, "-c", MASTER, str(number), WORKER]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) == number
