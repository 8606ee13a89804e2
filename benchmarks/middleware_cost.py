"""What does AppGuard cost a request, passed or refused, over a bare ASGI app or a bare WSGI app?

Everything runs in this process, without a server: an app that answers at once, called in a loop, with a million bans in
force and the two header fields in every answer. The variants take turns in short rounds, so that all see the same
machine; of each the best round counts, in processor time. Beside them, in the same rounds: a page of FastAPI and one of
Flask, alone, under AppGuard, and under slowapi and Flask-Limiter; and what the `limits` package itself takes for a hit
on its memory storage and for what is left. The environment is one of its own: see middleware_cost.txt. Prints a table
and writes JSON.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Unpack

from fastapi import FastAPI
from flask import Flask
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from starlette.responses import PlainTextResponse

from appguard import AppGuard, Limit
from appguard.address import parse_network
from appguard.asgi import ASGIApp, Message, Receive, Scope, Send
from appguard.ban import Ban
from appguard.config import AppOptions
from appguard.flask import AppGuard as FlaskAppGuard
from appguard.stores.local import Publisher
from appguard.stores.memory import MemoryStore
from appguard.wsgi import AppGuard as WsgiAppGuard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-middleware_cost"  # made by scripts/bench of middleware_cost.txt
RESULT = ROOT / "benchmarks/results/middleware_cost.json"
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"hello"}
HEADERS = [
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef"),
]
MANY = 1_000  # clients that take turns
BANNED = 1_000_000
WIDE = "1000000000/minute"

Round = Callable[[int], Awaitable[None]]


async def bare(_: Scope, __: Receive, send: Send) -> None:
    """Answer."""
    await send(START)
    await send(BODY)


async def book(number: int) -> PlainTextResponse:
    """Answer as the smallest page of FastAPI does."""
    return PlainTextResponse(f"book {number}")


async def receive() -> Message:
    """Give the empty body of a request."""
    return {"type": "http.request"}


async def send(_: Message) -> None:
    """Drop a message."""


def scope(client: str = "203.0.113.5", *headers: tuple[bytes, bytes]) -> Scope:
    """Give the scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/books/17",
        "raw_path": b"/books/17",
        "query_string": b"",
        "root_path": "",
        "headers": [*HEADERS, *headers],
        "client": (client, 4711),
        "server": ("127.0.0.1", 8000),
    }


def bare_wsgi(_: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Answer."""
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"hello"]


def environ(client: str = "203.0.113.5") -> "WSGIEnvironment":
    """Give the environ of a request."""
    headers = {f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode() for name, value in HEADERS}
    server = {"SERVER_NAME": "shop.example", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "SCRIPT_NAME": ""}
    wsgi = {"wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()}
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/books/17", "QUERY_STRING": "", "REMOTE_ADDR": client}
    return {**headers, **server, **wsgi, **request}


def calling_wsgi(app: "WSGIApplication", client: str = "203.0.113.5") -> Round:
    """Give a round that calls a WSGI app, and reads and closes what it gives."""
    one = environ(client)

    def start_response(_: str, __: list[tuple[str, str]], ___: object = None) -> Callable[[bytes], object]:
        return len

    async def calls(times: int) -> None:
        for _ in range(times):
            body = app(dict(one), start_response)
            for _ in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return calls


def calling(app: ASGIApp, *scopes: Scope) -> Round:
    """Give a round that calls an app with these scopes in turn."""

    async def calls(times: int) -> None:
        for number in range(times):
            await app(dict(scopes[number % len(scopes)]), receive, send)

    return calls


def hitting(
    strategy: type[FixedWindowRateLimiter | SlidingWindowCounterRateLimiter],
) -> Round:
    """Give a round of hits of a strategy of `limits`."""
    limiter, rate = strategy(MemoryStorage()), parse(WIDE)

    async def hits(times: int) -> None:
        for _ in range(times):
            limiter.hit(rate, "203.0.113.5")
            limiter.get_window_stats(rate, "203.0.113.5")

    return hits


def fastapi_page(**options: Unpack[AppOptions]) -> FastAPI:
    """Give FastAPI's smallest page, under AppGuard if there are options."""
    page = FastAPI()
    page.add_api_route("/books/{number}", book)
    if options:
        page.add_middleware(AppGuard, **options)
    return page


def flask_book(number: str) -> str:
    """Answer as the smallest page of Flask does."""
    return f"book {number}"


def flask_page(**options: Unpack[AppOptions]) -> Flask:
    """Give Flask's smallest page, under AppGuard if there are options."""
    page = Flask("page")
    page.add_url_rule("/books/<number>", "book", flask_book)
    if options:
        FlaskAppGuard(page, **options)
    return page


def peers() -> dict[str, Round]:
    """Give the same pages under slowapi and Flask-Limiter, which the environment of the other benchmarks has not."""
    slowapi: Any = import_module("slowapi")
    page = fastapi_page()
    page.state.limiter = slowapi.Limiter(
        key_func=import_module("slowapi.util").get_remote_address, default_limits=[WIDE], headers_enabled=True
    )
    page.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)
    limiter: Any = import_module("flask_limiter")
    key = import_module("flask_limiter.util").get_remote_address
    flask = flask_page()
    limiter.Limiter(key, app=flask, default_limits=[WIDE], headers_enabled=True, storage_uri="memory://")
    return {"FastAPI page, slowapi": calling(page, scope()), "Flask page, Flask-Limiter": calling_wsgi(flask)}


