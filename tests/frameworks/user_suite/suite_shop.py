"""The test suite of somebody who uses AppGuard: one app for all tests, one made by each test, TestClient both ways."""

# pyright: reportUnknownMemberType=false
# The type of TestClient is that of httpx2, which few have yet.

import gc
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.testclient import TestClient

from appguard import AppGuard, report_auth_failure

CLIENT = ("203.0.113.5", 4711)
EVENT_LOGS = (f"{Path.cwd()}/events.jsonl", f"unix:{Path.cwd()}/events.sock", "stderr", "logger")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, str]]:
    """Have a state."""
    yield {"shop": "open"}


def make_app(event_log: str) -> FastAPI:
    """Make the app."""
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(AppGuard, event_log=event_log)

    @app.post("/login")
    async def login(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
        report_auth_failure(request, user="alice")
        raise HTTPException(401)

    return app


apps = {event_log: make_app(event_log) for event_log in EVENT_LOGS}


def opened() -> tuple[int, int]:
    """Give the number of open descriptors and of threads."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread behind."""
    before = opened()
    yield
    assert opened() == before


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("event_log", EVENT_LOGS)
def test_with_the_block(event_log: str) -> None:
    """Log in inside the lifespan of an app that all tests share."""
    with TestClient(apps[event_log], client=CLIENT) as client:
        assert client.post("/login").status_code == 401


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("event_log", EVENT_LOGS)
def test_without_the_block(event_log: str) -> None:
    """Log in to an app made for this test."""
    client = TestClient(make_app(event_log), client=CLIENT)
    assert client.post("/login").status_code == 401
    client.close()
    del client


@pytest.mark.usefixtures("nothing_left")
def test_as_the_test_client() -> None:
    """Log in as `testclient`, as most suites do, more often than any limit admits."""
    client = TestClient(make_app(EVENT_LOGS[0]))
    assert {client.post("/login").status_code for _ in range(120)} == {401}
    client.close()
    del client


@pytest.mark.parametrize("event_log", EVENT_LOGS)
def test_the_shared_app_without_the_block(event_log: str) -> None:
    """Leave an app that all tests share with its event log open, to the end of the program."""
    assert TestClient(apps[event_log], client=CLIENT).post("/login").status_code == 401
