"""What passes is left alone: streams, files, background tasks, context, cancellation, exceptions, lifespan."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
from fastapi import FastAPI, Request
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from appguard import AppGuard
from appguard.asgi import ASGIApp, Message, Receive, Scope, Send
from appguard.wsgi import AppGuard as WsgiAppGuard
from tests.frameworks.asgi_client import Caller

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

who: ContextVar[str] = ContextVar("who", default="nobody")


def guarded(app: ASGIApp) -> AppGuard:
    """Put AppGuard around an app without options."""
    return AppGuard(app)


async def run(app: ASGIApp, sent: list[Message], received: asyncio.Queue[Message] | None = None) -> None:
    """Send one GET and note each message at the moment it is sent."""
    queue = received or asyncio.Queue[Message]()
    queue.put_nowait({"type": "http.request"})

    async def send(message: Message) -> None:
        sent.append(message)

    await app(Caller(app).http(), queue.get, send)


def test_every_message_is_handed_on_at_once_and_as_it_is() -> None:
    """The server gets the very objects the app sent, each before the app goes on; the start, with what is left."""
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": []},
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body", "body": b"2"},
        {"type": "http.response.trailers", "headers": []},
    ]
    sent: list[Message] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        for number, message in enumerate(messages, start=1):
            await send(message)
            assert len(sent) == number

    asyncio.run(run(guarded(app), sent))
    told = sent.pop(1)
    start = messages.pop(1)
    assert [id(message) for message in sent] == [id(message) for message in messages]
    assert {**told, "headers": []} == start
    assert [name for name, _ in told["headers"]] == [b"ratelimit-policy", b"ratelimit"]


def test_a_stream_is_not_buffered_and_begins_once() -> None:
    """Each chunk is out before the next is made, and there is one start."""
    sent: list[Message] = []
    app = FastAPI()

    async def count() -> AsyncIterator[bytes]:
        for number in range(3):
            assert len(sent) == number + 1  # the start, and a message for each chunk before
            yield b"data: %d\n\n" % number

    @app.get("/")
    async def events() -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return StreamingResponse(count(), media_type="text/event-stream")

    asyncio.run(run(guarded(app), sent))
    assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * 4]


def test_a_file_is_sent_whole(tmp_path: Path) -> None:
    """A FileResponse arrives byte for byte, with one start."""
    content = bytes(range(256)) * 1024
    (tmp_path / "file").write_bytes(content)
    app = FastAPI()

    @app.get("/")
    async def file() -> FileResponse:  # pyright: ignore[reportUnusedFunction]
        return FileResponse(tmp_path / "file")

    sent: list[Message] = []
    asyncio.run(run(guarded(app), sent))
    assert b"".join(message.get("body", b"") for message in sent) == content
    assert [message["type"] for message in sent].count("http.response.start") == 1


def wrap(file: BinaryIO, size: int = 8192) -> FileWrapper:
    """Wrap a file as a server does whose wrapper is no class."""
    return FileWrapper(file, size)


def begin(_status: str, _headers: object, _error: object = None) -> Callable[[bytes], object]:
    """Begin an answer of which nobody asks."""
    return lambda _data: None


@pytest.mark.parametrize("wrapper", [FileWrapper, wrap])
def test_a_wrapper_of_files_may_be_a_class_or_a_function(
    wrapper: Callable[..., Iterable[bytes]], tmp_path: Path
) -> None:
    """A body is handed on as it is, so that a server knows its own wrapper of files, whatever it calls one."""
    (tmp_path / "file").write_bytes(b"abc")
    given: list[Iterable[bytes]] = []

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [])
        is_stream = environ["PATH_INFO"] == "/stream"
        given.append(iter([b"1", b"2"]) if is_stream else environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb")))
        return given[-1]

    site = WsgiAppGuard(app)
    for path, whole in (("/stream", b"12"), ("/file", b"abc")):
        environ: WSGIEnvironment = {"PATH_INFO": path, "REMOTE_ADDR": "203.0.113.5", "wsgi.file_wrapper": wrapper}
        setup_testing_defaults(environ)
        body = site(environ, begin)
        assert body is given[-1]
        assert b"".join(body) == whole
        close: Callable[[], None] = getattr(body, "close", lambda: None)
        close()


def test_a_client_that_leaves_ends_an_endless_stream() -> None:
    """The app hears of the disconnect, and its stream is closed."""
    is_begun, is_closed = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    async def forever() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                is_begun.set()
                await asyncio.sleep(0)
        finally:
            is_closed.set()

    @app.get("/")
    async def ticks() -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return StreamingResponse(forever())

    async def leave() -> None:
        received: asyncio.Queue[Message] = asyncio.Queue()
        task = asyncio.create_task(run(guarded(app), [], received))
        await asyncio.wait_for(is_begun.wait(), 5)
        received.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(task, 5)

    asyncio.run(leave())
    assert is_closed.is_set()


def test_background_tasks_run_after_the_answer() -> None:
    """The whole answer is out before the background task begins."""
    order: list[str] = []
    app = FastAPI()

    @app.get("/")
    async def page() -> Response:  # pyright: ignore[reportUnusedFunction]
        return PlainTextResponse("done", background=BackgroundTask(order.append, "background"))

    async def call() -> None:
        async def send(message: Message) -> None:
            order.append(message["type"])

        queue: asyncio.Queue[Message] = asyncio.Queue()
        queue.put_nowait({"type": "http.request"})
        await guarded(app)(Caller(app).http(), queue.get, send)

    asyncio.run(call())
    assert order == ["http.response.start", "http.response.body", "background"]


def test_a_context_variable_set_in_the_endpoint_is_seen_outside() -> None:
    """AppGuard runs the app in the caller's own context, so what outer middleware reads afterwards is there."""
    app = FastAPI()
    seen: list[str] = []

    @app.get("/")
    async def page() -> None:  # pyright: ignore[reportUnusedFunction]
        who.set("alice")

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await guarded(app)(scope, receive, send)
        seen.append(who.get())

    asyncio.run(run(outer, []))
    assert seen == ["alice"]