def ban_many(app: "AppGuard | WsgiAppGuard", bans: int) -> None:
    """Let the memory store of an app hold so many bans: one under many keys, which a look-up cannot tell."""
    middleware = app._middleware  # pyright: ignore[reportPrivateUsage]
    assert middleware is not None
    store = middleware.store
    assert isinstance(store, MemoryStore)
    ban = Ban(parse_network("198.18.0.1"), "login", time.time(), None, version=1)
    hosts = store._table._hosts  # pyright: ignore[reportPrivateUsage]
    hosts.update(dict.fromkeys(keys_of(bans), ban))


def keys_of(bans: int) -> Iterator[str]:
    """Give addresses, each another one."""
    return (f"{11 + number // 2**24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}" for number in range(bans))


def variants(directory: Path, bans: int) -> dict[str, Round]:
    """Give all that is measured, by name; what is added is told over the bare app of the same kind."""
    log, local = str(directory / "events.jsonl"), f"local://{directory}"
    now = time.time()
    publisher = Publisher(directory)
    publisher.publish_all(Ban(parse_network(key), "login", now, None, version=1) for key in keys_of(bans))
    publisher.close()
    wide = Limit(WIDE)
    more = [Limit(WIDE, path="/books/{number}", name=name) for name in ("second", "third", "fourth")]
    many = [scope(f"192.0.{number // 250}.{number % 250}") for number in range(MANY)]
    forwarded = scope("10.0.0.1", (b"x-forwarded-for", b"192.0.2.7, 203.0.113.5"))

    def asgi(**options: Unpack[AppOptions]) -> AppGuard:
        options["event_log"] = log
        return AppGuard(bare, **options)

    def wsgi(**options: Unpack[AppOptions]) -> WsgiAppGuard:
        options["event_log"] = log
        return WsgiAppGuard(bare_wsgi, **options)

    memory, memory_wsgi = asgi(limits=[wide], store="memory://"), wsgi(limits=[wide], store="memory://")
    for app in (memory, memory_wsgi):
        ban_many(app, bans)
    return {
        "bare ASGI app": calling(bare, scope()),
        "ASGI passed: no limit": calling(asgi(limits=[]), scope()),
        "ASGI passed: one limit": calling(memory, scope()),
        "ASGI passed: one limit, no fields": calling(asgi(limits=[wide], headers="none"), scope()),
        "ASGI passed: one limit, 1,000 clients": calling(asgi(limits=[wide]), *many),
        "ASGI passed: three more": calling(asgi(limits=[wide, *more]), scope()),
        "ASGI passed: a token bucket": calling(asgi(limits=[Limit(WIDE, burst=10**9)]), scope()),
        "ASGI passed: a limit of failures beside it": calling(
            asgi(limits=[wide, Limit("5/minute", count="auth_failure")]), scope()
        ),
        "ASGI passed: by API key": calling(
            asgi(limits=[Limit(WIDE, key="api_key")]), scope("203.0.113.5", (b"x-api-key", b"0123456789abcdef"))
        ),
        "ASGI passed: behind a trusted proxy": calling(asgi(limits=[wide], trusted_proxies=["10.0.0.0/8"]), forwarded),
        "ASGI passed: one limit, local": calling(asgi(limits=[wide], store=local, name="one"), scope()),
        "ASGI passed: three more, local": calling(asgi(limits=[wide, *more], store=local, name="four"), scope()),
        "ASGI refused: over its limit": calling(asgi(limits=["1/day"]), scope()),
        "ASGI refused: over its limit, local": calling(asgi(limits=["1/day"], store=local, name="day"), scope()),
        "ASGI refused: banned, local": calling(asgi(store=local), scope(next(keys_of(1)))),
        "bare WSGI app": calling_wsgi(bare_wsgi),
        "WSGI passed: one limit": calling_wsgi(memory_wsgi),
        "WSGI passed: one limit, local": calling_wsgi(wsgi(limits=[wide], store=local, name="wsgi")),
        "WSGI refused: over its limit": calling_wsgi(wsgi(limits=["1/day"])),
        "FastAPI page": calling(fastapi_page(), scope()),
        "FastAPI page, AppGuard": calling(fastapi_page(limits=[wide], event_log=log), scope()),
        "Flask page": calling_wsgi(flask_page()),
        "Flask page, AppGuard": calling_wsgi(flask_page(limits=[wide], event_log=log)),
        **peers(),
        "limits: fixed window, hit and left": hitting(FixedWindowRateLimiter),
        "limits: sliding window counter, hit and left": hitting(SlidingWindowCounterRateLimiter),
    }


