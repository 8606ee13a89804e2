"""What does AppGuard cost a request, passed or refused, over a bare ASGI app?

Everything runs in this process, without a server: an app that answers two messages, called in a loop. The variants
take turns in short rounds, so that all see the same machine; of each the best round counts. Beside them, in the same
rounds, what one hit of the `limits` package on its memory storage costs. Prints a table and writes JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from starlette.responses import PlainTextResponse

from appguard import AppGuard, Limit
from appguard.address import parse_network
from appguard.asgi import ASGIApp, Message, Receive, Scope, Send
from appguard.ban import Ban
from appguard.stores.local import Publisher

RESULT = Path(__file__).parent / "results/middleware_cost.json"
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
BANNED = 100_000

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
    limiter, rate = strategy(MemoryStorage()), parse("1000000000/minute")

    async def hits(times: int) -> None:
        for _ in range(times):
            limiter.hit(rate, "203.0.113.5")

    return hits


def variants(directory: Path) -> dict[str, Round]:
    """Give all that is measured, by name; the first is what the others are compared with."""
    log = str(directory / "events.jsonl")
    wide = Limit("1000000000/minute")
    by_path = [Limit("1000000000/minute", path=f"/{name}/{{number}}") for name in ("books", "authors", "orders")]
    now = time.time()
    publisher = Publisher(directory)
    networks = [
        parse_network(f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}") for number in range(BANNED)
    ]
    publisher.publish_all(Ban(network, "login", now, None, version=1) for network in networks)
    publisher.close()
    many = [scope(f"192.0.{number // 250}.{number % 250}") for number in range(MANY)]
    forwarded = scope("10.0.0.1", (b"x-forwarded-for", b"192.0.2.7, 203.0.113.5"))
    local = f"local://{directory}"
    page = FastAPI()
    page.add_api_route("/books/{number}", book)
    return {
        "bare app": calling(bare, scope()),
        "passed: no limit": calling(AppGuard(bare, limits=[], event_log=log), scope()),
        "passed: one limit": calling(AppGuard(bare, limits=[wide], event_log=log), scope()),
        "passed: one limit, 1,000 clients": calling(AppGuard(bare, limits=[wide], event_log=log), *many),
        "passed: three more by path": calling(AppGuard(bare, limits=[wide, *by_path], event_log=log), scope()),
        "passed: a token bucket": calling(
            AppGuard(bare, limits=[Limit("1000000000/minute", burst=10**9)], event_log=log), scope()
        ),
        "passed: a limit of failures beside it": calling(
            AppGuard(bare, limits=[wide, Limit("5/minute", count="auth_failure")], event_log=log), scope()
        ),
        "passed: by API key": calling(
            AppGuard(bare, limits=[Limit("1000000000/minute", key="api_key")], event_log=log),
            scope("203.0.113.5", (b"x-api-key", b"0123456789abcdef")),
        ),
        "passed: behind a trusted proxy": calling(
            AppGuard(bare, limits=[wide], trusted_proxies=["10.0.0.0/8"], event_log=log), forwarded
        ),
        "passed: beside 100,000 published bans": calling(
            AppGuard(bare, limits=[wide], store=local, event_log=log), scope()
        ),
        "passed: three more by path, local": calling(
            AppGuard(bare, limits=[wide, *by_path], store=local, event_log=log), scope()
        ),
        "refused: over its limit": calling(AppGuard(bare, limits=["1/day"], event_log=log), scope()),
        "refused: banned": calling(AppGuard(bare, store=local, event_log=log), scope("198.18.0.9")),
        "for scale: a FastAPI page, no AppGuard": calling(page, scope()),
        "limits: fixed window, a hit": hitting(FixedWindowRateLimiter),
        "limits: sliding window counter, a hit": hitting(SlidingWindowCounterRateLimiter),
    }


async def best_of(rounds: Mapping[str, Round], number: int, times: int) -> dict[str, float]:
    """Let all take turns; give the microseconds of a call in the best round of each."""
    best = dict.fromkeys(rounds, float("inf"))
    for _ in range(number):
        for name, run in rounds.items():
            begun = time.perf_counter()
            await run(times)
            best[name] = min(best[name], 1e6 * (time.perf_counter() - begun) / times)
    return best


def report(best: Mapping[str, float]) -> list[dict[str, object]]:
    """Print the table and give its rows."""
    floor = best["bare app"]
    rows: list[dict[str, object]] = []
    print(f"{'microseconds per request':<41} {'total':>8} {'added':>8} {'of bare':>8}")
    for name, total in best.items():
        added = total - floor if name.startswith(("passed", "refused")) else total
        row: dict[str, object] = {"name": name, "us": total, "added_us": added, "of_bare": total / floor}
        rows.append(row)
        print(f"  {name:<39} {total:8.2f} {added:8.2f} {total / floor:8.2f}")
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--times", type=int, default=20_000, help="calls in a round")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        rounds = variants(Path(directory))
        asyncio.run(best_of(rounds, 1, 1_000))  # fills the memos and uses up the small limits
        rows = report(asyncio.run(best_of(rounds, arguments.rounds, arguments.times)))
    host = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"host": host, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
