"""What AppGuard opens and when, and that nothing of it stays: in an app, a forked worker, a user's own test suite."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse

from appguard import AppGuard, Jail, Limit, report_auth_failure
from appguard.around import REAL, Around, surround
from appguard.asgi import Message, Receive, Scope, Send
from appguard.stores.memory import MemoryStore
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import ALICE, Caller, EventFile
from tests.frameworks.sites import flask_site
from tests.frameworks.test_settings import startup
from tests.unit.event_lines import received, receiving

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SUITE = Path(__file__).parent / "user_suite"


def opened() -> tuple[list[str], list[str]]:
    """Give what this process has open: the targets of its descriptors, and the names of its threads."""
    gc.collect()  # what other tests left to it
    files = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sorted(file for file in files if "/proc/" not in file), sorted(each.name for each in threading.enumerate())


async def login(request: Request) -> PlainTextResponse:
    """Report a failed login."""
    report_auth_failure(request, user="alice")
    return PlainTextResponse("no", 401)


def shop(**options: str) -> FastAPI:
    """Give an app behind AppGuard."""
    app = FastAPI()
    app.add_api_route("/login", login)
    app.add_middleware(AppGuard, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return app


@pytest.mark.parametrize("event_log", ["{}/events.jsonl", "unix:{}/events.sock", "stderr", "logger"])
@pytest.mark.parametrize("store", ["memory://", "local://{}"])
def test_constructing_opens_nothing(tmp_path: Path, event_log: str, store: str) -> None:
    """No file, socket or thread, and nothing in the file system, until the first request."""
    before = opened()
    app = FastAPI()
    guarded = AppGuard(app, event_log=event_log.format(tmp_path), store=store.format(tmp_path), jails=[Jail("login")])
    assert opened() == before
    assert list(tmp_path.iterdir()) == []
    del guarded


def test_the_end_of_the_lifespan_closes_everything(tmp_path: Path) -> None:
    """After the shutdown no file and no thread is left; a request after it is served all the same."""
    events = EventFile(tmp_path / "events.jsonl")
    app = shop(event_log=str(events), store=f"local://{tmp_path}")
    (tmp_path / "bans").write_bytes(b"appguard-bans 1\n")
    (tmp_path / "bans.seq").write_bytes(bytes(8))
    before = opened()
    assert Caller(app).get("/login").status == 401
    assert opened() != before
    assert [message["type"] for message in startup(app)] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert opened() == before
    assert Caller(app).get("/login").status == 401
    assert len(events.read()) == 2
    startup(app)


def test_a_forgotten_app_is_closed(tmp_path: Path) -> None:
    """An app without a lifespan that is garbage leaves nothing open."""
    before = opened()
    app = shop(event_log=str(tmp_path / "events.jsonl"), store=f"local://{tmp_path}")
    assert Caller(app).get("/login").status == 401
    del app
    assert opened() == before


@pytest.mark.parametrize(
    "event_log", ["{}/missing/events.jsonl", "unix:{}/events.sock", "{}", "/dev/full", "unix:", "unix:{}", "{}/a\0b"]
)
def test_no_sink_fails_a_request(tmp_path: Path, event_log: str) -> None:
    """Whatever is wrong with the event log, the client gets the app's own answer."""
    app = shop(event_log=event_log.format(tmp_path))
    assert Caller(app).statuses(3, path="/login") == [401] * 3


def test_a_forked_worker_writes_its_events(tmp_path: Path) -> None:
    """A server that has already answered and then forks: parent and children log to the same file."""
    code = """
import os, sys
from tests.frameworks.test_resources import Caller, shop
app = shop(event_log=sys.argv[1], store=f"local://{sys.argv[2]}")
assert Caller(app).get("/login").status == 401
for number in range(3):
    child = os.fork()
    if not child:
        os._exit(Caller(app).get("/login").status != 401)
    assert os.waitpid(child, 0)[1] == 0
assert Caller(app).get("/login").status == 401
"""
    events = EventFile(tmp_path / "events.jsonl")
    subprocess.run([sys.executable, "-c", code, str(events), tmp_path], check=True)
    assert [event["source_ip"] for event in events.read()] == [ALICE] * 5


def test_a_users_own_suite_stays_as_clean_as_it_was(tmp_path: Path) -> None:
    """A suite with Starlette's TestClient, with and without its `with` block, passes with every warning an error.

    The suite itself checks that no descriptor and no thread is left; here is checked that its end says nothing.
    """
    command = [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    with receiving(tmp_path / "events.sock") as daemon:
        done = subprocess.run(
            [*command, "-c", SUITE / "pytest.ini", "--rootdir", SUITE, SUITE],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert received(daemon) == "alice"
    assert (done.returncode, done.stdout.splitlines()[-1].split(" in ")[0]) == (0, "13 passed"), done.stdout
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr
    assert EventFile(tmp_path / "events.jsonl").kinds() == ["authn_login_fail"] * 3


def test_the_first_requests_of_two_threads_open_one_store() -> None:
    """Two stores would count twice, and one of them would never be closed."""
    opened_stores: list[MemoryStore] = []
    second = threading.Event()

    def open_store() -> MemoryStore:
        opened_stores.append(MemoryStore())
        if len(opened_stores) > 1:
            second.set()
        second.wait(0.5)  # long enough for the other thread to come here too, were it let in
        return opened_stores[-1]

    surround(Around(open_store=open_store))
    try:
        ask = flask_site(limits=["1/hour"], event_log="logger")
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(ask().status)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        surround(REAL)
    assert len(opened_stores) == 1
    assert sorted(answers) == [200, 429]


class Exchanged:
    """A server's end of one request, which refers to what it has handed to the app."""

    def __init__(self, handed: dict[str, object]) -> None:
        self.handed = handed
        self.sent: list[object] = []

    async def receive(self) -> Message:
        """Give the empty body of a request."""
        return {"type": "http.request"}

    async def send(self, message: Message) -> None:
        """Take a message of ASGI."""
        self.sent.append(message)

    def start_response(self, *beginning: object) -> Callable[[bytes], object]:
        """Take the beginning of an answer of WSGI."""
        self.sent.append(beginning)
        return len


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Switch the collector of garbage off."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_no_request_of_asgi_is_left_to_the_collector(kind: str) -> None:
    """Under load it would come again and again, and walk through all that the app holds."""

    async def home(_scope: Scope, _receive: Receive, send: Send) -> None:
        beginning: Message = {"type": "http.response.start", "status": 200, "headers": []}
        await send(beginning if kind == "http" else {"type": "websocket.accept"})

    guarded = AppGuard(home, limits=["5/hour", Limit("5/hour", count="auth_failure")], store="memory://")
    one = Caller(guarded).http() | {"type": kind}

    async def request() -> ref[Exchanged]:
        exchanged = Exchanged(dict(one))
        await guarded(exchanged.handed, exchanged.receive, exchanged.send)
        assert len(exchanged.sent) == 1
        return ref(exchanged)

    assert asyncio.run(request())() is None


@pytest.mark.usefixtures("without_collector")
def test_no_request_of_wsgi_is_left_to_the_collector() -> None:
    """The same in a thread."""

    def home(_environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        start_response("200 OK", [])
        return [b"home"]

    guarded = WsgiAppGuard(home, limits=["5/hour"], store="memory://")

    def request() -> ref[Exchanged]:
        exchanged = Exchanged({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": ALICE})
        assert [*guarded(exchanged.handed, exchanged.start_response)] == [b"home"]
        return ref(exchanged)

    assert request()() is None