def floor_of(name: str) -> str:
    """Give the name of what a variant is compared with."""
    if name.startswith("limits"):
        return ""
    first = name.partition(" ")[0]
    return f"{first} page" if "page" in name else f"bare {first.removeprefix('bare')} app" if first != "bare" else name


async def best_of(rounds: Mapping[str, Round], number: int, times: int) -> dict[str, float]:
    """Let all take turns; give the microseconds of a call in the best round of each."""
    best = dict.fromkeys(rounds, float("inf"))
    for _ in range(number):
        for name, run in rounds.items():
            begun = time.process_time()
            await run(times)
            best[name] = min(best[name], 1e6 * (time.process_time() - begun) / times)
    return best


def report(best: Mapping[str, float]) -> list[dict[str, object]]:
    """Print the table and give its rows."""
    rows: list[dict[str, object]] = []
    print(f"{'microseconds per request':<48} {'total':>8} {'added':>8} {'of bare':>8}")
    for name, total in best.items():
        floor = best.get(floor_of(name), 0.0)
        row: dict[str, object] = {"name": name, "us": total, "added_us": total - floor}
        rows.append(row)
        ratio = f"{total / floor:8.2f}" if floor else ""
        print(f"  {name:<46} {total:8.2f} {total - floor:8.2f} {ratio}")
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--times", type=int, default=300, help="calls in a round")
    parser.add_argument("--bans", type=int, default=BANNED)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if Path(sys.prefix) != ENVIRONMENT:
        python = ENVIRONMENT / "bin/python"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        os.execve(python, [str(python), *sys.argv], environment)
    with TemporaryDirectory() as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory  # where the tables of local:// lie
        rounds = variants(Path(directory), arguments.bans)
        asyncio.run(best_of(rounds, 1, 1_000))  # fills the memos and uses up the small limits
        rows = report(asyncio.run(best_of(rounds, arguments.rounds, arguments.times)))
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