def test_cancellation_reaches_the_app_and_comes_back() -> None:
    """A cancelled request is cancelled inside the endpoint, and outside it is still a cancellation."""
    inside: list[str] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        try:
            await receive()
        except asyncio.CancelledError:
            inside.append("cancelled")
            raise

    async def cancel() -> None:
        task = asyncio.create_task(run(guarded(app), []))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert inside == ["cancelled"]


def test_an_exception_of_the_app_comes_out_as_it_is() -> None:
    """The same exception object, not another one raised from it."""
    error = LookupError("the app's own")

    async def app(_: Scope, __: Receive, ___: Send) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        asyncio.run(run(guarded(app), []))
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_exception_of_the_server_reaches_the_app() -> None:
    """What `send` raises when the client is gone is raised in the app, which may handle it."""
    handled: list[str] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 401, "headers": []})
        except OSError as error:
            handled.append(str(error))

    async def gone(_: Message) -> None:
        raise OSError("the client is gone")

    asyncio.run(guarded(app)(Caller(app).http(), asyncio.Queue[Message]().get, gone))
    assert handled == ["the client is gone"]


def lifespan_messages(app: ASGIApp, state: dict[str, object]) -> list[Message]:
    """Start an app and shut it down; give what it answered."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def both() -> None:
        queue: asyncio.Queue[Message] = asyncio.Queue()
        queue.put_nowait({"type": "lifespan.startup"})
        queue.put_nowait({"type": "lifespan.shutdown"})
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}, queue.get, send)

    asyncio.run(both())
    return sent


def test_the_lifespan_and_its_state_pass() -> None:
    """The app starts and ends as without AppGuard, and its requests see the state it made."""
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, str]]:
        steps.append("begin")
        yield {"database": "open"}
        steps.append("end")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def page(request: Request) -> str:  # pyright: ignore[reportUnusedFunction]
        return str(request.state.database)

    app.add_middleware(AppGuard)
    state: dict[str, object] = {}
    assert [message["type"] for message in lifespan_messages(app, state)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert steps == ["begin", "end"]
    assert Caller(app, scope={"state": dict(state)}).get().text == '"open"'


def test_an_app_that_fails_to_start_says_so_itself() -> None:
    """The app's own start-up error passes unchanged."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        raise LookupError("no database")
        yield  # type: ignore[unreachable]  # it makes this a generator

    with pytest.raises(LookupError, match="no database"):
        lifespan_messages(guarded(FastAPI(lifespan=lifespan)), {})


def test_a_scope_of_another_type_is_none_of_its_business() -> None:
    """A scope AppGuard does not know reaches the app as the same objects."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    async def receive() -> Message:
        return {}

    async def send(_: Message) -> None: ...

    scope: Scope = {"type": "future"}
    asyncio.run(guarded(app)(scope, receive, send))
    assert [id(each) for each in seen] == [id(scope), id(receive), id(send)]
    assert scope == {"type": "future"}
